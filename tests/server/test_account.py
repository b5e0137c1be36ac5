"""The port of accounts: what an account is told of each request, in which order, and that its sums are the engine's."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from ponder.compute.account import Intent
from ponder.compute.clock import now
from ponder.compute.errors import RequestError, TooBusy
from ponder.compute.usage import Usage
from ponder.testing import Chain, ScriptedEngine, always
from ponder.testing.virtual_time import VirtualTimeLoop, in_virtual_time
from tests.server.serving import CHAIN, Line, answered, chat, counted, door, events, in_no_time, refused, scripted

LONG = Chain("t" * 60, "a" * 60)


@dataclass
class Kept:
    """An account that writes down what it is told, and when: which engine calls were begun, what was sent."""

    engine: ScriptedEngine
    refuses: Exception | None = None
    waits: bool = False
    """Settling takes until somebody lets it go on."""
    fails: bool = False
    dead: str = ""
    """The verb that never returns."""
    told: list[str] = field(default_factory=list[str])
    intents: list[Intent] = field(default_factory=list[Intent])
    used: Callable[[Usage], None] | None = None
    in_between: Usage = field(default_factory=Usage)
    settled: list[tuple[Usage, str]] = field(default_factory=list[tuple[Usage, str]])
    settling: asyncio.Event = field(default_factory=asyncio.Event)
    on: asyncio.Event = field(default_factory=asyncio.Event)
    sent: Callable[[], bytes] = bytes
    sent_then: bytes = b""

    def __post_init__(self) -> None:
        self.used = self.use

    async def reserve(self, intent: Intent) -> Kept:
        assert self.engine.calls == 0
        self.told.append("reserve")
        self.intents.append(intent)
        if self.refuses is not None:
            raise self.refuses
        if self.dead == "reserve":
            await asyncio.Event().wait()
        return self

    def use(self, usage: Usage) -> None:
        self.told.append("use")
        if self.dead == "use":
            raise OSError("the ledger is away")
        self.in_between += usage

    async def settle(self, usage: Usage, ending: str) -> None:
        self.told.append("settle")
        self.sent_then = self.sent()
        assert self.engine.running == 0
        if self.dead == "settle":
            await asyncio.Event().wait()
        if self.waits:
            self.settling.set()
            await self.on.wait()
        self.settled.append((usage, ending))
        if self.fails:
            raise OSError("the ledger is away")

    def check(self, ending: str, times: int = 1) -> Usage:
        """Told in order, settled once, with what the engine counts."""
        assert self.told == ["reserve", *["use"] * self.told.count("use"), *["settle"] * times]
        ((usage, ended),) = self.settled
        assert ended == ending
        assert usage.generated == self.engine.produced == self.in_between.generated
        assert usage.chains == self.in_between.chains >= self.told.count("use") > 0 or not self.engine.calls
        assert usage.prompt_read == self.in_between.prompt_read
        assert usage.prompt == (self.intents[0].prompt if usage.chains else 0)
        return usage


def test_usage_adds_up() -> None:
    one, other = Usage(1, 2, 3, 4, 5, 6, 7, 8, 9), Usage(prompt=10, visible=20)
    assert one + other == Usage(11, 2, 23, 4, 5, 6, 7, 8, 9)
    assert sum([one, one], Usage()).generated == 10


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("strategy", ["direct", "majority_vote"])
def test_an_answer_in_one_piece_is_settled_before_it_is_sent(n: int, strategy: str) -> None:
    kept = Kept(engine := scripted())
    app = door(engine, accounts=[kept])
    line = Line(n=n, strategy=strategy, thinking_budget=900)
    kept.sent = lambda: line.text
    asyncio.run(line.call(app))
    usage = kept.check("answered")
    assert kept.sent_then == b""
    assert kept.intents[0].strategy == strategy
    assert kept.intents[0].thinking == 900
    told = json.loads(line.text)["usage"]
    assert told["completion_tokens"] == usage.generated
    assert told["completion_tokens_details"]["reasoning_tokens"] == usage.hidden
    assert told["prompt_tokens"] == usage.prompt == kept.intents[0].prompt
    billed = {kind: counted(app, f'ponder_billed_tokens_total{{kind="{kind}"}}') for kind in ("reasoning", "visible")}
    assert billed == {"reasoning": usage.hidden, "visible": usage.visible}


@pytest.mark.parametrize("n", [1, 2])
def test_a_stream_is_settled_before_its_last_byte(n: int) -> None:
    kept = Kept(engine := scripted())
    line = Line(n=n, stream=True)
    kept.sent = lambda: line.text
    asyncio.run(line.call(door(engine, accounts=[kept])))
    kept.check("answered")
    assert b"[DONE]" not in kept.sent_then
    told = events(line.text.decode())
    assert sum(choice["finish_reason"] == "stop" for event in told for choice in event["choices"]) == n


@pytest.mark.parametrize("stream", [False, True])
def test_a_hang_up_is_settled_once_with_what_was_made(stream: bool) -> None:
    async def go() -> None:
        kept = Kept(engine := ScriptedEngine(always(LONG), delay=0.01, tail=3))
        line = Line(stream=stream)
        async with asyncio.TaskGroup() as group:
            group.create_task(line.call(door(engine, accounts=[kept])))
            await asyncio.sleep(0.3)
            line.gone.set()
        assert 0 < kept.check("disconnected").generated < 100

    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        runner.run(go())


@pytest.mark.parametrize("stream", [False, True])
def test_a_hang_up_while_it_is_settled_begins_that_anew(stream: bool) -> None:
    async def go() -> None:
        kept = Kept(engine := scripted(), waits=True)
        line = Line(stream=stream)
        async with asyncio.TaskGroup() as group:
            group.create_task(line.call(door(engine, accounts=[kept])))
            await kept.settling.wait()
            kept.settling.clear()
            line.gone.set()
            await kept.settling.wait()
            kept.on.set()
        kept.check("disconnected", times=2)

    asyncio.run(go())


def test_a_request_that_came_to_nothing_in_time_is_settled_before_its_error_is_sent() -> None:
    async def go() -> Line:
        line = Line(timeout=0.5)
        kept.sent = lambda: line.text
        await line.call(door(engine, accounts=[kept]))
        return line

    kept = Kept(engine := ScriptedEngine(always(LONG), delay=10))
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        line = runner.run(go())
    assert line.sent[0]["status"] == 504
    assert kept.sent_then == b""
    kept.check("deadline")


@pytest.mark.parametrize("stream", [False, True])
def test_an_engine_that_fails_is_settled_before_the_error_is_sent(stream: bool) -> None:
    kept = Kept(engine := scripted(fail_at=0))
    line = Line(stream=stream)
    kept.sent = lambda: line.text
    asyncio.run(line.call(door(engine, accounts=[kept])))
    kept.check("failed")
    assert b'"error"' in line.text
    assert b'"error"' not in kept.sent_then


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("refusal", "status"),
    [
        (RequestError("the quota of this month is used up", code="insufficient_quota"), 400),
        (TooBusy("too many tokens a minute", code="rate_limit_exceeded", retry_after=7), 429),
    ],
)
def test_a_refusal_comes_before_anything_is_generated(refusal: Exception, status: int, stream: bool) -> None:
    engine = scripted()
    first, second = Kept(engine), Kept(engine, refuses=refusal)
    app = door(engine, accounts=[first, second])
    message = refused(chat(app, stream=stream), status, code=getattr(refusal, "code", None))
    assert message == str(refusal)
    assert engine.calls == 0
    assert second.told == ["reserve"]
    assert first.settled == [(Usage(), "refused")], "what another has reserved is given back"
    assert counted(app, "ponder_inflight_requests") == 0


def test_an_account_that_cannot_settle_costs_nobody_the_answer(caplog: pytest.LogCaptureFixture) -> None:
    engine = scripted()
    first, second = Kept(engine), Kept(engine, fails=True)
    app = door(engine, accounts=[first, second])
    assert answered(app)["choices"][0]["message"]["content"] == CHAIN.answer
    assert len(first.settled) == len(second.settled) == 1
    assert "could not settle" in caplog.text


@pytest.mark.parametrize("stream", [False, True])
def test_an_account_that_does_not_answer_refuses_the_request_when_its_time_is_over(stream: bool) -> None:
    async def go() -> None:
        engine = scripted()
        first, second = Kept(engine), Kept(engine, dead="reserve")
        line = Line(stream=stream, timeout=5)
        await line.call(app := door(engine, accounts=[first, second]))
        assert now() < 6
        assert line.sent[0]["status"] == 503
        assert b"account_unavailable" in line.text
        assert engine.calls == 0
        assert first.settled == [(Usage(), "turned_away")]
        assert counted(app, "ponder_inflight_requests") == 0

    in_virtual_time(go())


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("dead", ["use", "settle"])
def test_an_account_that_is_away_afterwards_costs_nobody_the_answer(
    dead: str, stream: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async def go() -> None:
        engine = scripted()
        first, second = Kept(engine), Kept(engine, dead=dead)
        line = Line(stream=stream)
        await line.call(app := door(engine, accounts=[first, second]))
        assert line.sent[0]["status"] == 200
        assert stream or CHAIN.answer.encode() in line.text
        assert b'"error"' not in line.text
        assert [ending for _, ending in first.settled] == ["answered"]
        assert counted(app, 'ponder_requests_total{outcome="answered"}') == 1

    in_virtual_time(go())
    assert "an account" in caplog.text
    assert "the ledger is away" not in caplog.text


class Revoking(Kept):
    """An account that wants the place of a request back when it has run for a second."""

    def when_revoked(self, stop: Callable[[], None]) -> None:
        asyncio.get_running_loop().call_later(1, stop)


@pytest.mark.parametrize("others", [False, True])
def test_a_request_whose_place_is_wanted_back_answers_with_its_best_so_far(others: bool) -> None:
    engine = scripted(Chain("t" * 6000, "It is 7."), delay=0.1)
    account = Revoking(engine)
    accounts = [account, Kept(engine)] if others else [account]
    answer = in_no_time(door(engine, accounts=accounts), thinking_budget=6000)
    assert answer.status_code == 200
    assert answer.json()["choices"][0]["message"]["content"] == "It is 7."
    assert answer.json()["thinking"]["stopped_by"] == "quota"
    assert engine.produced < 100
    account.check("answered")
