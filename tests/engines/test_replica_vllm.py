"""vLLM's own server, as anybody starts it, with the demo reasoner: what a replica counts is what the server has made,
and what it writes for a seed is what the model writes in this process."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator, Coroutine, Iterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import httpx
import pytest
from pydantic import SecretStr

from ponder.compute.budget import Budget, Reservation, Spending
from ponder.compute.engine import Engine, Grammar, Sampling
from ponder.compute.errors import EngineError, Lost
from ponder.compute.text import Candidate, Message, Prompt
from ponder.compute.transcript import Transcript
from ponder.engines import vllm
from ponder.engines.launch import EngineOptions
from ponder.engines.replicas.connection import Access
from ponder.engines.replicas.metrics import samples
from ponder.engines.replicas.server import VllmServer, open_server
from ponder.testing import check_engine
from tests.engines.vllm_server import vllm_serving

T = TypeVar("T")
DEMO = Path(__file__).parents[2] / "models" / "demo"
KEY = SecretStr("k-of-the-server")
CACHE = 1 << 28
STORY = "Tom has 12 apples. Tom gets 7 more. How many apples does Tom have now?"
PROMPT = Prompt((Message("system", "Be brief. " * 12), Message("user", STORY)))
SCHEMA = json.dumps({"type": "object", "properties": {"n": {"enum": [7, 19]}}, "required": ["n"]})


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Of a server that wants a key, can end calls by name and counts what is cached."""
    flags = {"--served-model-name": "reasoner", "--api-key": KEY.get_secret_value()}
    flags |= {"--kv-cache-memory-bytes": str(CACHE)}
    switches = ("--no-enable-chunked-prefill", "--enable-scale-out", "--enable-prompt-tokens-details")
    with vllm_serving(DEMO, tmp_path_factory.mktemp("vllm") / "log", flags, *switches) as url:
        yield url


async def opened(url: str) -> VllmServer:
    return await open_server(url, str(DEMO), name="demo", access=Access(key=KEY))


@asynccontextmanager
async def replica(url: str) -> AsyncGenerator[VllmServer]:
    made = await opened(url)
    try:
        yield made
    finally:
        await made.close()


def made_by(url: str) -> tuple[int, int]:
    """Tokens that the server says it has made, and read of prompts."""
    found = {name: value for name, _, value in samples(_metrics(url))}
    return int(found["vllm:generation_tokens_total"]), int(found["vllm:prompt_tokens_total"])


def until_idle(url: str) -> None:
    """Returns when it works on nothing."""
    end = time.monotonic() + 30
    while {name: value for name, _, value in samples(_metrics(url))}["vllm:num_requests_running"]:
        assert time.monotonic() < end
        time.sleep(0.05)


def _metrics(url: str) -> str:
    return httpx.get(f"{url}/metrics", timeout=10).text


async def write(
    engine: Engine, sampling: Sampling, begun: Candidate | None = None, *, stop_after: int | None = None
) -> tuple[Candidate, Reservation]:
    spending = Spending(Budget(sampling.thinking + sampling.answer, sampling.answer))
    with spending.reserve("test", thinking=sampling.thinking, answer=sampling.answer) as reservation:
        transcript = Transcript(reservation, PROMPT, begun)
        deltas = 0
        async with aclosing(engine.generate(PROMPT, sampling, transcript)) as stream:
            async for _ in stream:
                deltas += 1
                if deltas == stop_after:
                    break
    assert not reservation.overdrawn
    return transcript.candidate(), reservation


SAMPLINGS = [
    Sampling(200, 60, seed=1),
    Sampling(200, 60, seed=2, temperature=1.5, streamed=True),
    Sampling(7, 60, seed=3, temperature=1.5),
    Sampling(0, 60, seed=4, temperature=1.5, logprobs=5, likelihood=True),
    Sampling(200, 60, seed=5, stop=("box",), logit_bias=((30, 2.0),), presence_penalty=0.5, top_k=40, min_p=0.01),
    Sampling(200, 60, seed=6, grammar=Grammar(SCHEMA)),
]


def test_a_seed_gives_what_it_gives_in_this_process(address: str) -> None:
    """Tokens, likelihoods, log-probabilities and counts, to the last."""

    async def go() -> None:
        options = EngineOptions(dtype="float32", kv_cache_memory_bytes=CACHE, max_model_len=2048, tail_cache=False)
        near = await vllm.start(str(DEMO), name="demo", profile=None, options=options)
        try:
            wanted = [await write(near, sampling) for sampling in SAMPLINGS]
        finally:
            await near.close()
        async with replica(address) as far:
            before = await asyncio.to_thread(made_by, address)
            found = [await write(far, sampling) for sampling in SAMPLINGS]
            after = await asyncio.to_thread(made_by, address)
        for (one, paid), (other, paid_too) in zip(found, wanted, strict=True):
            assert one.ids.unseal() == other.ids.unseal()
            assert (one.text, one.ending, one.hidden, one.visible) == (
                other.text, other.ending, other.hidden, other.visible,
            )  # fmt: skip
            assert one.likelihood.unseal() == pytest.approx(other.likelihood.unseal(), abs=1e-4)
            assert [token.bytes for token in one.logprobs] == [token.bytes for token in other.logprobs]
            assert (paid.prompt, paid.calls) == (paid_too.prompt, paid_too.calls)
        assert json.loads(found[-1][0].text)["n"] in (7, 19)
        assert after[0] - before[0] == sum(paid.tokens for _, paid in found)
        assert after[1] - before[1] == sum(paid.prompt for _, paid in found)
        assert sum(paid.cached for _, paid in found) > 0

    asyncio.run(go())


def test_a_half_written_chain_goes_on_where_it_stands(address: str) -> None:
    async def go() -> None:
        async with replica(address) as engine:
            whole, _ = await write(engine, Sampling(400, 60, temperature=0.0))
            first, _ = await write(engine, Sampling(5, 60, temperature=0.0, unclosed=True))
            assert first.thinking
            rest, _ = await write(engine, Sampling(400, 60, temperature=0.0), first)
            assert rest.ids.unseal() == whole.ids.unseal()
            assert rest.text == whole.text

    asyncio.run(go())


def test_a_chain_that_is_given_up_stops_the_server_and_every_token_is_counted(address: str) -> None:
    async def go() -> None:
        async with replica(address) as engine:
            assert engine.features.aborts
            before, _ = await asyncio.to_thread(made_by, address)
            chain, paid = await write(
                engine, Sampling(0, 1500, seed=1, temperature=2.0, min_p=0.0, streamed=True), stop_after=3
            )
            await asyncio.to_thread(until_idle, address)
            after, _ = await asyncio.to_thread(made_by, address)
            assert chain.ending in ("aborted", "finished")
            # vLLM counts what a step had under way when the call was ended, and nobody is told of that.
            assert paid.tokens <= after - before <= paid.tokens + 2
            assert after - before < 1000

    asyncio.run(go())


def test_the_promises_of_an_engine_hold_over_it(address: str) -> None:
    def make() -> Coroutine[Any, Any, VllmServer]:
        return opened(address)

    check_engine(make)


def test_another_key_and_another_model_are_told(address: str) -> None:
    async def go() -> None:
        with pytest.raises(EngineError, match="wants another key"):
            await open_server(address, str(DEMO), name="demo")
        with pytest.raises(EngineError, match="does not serve other: it has reasoner"):
            await open_server(address, str(DEMO), name="demo", served="other", access=Access(key=KEY))

    asyncio.run(go())


def test_its_load_is_read_and_its_check_counts_a_token(address: str) -> None:
    async def go() -> None:
        async with replica(address) as engine:
            load = await engine.load()
            assert (load.running, load.waiting) == (0, 0)
            assert load.queried >= load.hits > 0
            found = await engine.check()
            assert found is None or found.written == 1
            await engine.health()
        with pytest.raises(Lost):
            await engine.health()

    asyncio.run(go())
