"""Both models in vLLM at once, with prefix caching and chunked prefill: up in a minute, scoring as in transformers."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from ponder.compute.text import Message, Prompt
from ponder.engines.reward import ProcessRewardModel
from ponder.engines.reward_profiles import REWARD_PROFILES
from ponder.models.chains import laid_out
from ponder.models.tokenizer import load

LINES = ["12 + 7 = 19", "19 - 3 = 15", "15 * 2 = 30"]
QUESTION = "Tom has 12 apples. Tom gets 7 more. Tom loses 3. Then the number of apples doubles. How many are there now?"
LONG = [f"The shop opens at {hour} o'clock. " * 90 + QUESTION for hour in range(1, 13)]

SCRIPT = """
import json, sys, time
from dataclasses import replace
from pathlib import Path
from ponder.models.sample import OPTIONS, Ask, Judge, Writer, question as asked
from ponder.models.chains import Chain, read
from ponder.models.tokenizer import load
began = time.monotonic()
demo, prm, questions, lines = Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3]), json.loads(sys.argv[4])
options = replace(OPTIONS, enable_chunked_prefill=True)
tokenizer = load(demo)
writer, judge = Writer(demo, options), Judge(prm, options)
up = time.monotonic() - began
samples = writer.write([Ask(asked(question)) for question in [questions[0]] * 3 + questions], seed=None)
chains = [(questions[0], Chain(lines[:end], None, 0)) for end in range(1, len(lines) + 1)]
chains += [(question, Chain(lines, 30, 0)) for question in questions]
configs = [writer._engine.llm.vllm_config, judge._model.reader._llm.vllm_config]
print(json.dumps({
    "seconds": up,
    "answers": [read(tokenizer, ids).answer for ids in samples],
    "scores": judge.judge(chains + chains),
    "chunked": [config.scheduler_config.enable_chunked_prefill for config in configs],
    "at_a_time": [config.scheduler_config.max_num_batched_tokens for config in configs],
    "cached": [config.cache_config.enable_prefix_caching for config in configs],
    "tokens": sum(len(tokenizer.encode(question).ids) for question in questions),
}))
writer.close()
judge.close()
"""


@pytest.mark.skipif(not importlib.util.find_spec("vllm"), reason="vLLM is not installed")
def test_both_models_run_together_in_vllm_and_the_reward_model_scores_as_in_transformers(demo: Path, demo_prm: Path):
    """With prefix caching and chunked prefill, and more prompts at once than are read in one step."""
    questions = [QUESTION, *LONG]
    ran = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(demo), str(demo_prm), json.dumps(questions), json.dumps(LINES)],
        cwd=demo.parents[1],
        env=os.environ | {"OMP_NUM_THREADS": "1", "VLLM_ENABLE_V1_MULTIPROCESSING": "0"},
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr[-2000:]
    found = json.loads(ran.stdout.strip().splitlines()[-1])
    print(f"both models were up {found['seconds']:.1f} s after the first import")
    assert found["chunked"] == found["cached"] == [True, True]
    assert found["tokens"] > 2 * max(found["at_a_time"])
    assert any(answer is not None for answer in found["answers"][:4])
    whole = dict(zip(questions, transformers_scores(demo_prm, questions), strict=True))
    asked = 2 * [*[QUESTION] * len(LINES), *questions]
    assert len(found["scores"]) == len(asked)
    for question, scores in zip(asked, found["scores"], strict=True):
        assert scores == pytest.approx(whole[question][: len(scores)], abs=1e-2)


def test_the_reward_model_reads_chains_as_it_was_taught(demo_prm: Path):
    laid = ProcessRewardModel(
        None,  # type: ignore[arg-type]
        AutoTokenizer.from_pretrained(demo_prm),
        REWARD_PROFILES["demo-prm"],
        "demo-prm",
    )
    ids, places = laid_out(load(demo_prm), QUESTION, LINES, 30)
    assert len(places) == len(LINES) + 1
    prefixes = laid.prefixes(Prompt((Message("user", QUESTION),)), LINES, ["The answer is \\boxed{30}."])
    assert prefixes == [ids[: at + 1] for at in places]


def transformers_scores(folder: Path, questions: Sequence[str]) -> list[list[float]]:
    """The probability of "good" of each line and of the answer, by transformers' Qwen2 and the score head beside it."""
    import torch
    from safetensors.torch import load_file
    from torch import nn
    from transformers import Qwen2Model

    body = Qwen2Model.from_pretrained(folder, dtype=torch.float32)
    width = body.config.hidden_size
    score = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 2))
    stored = load_file(folder / "model.safetensors")
    score.load_state_dict(
        {name.removeprefix("score."): weight.float() for name, weight in stored.items() if name.startswith("score.")}
    )
    tokenizer = load(folder)
    scores: list[list[float]] = []
    for question in questions:
        ids, places = laid_out(tokenizer, question, LINES, 30)
        with torch.no_grad():
            rows = score(body(torch.tensor([ids])).last_hidden_state).softmax(-1)
        scores.append(rows[0, places, 1].tolist())
    return scores
