"""A vLLM server by its address, over real HTTP with a scripted model: what is asked, what is counted, how it ends."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, aclosing
from dataclasses import replace
from functools import partial
from typing import Any, cast

import pytest
from aiohttp import web
from pydantic import SecretStr

from ponder.compute.budget import Budget, Reservation, Spending
from ponder.compute.engine import Engine, Grammar, Sampling
from ponder.compute.errors import EngineError, Lost, RequestError
from ponder.compute.text import Candidate, Message, Prompt
from ponder.compute.transcript import Transcript
from ponder.engines.held_grammars import Held
from ponder.engines.profiles import PROFILES
from ponder.engines.replicas.circles import circles
from ponder.engines.replicas.connection import Access, address
from ponder.engines.replicas.replica import Load, Replica
from ponder.engines.replicas.server import UNSEEN, connect
from ponder.strategies import STRATEGIES
from ponder.testing import Case, ScriptedEngine, ScriptedRewards, Setting, check_engine
from tests.engines.scripted_server import ScriptedServer, Served, known_of, replica
from tests.engines.scripted_vllm import FAMILIES, Nature, ScriptedVllm
from tests.engines.scripted_vllm import engine as in_process
from tests.test_mechanism_promises import SMALL

ASKED = Prompt((Message("user", "How many apples are 3 and 4?"),))


def model(**more: Any) -> ScriptedVllm:
    return ScriptedVllm(FAMILIES["ids"], Nature(), **more)


async def write(
    engine: Engine, sampling: Sampling, begun: Candidate | None = None, *, stop_after: int | None = None
) -> tuple[Candidate, Reservation, str]:
    """One chain, what pays for it, and what was streamed."""
    spending = Spending(Budget(sampling.thinking + sampling.answer, sampling.answer))
    with spending.reserve("test", thinking=sampling.thinking, answer=sampling.answer) as reservation:
        transcript = Transcript(reservation, ASKED, begun)
        said, deltas = "", 0
        async with aclosing(engine.generate(ASKED, sampling, transcript)) as stream:
            async for delta in stream:
                said, deltas = said + delta.text, deltas + 1
                if deltas == stop_after:
                    break
    assert not reservation.overdrawn
    return transcript.candidate(), reservation, said


# -- the promises ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale_out", [False, True], ids=["plain", "ends calls by name"])
def test_it_keeps_the_promises_of_an_engine(scale_out: bool) -> None:
    # The chain with the seed 7 is the one in whose middle the server vanishes.
    server = ScriptedServer(model(), scale_out=scale_out, pace=lambda asked: 0.02 if asked.get("seed") == 7 else 0.0)

    async def make() -> Served:
        stack = AsyncExitStack()
        made = await stack.enter_async_context(replica(server))
        made.stack = stack
        assert isinstance(made, Replica)
        return made

    check_engine(make, prompt=ASKED, vanish=lambda _: server.vanish())


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_strategies_keep_their_budgets_over_http_and_every_token_is_counted(strategy: str) -> None:
    async def go() -> None:
        for family in ("ids", "text", "channels"):
            llm = ScriptedVllm(FAMILIES[family], Nature(), portions=(2, 3, 5))
            async with replica(ScriptedServer(llm, scale_out=True)) as engine:
                for budget in (0, 21, 377):
                    setting = Setting(partial(STRATEGIES[strategy], **SMALL.get(strategy, {})), name=strategy)
                    rewards = ScriptedRewards(lambda line: 0.5)
                    one = Case(setting, Budget(budget, 60), cast(ScriptedEngine, engine), rewards=rewards)
                    llm.made = 0
                    one.check(await one.run())

    asyncio.run(go())


@pytest.mark.parametrize("family", FAMILIES)
def test_a_chain_is_the_one_that_the_same_model_writes_in_this_process(family: str) -> None:
    samplings = [
        Sampling(0, 40),
        Sampling(200, 40, streamed=True),
        Sampling(9, 40, streamed=True),
        Sampling(200, 40, likelihood=True, logprobs=2),
        Sampling(200, 40, stop=("is",)),
        Sampling(30, 0 if PROFILES["demo"].thinks else 9, until="\n"),
        Sampling(200, 1, tight=True),
    ]

    async def go() -> None:
        near = in_process(ScriptedVllm(FAMILIES[family], Nature()))
        llm = ScriptedVllm(FAMILIES[family], Nature())
        async with replica(ScriptedServer(llm, scale_out=True)) as far:
            for sampling in samplings:
                if not near.card.thinks and sampling.until:
                    continue
                wanted, paid, said = await write(near, sampling)
                found, paid_too, said_too = await write(far, sampling)
                assert found.ids.unseal() == wanted.ids.unseal()
                assert (found.text, found.thought.unseal(), found.ending) == (
                    wanted.text, wanted.thought.unseal(), wanted.ending,
                )  # fmt: skip
                # Of a call that is given up, more may be under way over HTTP; it is counted.
                assert (found.hidden >= wanted.hidden, found.visible) == (True, wanted.visible)
                assert paid_too.tokens == llm.made
                llm.made = 0
                assert found.likelihood.unseal() == wanted.likelihood.unseal()
                assert found.logprobs == wanted.logprobs
                assert said_too == said
                assert (paid_too.prompt, paid_too.calls) == (paid.prompt, paid.calls)

    asyncio.run(go())


# -- what is asked and counted -----------------------------------------------------------------------------------------


def test_all_that_the_server_would_take_from_the_models_files_is_said() -> None:
    async def go() -> None:
        server = ScriptedServer(model())
        async with replica(server) as engine:
            server.bodies.clear()
            await write(engine, Sampling(200, 40, seed=5, tenant="a key", temperature=0.5, logprobs=3, stop=("x",)))
            thought, answer = server.bodies
            for one in (thought, answer):
                assert (one["temperature"], one["top_p"], one["top_k"], one["repetition_penalty"]) == (0.5, 1.0, 0, 1.0)
                assert one["cache_salt"] == "a key"
                assert one["stream_options"] == {"include_usage": True}
                assert one["return_token_ids"] is True
            assert (thought["seed"], answer["seed"]) == (5, 6)
            assert "logprobs" not in thought
            assert "stop" not in thought
            assert (answer["logprobs"], answer["stop"]) == (3, ["x"])
            assert answer["prompt"][: len(thought["prompt"])] == thought["prompt"]
            assert thought["stream_interval"] == UNSEEN

    asyncio.run(go())


def test_what_was_cached_is_counted_where_the_server_says_it() -> None:
    class Cached(ScriptedVllm):
        async def add_request(self, number: str, inputs: Any, params: Any) -> Any:
            call = await super().add_request(number, inputs, params)
            output = call.output

            def told(size: int, reason: str | None) -> Any:
                made = output(size, reason)
                made.num_cached_tokens = 7
                return made

            call.output = told  # pyright: ignore[reportAttributeAccessIssue]
            return call

    async def go(counts: bool) -> tuple[int, int]:
        server = ScriptedServer(Cached(FAMILIES["ids"], Nature()), counts_cached=counts)
        async with replica(server) as engine:
            _, paid, _ = await write(engine, Sampling(0, 40))
            return paid.prompt, paid.cached

    prompt, cached = asyncio.run(go(True))
    assert cached == 7
    assert asyncio.run(go(False)) == (prompt, 0)


def test_a_call_that_the_server_ends_early_is_gone_on_with() -> None:
    async def go() -> None:
        server = ScriptedServer(model(), most_tokens=4)
        async with replica(server) as engine:
            found, paid, _ = await write(engine, Sampling(200, 40))
            assert found.ending in ("finished", "length")
            assert paid.tokens == server.llm.made
            assert paid.calls > 5

    asyncio.run(go())


def test_a_chain_that_is_given_up_stops_the_model_and_what_came_is_counted() -> None:
    async def go(scale_out: bool) -> None:
        llm, begun = ScriptedVllm(FAMILIES["ids"], Nature(lines=300), portions=(1,)), asyncio.Event()

        def pace(asked: dict[str, Any]) -> float:
            begun.set()
            return 0.001

        async with replica(ScriptedServer(llm, scale_out=scale_out, pace=pace)) as engine:
            task = asyncio.create_task(write(engine, Sampling(1500, 40)))
            await begun.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            for _ in range(200):
                if not llm.running:
                    break
                await asyncio.sleep(0.01)
            assert not llm.running
            assert llm.made < 200

    asyncio.run(go(False))
    asyncio.run(go(True))


def test_a_server_that_ends_calls_by_name_tells_every_token_of_one_that_is_given_up() -> None:
    async def go() -> None:
        llm = ScriptedVllm(FAMILIES["ids"], Nature(lines=300), portions=(3,))
        server = ScriptedServer(llm, scale_out=True)
        async with replica(server) as engine:
            for deltas in (1, 2):
                llm.made = 0
                chain, paid, _ = await write(engine, Sampling(0, 400, streamed=True), stop_after=deltas)
                assert paid.tokens == llm.made
                assert chain.ending == "aborted"
            assert server.ids[-1].startswith("local_")

    asyncio.run(go())


@pytest.mark.parametrize("scale_out", [False, True])
def test_a_chain_is_marked_where_the_end_of_a_call_was_not_seen(scale_out: bool) -> None:
    async def go() -> None:
        llm = ScriptedVllm(FAMILIES["ids"], Nature(lines=300), portions=(3,))
        server = ScriptedServer(llm, scale_out=scale_out)
        async with replica(server) as engine:
            _, paid, _ = await write(engine, Sampling(200, 40))
            assert not paid.unseen
            # What is given up tells its last tokens only where it can be ended by its name.
            _, paid, _ = await write(engine, Sampling(0, 400, streamed=True), stop_after=1)
            assert paid.unseen is not scale_out
            spending = Spending(Budget(400, 400))
            with spending.reserve("test", thinking=0, answer=400) as paid:
                transcript = Transcript(paid, ASKED)
                async with aclosing(engine.generate(ASKED, Sampling(0, 400, streamed=True), transcript)) as stream:
                    await anext(stream)
                    server.vanish()
                    with pytest.raises(Lost):
                        _ = [delta async for delta in stream]
            assert paid.unseen
            assert spending.spent.unseen_calls == 1

    asyncio.run(go())


@pytest.mark.parametrize("status", [400, 401, 429, 503])
def test_a_call_that_a_server_refuses_made_nothing_and_is_not_marked(status: int) -> None:
    async def go() -> None:
        server = ScriptedServer(model())
        async with replica(server) as engine:
            server.answer = refuses(status)
            with Spending(Budget(9, 9)).reserve("test", thinking=0, answer=9) as paid:
                stream = engine.generate(ASKED, Sampling(0, 9), Transcript(paid, ASKED))
                with pytest.raises(RequestError if status == 400 else EngineError):
                    _ = [delta async for delta in stream]
                assert not paid.unseen

    asyncio.run(go())


def refuses(status: int) -> Callable[[web.Request], Awaitable[web.StreamResponse | None]]:
    async def answer(request: web.Request) -> web.StreamResponse:
        return web.Response(status=status)

    return answer


def test_a_chain_in_circles_is_ended_at_this_end() -> None:
    llm = ScriptedVllm(FAMILIES["ids"], Nature("forgotten"), portions=(5,))

    async def go() -> None:
        async with replica(ScriptedServer(llm)) as engine:
            chain, paid, _ = await write(engine, Sampling(1800, 40))
            assert chain.circled
            assert chain.forced
            assert 512 <= chain.hidden < 512 + 200
            assert chain.text
            assert paid.tokens <= llm.made

    asyncio.run(go())


def test_circles_are_what_the_engine_of_this_process_takes_for_some() -> None:
    scheduling = pytest.importorskip("ponder.engines.scheduling")
    params = pytest.importorskip("vllm.sampling_params").RepetitionDetectionParams
    from ponder.engines.vllm_calls import REPETITION

    pattern = params(**REPETITION)
    for period in (1, 2, 7, 64, 127, 128, 129, 200, 511, 512, 513, 600):
        for length in (200, 511, 512, 513, 800, 2048, 2600):
            for broken in (None, 3, 300, 700):
                ids = [i % period for i in range(length)]
                if broken is not None and broken < length:
                    ids[-broken] = 9999
                assert circles(ids[-2048:]) == scheduling.circles(ids, length, pattern), (period, length, broken)


def test_an_answer_that_is_held_to_a_schema_takes_one_call_and_is_not_gone_on_with() -> None:
    async def go() -> None:
        server = ScriptedServer(model())
        async with replica(server) as engine:

            class Given:
                async def held(self, grammar: Grammar, tenant: str | None) -> Held:
                    return Held("grammar", "root ::= ...")

                def close(self) -> None: ...

            engine.known.grammars = cast(Any, Given())
            sampling = Sampling(200, 40, grammar=Grammar(), seed=1)
            server.bodies.clear()
            await write(engine, sampling)
            held = [one.get("structured_outputs") for one in server.bodies]
            assert held == [None, {"grammar": "root ::= ..."}]
            begun, _, _ = await write(engine, replace(sampling, answer=2))
            with pytest.raises(EngineError, match="--scheduler-cls"):
                await write(engine, sampling, begun)

    asyncio.run(go())


def test_without_xgrammar_a_schema_is_refused_and_that_says_what_to_install() -> None:
    async def go() -> None:
        async with replica(ScriptedServer(model())) as engine:
            engine.known.grammars = None
            with pytest.raises(RequestError, match="pip install --no-deps xgrammar"):
                await engine.accept(Sampling(9, 9, grammar=Grammar()))

    asyncio.run(go())


# -- at the start ------------------------------------------------------------------------------------------------------


async def refusal(server: ScriptedServer, *, key: str = "", served: str | None = None) -> str:
    """Why a server cannot be used."""
    async with server.serving() as url:
        known = known_of(server.llm, FAMILIES["ids"])
        with pytest.raises(EngineError) as raised:
            await connect(url, known, access=Access(key=SecretStr(key) if key else None), served=served)
        assert url in raised.value.message
        return raised.value.message


def test_what_a_server_cannot_do_is_said_at_the_start(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, logger="ponder")

    async def go() -> None:
        server = ScriptedServer(model(), counts_cached=False, most_logprobs=5)
        server.metrics = server.metrics.replace("True", "False")
        async with replica(server) as engine:
            assert engine.features.logprobs == 5
            assert engine.features.context == 2048
            with pytest.raises(RequestError, match="at most 5"):
                await engine.accept(Sampling(0, 9, logprobs=6))

    asyncio.run(go())
    for flag in (
        "--enable-prompt-tokens-details", "--max-logprobs 20", "--enable-prefix-caching", "--enable-scale-out",
        "--scheduler-cls",
    ):  # fmt: skip
        assert flag in caplog.text


def test_a_server_that_cannot_be_used_is_refused_in_plain_words() -> None:
    assert "does not tell token ids: 0.10.2 or newer" in asyncio.run(
        refusal(ScriptedServer(model(), tells_ids=False, version="0.9.1"))
    )
    assert "wants another key" in asyncio.run(refusal(ScriptedServer(model(), key="secret"), key="other"))
    assert "does not serve other: it has demo" in asyncio.run(refusal(ScriptedServer(model()), served="other"))


def test_a_server_of_another_tokenizer_is_refused() -> None:
    class Other(ScriptedServer):
        async def _trial(self, response: Any, asked: Any, ids: list[int], made: list[int]) -> None:
            await super()._trial(response, asked, [*ids[:-1], 0], made)

    assert "another tokenizer than that of the model" in asyncio.run(refusal(Other(model())))


def test_the_key_is_sent_and_its_health_and_its_load_are_read() -> None:
    async def go() -> None:
        server = ScriptedServer(model(), key="secret")
        async with server.serving() as url:
            known = known_of(server.llm, FAMILIES["ids"])
            engine = await connect(f"{url}/v1/", known, access=Access(key=SecretStr("secret")))
            assert engine.url == url
            await engine.health()
            assert await engine.load() == Load(3, 4, 0.25, 200, 150)
            server.llm.errored = True
            with pytest.raises(EngineError, match="status 503"):
                await engine.health()
            server.metrics = "nonsense"
            with pytest.raises(EngineError, match="how many requests"):
                await engine.load()
            await engine.close()

    asyncio.run(go())


def test_its_check_is_a_token_where_none_was_seen_of_late() -> None:
    async def go() -> None:
        server = ScriptedServer(model())
        async with replica(server) as engine:
            found = await engine.check()
            assert found is not None
            assert (found.prompt, found.written) == (32, 1)
            assert await engine.check() is None
            await engine.close()
            with pytest.raises(Exception, match="is closed"):
                await engine.check()

    asyncio.run(go())


@pytest.mark.parametrize(
    "url", ["", "host:80", "ftp://a", "http://", "http://a:0", "http://u:p@a", "http://a?b", "http://a:x"]
)
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(EngineError):
        address(url)


def test_a_server_that_is_not_there_takes_no_call() -> None:
    async def go() -> None:
        async with ScriptedServer(model()).serving() as url:
            pass
        with pytest.raises(Lost, match="cannot be reached"):
            await connect(url, known_of(model(), FAMILIES["ids"]))

    asyncio.run(go())


@pytest.mark.parametrize("chains", [200, pytest.param(1000, marks=pytest.mark.soak)])
def test_many_chains_at_once_each_have_their_own_tokens(chains: int) -> None:
    async def go() -> None:
        llm = model(portions=(7,))
        server = ScriptedServer(llm)
        async with replica(server) as engine:
            one, _, _ = await write(engine, Sampling(0, 4))
            llm.made = 0
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(write(engine, Sampling(0, 4))) for _ in range(chains)]
            assert all(task.result()[0].ids.unseal() == one.ids.unseal() for task in tasks)
            assert sum(task.result()[1].tokens for task in tasks) == llm.made

    asyncio.run(go())
