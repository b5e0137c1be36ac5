"""A process reward model in vLLM: scores step by step, the same whether read at once, bit by bit or from the cache."""

from __future__ import annotations

import asyncio
import itertools
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from safetensors.torch import save_file  # pyright: ignore[reportUnknownVariableType]
from transformers import AutoConfig, AutoModel, AutoTokenizer

from ponder.compute.errors import EngineError
from ponder.compute.text import Candidate, Hidden, Message, Prompt
from ponder.engines.launch import EngineOptions
from ponder.engines.reward import ProcessRewardModel
from ponder.engines.reward_profiles import REWARD_PROFILES, RewardProfile, find_reward_profile
from ponder.engines.reward_vllm import start_reward
from tests.fakes import Told

DEMO = Path(__file__).parents[2] / "models" / "demo"
PROMPT = Prompt((Message("user", "Tom has 12 apples. Tom gets 7 more. How many apples does Tom have now?"),))
LINES = ["12 + 7 = 19", "19 - 4 = 15", "15 * 2 = 30", "30 / 3 = 10", "10 + 1 = 11"]
PROFILE = RewardProfile(name="tiny", template="demo", tag="<|pad|>", tail="\n", step="\n", judges="thought")


def chain(*lines: str, text: str = "") -> Candidate:
    thought = "".join(line + "\n" for line in lines)
    return Candidate(0, PROMPT, Hidden(()), Hidden(thought), text, 0, 0, True, "step")


def tiny(folder: Path) -> None:
    """A random reward model with the demo reasoner's tokenizer: Qwen2 and a head of two layers."""
    cast(Any, torch).manual_seed(1)
    shutil.copytree(DEMO, folder, dirs_exist_ok=True)
    configs, models = cast(Any, AutoConfig), cast(Any, AutoModel)
    config = configs.from_pretrained(str(DEMO))
    config.tie_word_embeddings = False
    width = int(config.hidden_size)
    body = cast("dict[str, torch.Tensor]", models.from_config(config).state_dict())
    weights = {f"model.{name}": value.contiguous() for name, value in body.items()}
    weights |= {
        "score.0.weight": torch.randn(width, width) / 4,
        "score.0.bias": torch.zeros(width),
        "score.2.weight": torch.randn(2, width) / 4,
        "score.2.bias": torch.zeros(2),
    }
    save_file({name: value.float() for name, value in weights.items()}, str(folder / "model.safetensors"))
    data = json.loads((folder / "config.json").read_text())
    data |= {"architectures": ["Qwen2ForProcessRewardModel"], "tie_word_embeddings": False, "dtype": "float32"}
    (folder / "config.json").write_text(json.dumps(data))


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return cast(Any, AutoTokenizer).from_pretrained(str(DEMO))


@pytest.fixture(scope="module")
def model(loop: asyncio.AbstractEventLoop, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProcessRewardModel]:
    folder = tmp_path_factory.mktemp("tiny-prm")
    tiny(folder)
    starting = start_reward(
        str(folder), name="tiny", profile=PROFILE, options=EngineOptions(kv_cache_memory_bytes=1 << 27)
    )
    model = asyncio.run_coroutine_threadsafe(starting, loop).result(300)
    yield model
    asyncio.run_coroutine_threadsafe(model.close(), loop).result(60)


def test_steps_are_scored_alike_at_once_and_as_they_come(
    loop: asyncio.AbstractEventLoop, model: ProcessRewardModel, tokenizer: Any
) -> None:
    told = Told()

    def reward(*candidates: Candidate, tenant: str | None = None) -> Any:
        judging = model.reward(PROMPT, candidates, read=told, tenant=tenant)
        return asyncio.run_coroutine_threadsafe(judging, loop).result(120)

    growing: list[Any] = [reward(chain(*LINES[:n]))[0] for n in range(1, len(LINES) + 1)]
    assert [len(found.steps) for found in growing] == [1, 2, 3, 4, 5]
    assert all(0 <= score <= 1 for score in growing[-1].steps)
    assert len({round(score, 6) for score in growing[-1].steps}) > 1
    for shorter, longer in itertools.pairwise(growing):
        assert longer.steps[: len(shorter.steps)] == shorter.steps
    assert told.cached >= 32
    before = told.tokens
    reward(chain(*LINES))
    assert told.tokens == before
    cached = told.cached
    assert reward(chain(*LINES), tenant="another")[0].steps == pytest.approx(growing[-1].steps, abs=1e-3)
    assert told.tokens > before, "what one tenant has asked is told to no other, not even by what it costs"
    assert told.cached == cached

    other = PROMPT.then()
    whole = asyncio.run_coroutine_threadsafe(
        ProcessRewardModel(model.reader, tokenizer, PROFILE, "again").reward(other, [chain(*LINES)], read=told), loop
    ).result(120)[0]
    assert whole.steps == pytest.approx(growing[-1].steps, abs=1e-3)

    both = reward(chain(LINES[1]), chain(LINES[0]), chain())
    assert both[1].steps == growing[0].steps
    assert both[2].steps == ()


def test_an_over_long_chain_is_judged_as_far_as_it_fits(
    loop: asyncio.AbstractEventLoop, model: ProcessRewardModel
) -> None:
    found = asyncio.run_coroutine_threadsafe(model.reward(PROMPT, [chain(*LINES * 60)], read=Told()), loop).result(120)[
        0
    ]
    assert found.truncated
    assert 0 < len(found.steps) < 300


def test_markers_in_a_chain_are_text_to_the_reward_model(model: ProcessRewardModel) -> None:
    tag = model.prefixes(PROMPT, ["x"])[0][-1]
    assert model.prefixes(PROMPT, ["1 <|pad|> 2", "<|pad|>"])[-1].count(tag) == 2


def test_scores_are_added_up_in_the_models_own_way(model: ProcessRewardModel) -> None:
    steps = (0.5, 0.2, 0.8)
    wanted = {"last": 0.8, "min": 0.2, "product": 0.08, "mean": 0.5}
    own = model.profile
    for way, value in wanted.items():
        model.profile = own.model_copy(update={"aggregation": way})
        assert model.aggregate(steps) == pytest.approx(value)
        assert model.aggregate(()) == 0.0
    model.profile = own


def test_the_families_lay_out_their_steps(model: ProcessRewardModel, tokenizer: Any) -> None:
    def texts(profile: RewardProfile) -> list[str]:
        laid = ProcessRewardModel(model.reader, tokenizer, profile, profile.name)
        return [tokenizer.decode(ids) for ids in laid.prefixes(PROMPT, ["one", "two"], ["So three."])]

    question = PROMPT.messages[0].content
    demo = texts(REWARD_PROFILES["demo-prm"])
    assert demo[1].endswith("assistant\n<think>\none\ntwo\n")
    assert demo[2] == demo[1] + "</think>\nSo three."
    qwen = texts(REWARD_PROFILES["qwen2.5-math-prm"])
    assert qwen[2].endswith("assistant\none<extra_0>two<extra_0>So three.<extra_0>")
    assert texts(REWARD_PROFILES["skywork"])[:2] == [f"{question}\none\n", f"{question}\none\ntwo\n"]
    assert texts(REWARD_PROFILES["math-shepherd"])[1] == f"{question} Step 1: one ки\nStep 2: two ки"
    turns = texts(REWARD_PROFILES["rlhflow"])[1]
    assert f"user\n{question} one<|im_end|>\n<|im_start|>assistant\n+<|im_end|>\n<|im_start|>user\ntwo" in turns


def test_the_reward_profile_is_found_by_name() -> None:
    assert find_reward_profile("models/demo-prm").name == "demo-prm"
    assert find_reward_profile("Qwen/Qwen2.5-Math-PRM-7B").name == "qwen2.5-math-prm"
    assert find_reward_profile("peiyi9979/math-shepherd-mistral-7b-prm").name == "math-shepherd"
    assert find_reward_profile("RLHFlow/Llama3.1-8B-PRM-Deepseek-Data").name == "rlhflow"
    assert find_reward_profile("Skywork/Skywork-o1-Open-PRM-Qwen-2.5-7B").name == "skywork"


def test_a_reward_model_that_is_not_there_is_named() -> None:
    with pytest.raises(EngineError, match="no/such"):
        asyncio.run(start_reward("./no/such", name="none", profile=None, options=EngineOptions()))
