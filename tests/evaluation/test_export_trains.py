"""What `ponder export` writes trains: TRL's own trainers read the files and take ten steps with the demo reasoner."""

from __future__ import annotations

import json
import os
import random
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from transformers import AutoTokenizer

from ponder.__main__ import parser
from ponder.compute.text import Prompt
from ponder.engines.launch import read_config
from ponder.engines.model import Model
from ponder.engines.profiles.finding import find
from ponder.models.task import Problem, make, slip
from ponder.server.auth.keys import digest
from ponder.server.settings import KeySettings, Settings
from ponder.testing import Chain, ScriptedEngine
from ponder.testing.scripted import CARD, question
from tests.conformance.environments import made_of
from tests.pages import ROOT
from tests.server.serving import door, serving

HERE = Path(__file__).parent
DEMO = ROOT / "models" / "demo"
QUESTIONS = 12


@pytest.fixture
def problems() -> dict[str, Problem]:
    """Questions of the demo's own task."""
    chance = random.Random(11)
    return {one.question: one for one in (make(chance, "train", 3) for _ in range(QUESTIONS))}


def reasoner(problems: dict[str, Problem]) -> ScriptedEngine:
    """Thinks as the demo reasoner does, within its markers; of each question every other chain slips at its end."""
    tokenizer: Any = AutoTokenizer.from_pretrained(DEMO)  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
    profile = find("demo", read_config(str(DEMO)), (DEMO / "chat_template.jinja").read_text(), tokenizer)
    real = Model(tokenizer, profile, "demo", context=2048, vocabulary_size=1152).card

    def script(prompt: Prompt, thought: str, call: int) -> Chain:
        problem = problems[question(prompt)]
        lines = problem.lines
        if call % 2:
            lines[-1] = slip(random.Random(call), problem, len(lines) - 1, problem.steps[-1].before)
        said = lines[-1].rpartition(" ")[2]
        return Chain("".join(f"{line}\n" for line in lines), f"The answer is \\boxed{{{said}}}.")

    return ScriptedEngine(script, card=replace(CARD, markers=real.markers))


def test_trl_trains_ten_steps_on_what_is_exported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, problems: dict[str, Problem]
) -> None:
    key = KeySettings.model_validate({"name": "ann", "hash": digest("ann"), "scopes": ["infer", "trace", "reveal"]})
    truth = tmp_path / "questions.jsonl"
    lines = [{"question": asked, "answer": problem.answer} for asked, problem in problems.items()]
    truth.write_text("".join(json.dumps(one) + "\n" for one in lines))
    monkeypatch.setenv("PONDER_API_KEY", "ann")
    with serving(door(reasoner(problems), Settings(keys=[key], retain_text=True))) as place:
        for asked in problems:
            body = {
                "model": "demo",
                "messages": [{"role": "user", "content": asked}],
                "strategy": {"name": "majority_vote", "n": 4, "first": 4, "confidence": 1},
                "thinking_budget": 4000,
            }
            headers = {"authorization": "Bearer ann"}
            answer = httpx.post(f"{place.url}/v1/chat/completions", json=body, headers=headers, timeout=60)
            assert answer.status_code == 200, answer.text
        for kind, *words in (("sft", "--every-chain", "--right"), ("preferences",), ("prompts",)):
            out = str(tmp_path / f"{kind}.jsonl")
            command = ["export", kind, *words, "-o", out, "--url", place.url, "--truth", str(truth)]
            options = parser(command).parse_args(command)
            assert options.command(options) == 0

    told = trained(tmp_path)
    asked = next(one for one in problems if one in told["whole"])
    thought = "\n".join(problems[asked].lines)
    written = f"{thought}\n</think>\nThe answer is \\boxed{{{problems[asked].answer}}}."
    # What is learned is the chain as the demo writes it, thought and all, and nothing of the prompt.
    assert told["learned"].startswith(f"<think>\n{written}<|im_end|>")
    assert told["whole"].startswith(
        f"<|im_start|>user\n{asked}<|im_end|>\n<|im_start|>assistant\n<think>\n{written}<|im_end|>"
    )
    assert told["conversational"]
    assert len(told["sft"]) == len(told["dpo"]) == 10
    assert told["sft"][-1] < told["sft"][0]
    assert told["margins"][-1] > told["margins"][0]
    assert told["is_a_prompt"]
    assert told["prompts"]["answer"] == str(problems[told["prompts"]["prompt"][0]["content"]].answer)


def trained(folder: Path) -> dict[str, Any]:
    """What the trainers tell, in an environment of their own."""
    python = made_of(HERE / "trl.txt", "trl") / "bin" / "python"
    environ = os.environ | {"HF_HUB_OFFLINE": "1", "TRL_EXPERIMENTAL_SILENCE": "1", "TOKENIZERS_PARALLELISM": "false"}
    # Compiled, its modules are in the environment from the first time on.
    environ = {name: value for name, value in environ.items() if name not in ("PYTHONPATH", "PYTHONDONTWRITEBYTECODE")}
    words = [str(python), str(HERE / "trl_training.py"), str(DEMO), str(folder)]
    ran = subprocess.run(words, env=environ, cwd=folder, capture_output=True, text=True, timeout=500, check=False)
    assert ran.returncode == 0, ran.stderr[-4000:]
    return json.loads(ran.stdout.splitlines()[-1])
