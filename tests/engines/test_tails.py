"""The tail cache on the real engine: of a chain that is continued nothing is read twice, and nothing of it is wrong."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncGenerator, Coroutine, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar

import pytest
from vllm.distributed.kv_transfer.kv_connector.v1.base import KVConnectorRole
from vllm.inputs import TokensPrompt
from vllm.sampling_params import RequestOutputKind, SamplingParams

from ponder.compute.text import Message, Prompt
from ponder.engines import vllm
from ponder.engines.launch import EngineOptions, metrics_text
from ponder.engines.tails import SHARE, TailCache
from ponder.engines.vllm import VllmEngine

T = TypeVar("T")
DEMO = Path(__file__).parents[2] / "models" / "demo"
BLOCK = 32
EXACT = EngineOptions(dtype="float32", kv_cache_memory_bytes=1 << 26)
"""In bfloat16 a processor with AMX rounds a prompt that is read whole in another way than one read in parts."""
numbers = itertools.count()


@asynccontextmanager
async def started(options: EngineOptions) -> AsyncGenerator[VllmEngine]:
    engine = await vllm.start(str(DEMO), name=f"tails-{next(numbers)}", profile=None, options=options)
    try:
        yield engine
    finally:
        await engine.close()


def do(loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, T]) -> T:
    return asyncio.run_coroutine_threadsafe(work, loop).result(timeout=300)


@pytest.fixture(scope="module")
def engine(loop: asyncio.AbstractEventLoop) -> Iterator[VllmEngine]:
    engine = started(EXACT)
    yield do(loop, engine.__aenter__())
    do(loop, engine.__aexit__(None, None, None))


@pytest.fixture(scope="module")
def without(loop: asyncio.AbstractEventLoop) -> Iterator[VllmEngine]:
    engine = started(replace(EXACT, tail_cache=False))
    yield do(loop, engine.__aenter__())
    do(loop, engine.__aexit__(None, None, None))


async def draw(
    engine: VllmEngine, ids: list[int], n: int, salt: str | None = None, **wishes: Any
) -> tuple[list[int], list[float], int]:
    """The likeliest `n` tokens after `ids`, their log-probabilities, and how many of `ids` were not read."""
    params = SamplingParams(
        temperature=0.0, max_tokens=n, logprobs=0, output_kind=RequestOutputKind.FINAL_ONLY, ignore_eos=True, **wishes
    )
    prompt = TokensPrompt(prompt_token_ids=ids)
    if salt is not None:
        prompt["cache_salt"] = salt
    async for out in engine.llm.generate(prompt, params, f"tails-{next(numbers)}"):
        (completion,) = out.outputs
        drawn = list(completion.token_ids)
        sure = [step[token].logprob for step, token in zip(completion.logprobs, drawn, strict=True)]
        return drawn, sure, int(out.num_cached_tokens or 0)
    raise AssertionError("no output")


def question(engine: VllmEngine, text: str) -> list[int]:
    return list(engine.model.prompts.render(Prompt((Message("user", text),)), thinking=True).ids)


def test_a_chain_goes_on_from_its_last_token_at_any_place_in_a_block(
    loop: asyncio.AbstractEventLoop, engine: VllmEngine, without: VllmEngine
) -> None:
    async def grown(engine: VllmEngine, step: int, text: str) -> tuple[list[int], list[float], list[int]]:
        ids = question(engine, text)
        sure: list[float] = []
        again: list[int] = []
        for _ in range(60 // step):
            more, told, cached = await draw(engine, ids, step)
            again.append(len(ids) - cached)
            ids = ids + more
            sure += told
        return ids, sure, again

    for step in (1, 3, 9, 20):
        text = f"Tom has {step} apples. Tom gets 7 more. How many apples does Tom have now?"
        ids, sure, again = do(loop, grown(engine, step, text))
        plain, surely, plainly = do(loop, grown(without, step, text))
        assert again[1:] == [1] * (len(again) - 1)
        assert max(plainly[1:]) > 1
        assert ids == plain
        assert sure == pytest.approx(surely, abs=1e-3)


def test_branches_go_on_from_one_tail_each_in_a_block_of_its_own(
    loop: asyncio.AbstractEventLoop, engine: VllmEngine, without: VllmEngine
) -> None:
    """What one branch writes into its block is not seen by the others, nor by those that come later."""
    ids = question(engine, "Ann has 40 pens. Ann gives away 15 pens. How many pens does Ann have now?")
    tokens = range(20, 36)

    async def branched(engine: VllmEngine) -> list[tuple[list[int], list[float], int]]:
        parent, _, _ = await draw(engine, ids, 7)
        begun = ids + parent

        async def branch(token: int) -> tuple[list[int], list[float], int]:
            return await draw(engine, [*begun, token], 20)

        first = await asyncio.gather(*map(branch, tokens))
        return [*first, *[await branch(token) for token in tokens]]

    ours, plain = do(loop, branched(engine)), do(loop, branched(without))
    assert all(cached == len(ids) + 7 - 1 for _, _, cached in ours[: len(tokens)])
    for (drawn, sure, _), (plainly, surely, _) in zip(ours, plain, strict=True):
        assert drawn == plainly
        assert sure == pytest.approx(surely, abs=1e-3)


def test_a_tail_is_kept_for_its_tenant_alone(loop: asyncio.AbstractEventLoop, engine: VllmEngine) -> None:
    for length in (BLOCK // 2, BLOCK + BLOCK // 2):
        ids = [5 + i % 60 for i in range(length)]
        more, _, _ = do(loop, draw(engine, ids, 4, salt="a"))
        begun = ids + more
        assert do(loop, draw(engine, begun, 1, salt="b"))[2] == 0
        assert do(loop, draw(engine, begun, 1))[2] == 0
        assert do(loop, draw(engine, begun, 1, salt="a"))[2] == len(begun) - 1


def test_a_chain_that_its_own_end_of_turn_has_ended_is_not_kept(
    loop: asyncio.AbstractEventLoop, engine: VllmEngine
) -> None:
    async def story() -> int:
        ids = question(engine, "Sam has 6 boxes with 7 books each. How many books does Sam have?")
        params = SamplingParams(temperature=0.0, max_tokens=256, output_kind=RequestOutputKind.FINAL_ONLY)
        async for out in engine.llm.generate(TokensPrompt(prompt_token_ids=ids), params, "whole"):
            assert out.outputs[0].finish_reason == "stop"
            ids += list(out.outputs[0].token_ids)
        if len(ids) % BLOCK < 2:
            ids += [9, 9]
        return (await draw(engine, ids, 1))[2]

    assert do(loop, story()) % BLOCK == 0


def test_it_stands_aside_where_not_all_layers_attend_to_everything() -> None:
    """Such a model's cache is in several groups, and its blocks are not named one by one."""
    config: Any = SimpleNamespace(kv_transfer_config=object(), scheduler_config=SimpleNamespace(max_num_seqs=8))
    cache: Any = SimpleNamespace(kv_cache_groups=[SimpleNamespace(kv_cache_spec=None)] * 2, num_blocks=1000)
    tails = TailCache(config, KVConnectorRole.SCHEDULER, cache)
    request: Any = SimpleNamespace(block_hashes=[], num_tokens=90, num_computed_tokens=80, mm_features=[])
    request.lora_request = request.prompt_embeds = request.pooling_params = None
    assert tails.request_finished_all_groups(request, ([1, 2, 3], [4, 5, 6])) == (False, None)
    assert tails.get_num_new_matched_tokens(request, 64) == (0, False)
    assert not tails.build_connector_meta(None).pairs


def test_kept_tails_give_way_and_hold_a_small_part_of_the_cache(loop: asyncio.AbstractEventLoop) -> None:
    """Of far more chains than there is room for, all are written and the latest are still there."""

    def used(name: str) -> float:
        series = f'vllm:kv_cache_usage_perc{{engine="0",model_name="{name}"}} '
        lines = metrics_text().decode().splitlines()
        return next(float(line.removeprefix(series)) for line in lines if line.startswith(series))

    async def many() -> None:
        async with started(EngineOptions(kv_cache_memory_bytes=1 << 24, max_model_len=256)) as engine:
            blocks = int(engine.llm.vllm_config.cache_config.num_gpu_blocks)
            chains = [[5 + (i * 7 + k * k) % 60 for k in range(40)] + [5 + i % 60, 5 + i // 60] for i in range(blocks)]
            grown: list[list[int]] = []
            for at in range(0, blocks, 64):
                some = chains[at : at + 64]
                drawn = await asyncio.gather(*(draw(engine, ids, 9) for ids in some))
                grown += [ids + tokens for ids, (tokens, _, _) in zip(some, drawn, strict=True)]
            assert [len(ids) for ids in grown] == [51] * blocks
            cached = {i: (await draw(engine, grown[i], 1))[2] for i in (blocks - 1, blocks - 2, 0)}
            assert cached.pop(0) < 50
            assert set(cached.values()) == {50}
            assert used(engine.card.name) <= 1 / SHARE + 4 / blocks

    do(loop, many())
