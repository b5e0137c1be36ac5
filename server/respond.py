"""One way to answer in every dialect, whole and in streams: the work runs as a child of the response, and a hang-up
cancels it.

A response here is an ASGI application. It watches the connection from its first moment, runs what was planned, and
sends what the dialect's `Writer` makes of it. In whatever way it ends, the account is settled with the tokens made.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Awaitable, Callable, Sequence
from functools import partial

from starlette.types import Receive, Scope, Send

from ponder.compute.account import Account, Bill, Following, Intent, Limited, Progress, Revocable
from ponder.compute.budget import Spending
from ponder.compute.clock import now
from ponder.compute.engine import Delta
from ponder.compute.errors import DeadlinePassed, NotNow, RequestError, TooBusy, Unavailable
from ponder.compute.execute import GRACE, execute
from ponder.compute.groups import TaskGroup
from ponder.compute.outcome import Outcome
from ponder.compute.progress import Watch
from ponder.compute.stop import StopSignal
from ponder.compute.stream import OnDelta
from ponder.compute.text import ToolCall
from ponder.compute.usage import Usage
from ponder.metering.metrics import Metrics
from ponder.server import answers, away, errors, unseal
from ponder.server.admission import Admission, Turn
from ponder.server.calls import ToolCallParser
from ponder.server.dialect import Dialect, Reading, Writer
from ponder.server.http.outbox import Outbox, SlowReader
from ponder.server.loop_thoughts import LoopThoughts
from ponder.server.plan import ResolvedRequest
from ponder.server.receipts import Receipt, Receipts
from ponder.server.running import RunningTable
from ponder.server.sealed_thoughts import Sealing
from ponder.server.traces import Traces, trace
from ponder.server.tracing import Span

log = logging.getLogger(__name__)

PROGRESS = 0.5
"""Seconds between two looks at how far the work is, where the caller wants to know."""
HELD = 45.0
"""Seconds in which a stream does not begin while the engine is away, so that a refusal has its status. Load balancers
and proxies want a first byte within 60."""


class HungUp(Exception):
    """The caller has gone."""


class Withdrawn(HungUp):
    """The caller, who may have gone long ago, wants it no more."""


async def hang_up(receive: Receive) -> None:
    """Raises `HungUp` when the caller goes; else never returns. Call it when the body has been read."""
    while (await receive())["type"] != "http.disconnect":
        pass
    raise HungUp


class CompletionResponse:
    """Plans a request that was read, carries it out and sends the answer."""

    _resolved: ResolvedRequest
    _writer: Writer

    def __init__(
        self,
        reading: Reading,
        plan: Callable[[], Awaitable[ResolvedRequest]],
        dialect: Dialect,
        admission: Admission,
        account: Account,
        metrics: Metrics,
        traces: Traces,
        thoughts: LoopThoughts,
        receipts: Receipts,
        running: RunningTable,
        *,
        began: float,
        keepalive: float,
        send_timeout: float,
        headers_after: float = 240.0,
    ) -> None:
        """Times in seconds. `headers_after`: an answer in one piece begins then, whether it is there or not."""
        self._headers_after = headers_after
        self._reading, self._plan, self._dialect = reading, plan, dialect
        self._admission, self._account = admission, account
        self._metrics, self._traces, self._thoughts = metrics, traces, thoughts
        self._receipts, self._running = receipts, running
        self._keepalive, self._send_timeout = keepalive, send_timeout
        self._began = began
        """`now()` when the request came."""
        self._headers: list[tuple[bytes, bytes]] = []
        self._phase = "planning"
        self._first: float | None = None
        self._started = False
        self._early: list[asyncio.Task[None]] = []
        """What sends white space before an answer in one piece."""
        self._head_out = asyncio.Event()
        """Its status and headers, which were sent before it was there, have left."""
        self._parsers: list[ToolCallParser] = []
        self._watches: list[Watch] = []
        """Of the runs of the answers, where the caller wants to hear how far they are."""
        self._revealed: set[int] = set()
        """Answers of which some was told, to a caller who may see their thoughts."""
        self._spendings: list[Spending] = []
        self._outcomes: list[Outcome | None] = []
        self._sealed: dict[int, str | None] = {}
        """The sealed thoughts of a stream's answers, from their first text on; None where it came without."""
        self._out: Outbox | None = None
        self._bill: Bill | None = None
        """Open until it is settled."""
        self._receipt: Receipt | None = None
        self._limited: Limited | None = None
        """The same where its key has limits."""
        self._told: str | None = None
        """How the request ended, where its stream has said so already."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Raises what the plan does, in the dialect's words: nothing has begun then."""
        request_id = str(scope.get("state", {}).get("request_id", ""))
        ended = "failed"
        try:
            async with TaskGroup() as group:
                watch = group.create_task(hang_up(receive))
                resolved = await self._plan()
                left = self._began + resolved.timeout - now()
                away.refuse_late(resolved.resources.engine, left, self._metrics)
                self._bill = await self._reserved(resolved, request_id)
                self._begun(resolved)
                self._running.begin(request_id, resolved, self._seen)
                if self._resolved.stream:
                    await self._stream(send, request_id, group)
                else:
                    await self._whole(send, request_id, group)
                watch.cancel()
            ended = self._told or "answered"
        except BaseExceptionGroup as group:
            error = errors.first(group)
            if self._phase == "planning" and not isinstance(error, HungUp):
                raise self._reading.renamed(error) from None
            ended = await self._failed(error, request_id, scope, receive, send)
        except asyncio.CancelledError:
            ended = "cancelled"
            if self._phase == "planning":
                raise
            # The server ends at once. Nothing runs any more, and whoever listens is told.
            error = Unavailable("the server is going down", code="draining", retry_after=5)
            if self._out is None:
                await self._failed(error, request_id, scope, receive, send)
            elif self._out.begun and not self._out.all_sent:
                event = self._event(error, request_id)
                await self._in_time(send({"type": "http.response.body", "body": event}))
        finally:
            try:
                await self._settle(ended, request_id)
            finally:
                if self._phase != "planning":
                    try:
                        self._tell(ended, request_id, scope.get("state", {}).get("span"))
                    finally:
                        self._running.end(request_id, ended)

    @property
    def billed(self) -> bool:
        """Something was used that is to be paid for."""
        if self._phase == "planning":
            return False
        usage = self._usage()
        return usage.prompt + usage.generated + usage.verifier > 0

    def _seen(self) -> tuple[bool, Sequence[Spending]]:
        """For who watches: whether its turn is yet to come, and what its answers have spent."""
        return self._phase == "queued", self._spendings

    @property
    def waits(self) -> bool:
        """Its turn has not come yet."""
        return self._phase in ("planning", "queued")

    async def _reserved(self, resolved: ResolvedRequest, request_id: str) -> Bill:
        """The account of the request, opened. Raises what that does."""
        try:
            return await self._account.reserve(_intent(resolved, request_id))
        except TooBusy:
            self._metrics.rejected("quota")
            raise

    def _begun(self, resolved: ResolvedRequest) -> None:
        self._resolved, self._writer = resolved, self._reading.writer(resolved)
        self._headers = [
            (name.encode("latin-1"), value.encode("latin-1")) for name, value in self._writer.headers.items()
        ]
        if resolved.quota is not None:
            if not isinstance(self._bill, Limited):
                raise Unavailable(
                    "this API key has limits, which are kept in the ledger, and this server has none",
                    code="ledger_unavailable",
                )
            self._limited = self._bill
        early = resolved.stream and self._writer.streams_arguments
        self._parsers = [ToolCallParser(resolved.tools, early) for _ in resolved.plans]
        self._outcomes = [None] * len(resolved.plans)
        self._watches = [Watch() for _ in resolved.plans] if resolved.progress else []
        self._phase = "queued"
        self._metrics.begun()

    # -- working ------------------------------------------------------------------------------------------------------

    async def _whole(self, send: Send, request_id: str, group: TaskGroup) -> None:
        stop_signals = [StopSignal() for _ in self._resolved.plans]
        begins = asyncio.get_running_loop().call_at(
            self._began + self._headers_after, lambda: self._early.append(group.create_task(self._before(send)))
        )
        try:
            async with self._admission.place(stop_signals, self._resolved.work, self._left()) as turn:
                await self._begin(turn, request_id, stop_signals)
                await self._run(turn, stop_signals, lambda _: self._listen)
                if self._resolved.coarse is not None:
                    await self._on_the_beat()
                begins.cancel()
                await self._send_whole(send, request_id)
        except Exception as error:
            if self._started and not isinstance(error, SlowReader):
                # Cut off while it waits for a slow reader, nothing could be sent behind it.
                await self._in_time(self._head_out.wait())
            raise
        finally:
            begins.cancel()
            for early in self._early:
                early.cancel()

    async def _before(self, send: Send) -> None:
        """Begins an answer in one piece that takes long: its status and headers, and white space, which JSON may begin
        with. Some clients give up after 300 seconds without any (Node's `fetch`). What fails behind that ends without
        its last chunk, so nobody takes it for an answer."""
        self._started = True
        await send({"type": "http.response.start", "status": 200, "headers": self._heads()})
        self._head_out.set()
        while True:
            await send({"type": "http.response.body", "body": b" ", "more_body": True})
            await asyncio.sleep(self._headers_after)

    def _heads(self) -> list[tuple[bytes, bytes]]:
        """Headers of an answer in one piece."""
        return [(b"content-type", self._writer.media_type.encode()), *self._headers, *self._limits()]

    async def _stream(self, send: Send, request_id: str, group: TaskGroup) -> None:
        stop_signals = [StopSignal() for _ in self._resolved.plans]
        async with self._admission.place(stop_signals, self._resolved.work, self._left()) as turn:
            begin = partial(self._begin, turn, request_id, stop_signals)
            if turn.has_come and away.is_away(self._resolved.resources.engine):
                begin = await self._held_back(begin, group)
            writer = self._writer
            out = self._out = Outbox(
                send,
                [*writer.stream_headers, *self._headers, *self._limits()],
                keepalive=self._keepalive,
                keep_alive=writer.keep_alive,
                send_timeout=self._send_timeout,
            )
            self._started = True
            group.create_task(out.write()).add_done_callback(out.stopped)
            keeper = group.create_task(out.keep())

            share = self._resolved.resources.writing

            def on_delta(index: int) -> OnDelta:
                parser, lent = self._parsers[index], share is None
                feed = parser.feed

                async def told(delta: Delta) -> None:
                    nonlocal lent
                    text, calls = feed(delta.text)
                    if text or delta.logprobs:
                        out.put(writer.text(index, text, delta.logprobs))
                    if calls or parser.written:
                        out.put(self._calls(index, calls))
                    if self._first is None and delta.text:
                        self._answers()
                        # The first text leaves before more is made: a turn for the writer, one for the socket.
                        await asyncio.sleep(0)
                        await asyncio.sleep(0)
                    if out.full:
                        if share is not None and not lent:
                            # Who reads slowly keeps no other from the model.
                            lent = True
                            share.lend()
                        await out.room()

                sealing = self._resolved.sealing
                if self._reading.request.thinking.loop and self._resolved.plans[index].summary is not None:
                    # A seal says how much the loop has thought, and a summary is more of that: it comes behind it.
                    sealing = None
                tell = told if sealing is None else self._sealing(index, sealing, out, told)
                tell = self._revealing(index, out, tell) if self._resolved.shows_thought else tell
                return tell if self._resolved.coarse is None else self._late(tell)

            async def ended(index: int, outcome: Outcome) -> None:
                if self._first is None and self._resolved.coarse is not None:
                    await self._on_the_beat()
                out.put(self._end(index, outcome))

            last, follower = writer.closing, None
            try:
                out.put(writer.opening())
                if self._resolved.progress:
                    follower = group.create_task(self._follow(out))
                await begin()
                await self._run(turn, stop_signals, on_delta, ended)
                self._phase = "writing"
            except Exception as error:  # noqa: BLE001 - whatever it is, the stream tells it, behind the text it has
                last = self._event(errors.first(error), request_id)
            finally:
                if follower is not None:
                    follower.cancel()
            await self._settle(self._told or "answered", request_id)
            await out.end(last)
            keeper.cancel()

    async def _held_back(self, begin: Callable[[], Awaitable[None]], group: TaskGroup) -> Callable[[], Awaitable[None]]:
        """Begins, for `HELD` seconds at most: raises what was in the way, so that the response is a refusal. Returns
        what is to be awaited yet."""

        async def begun() -> Exception | None:
            try:
                await begin()
            except Exception as error:  # noqa: BLE001 (raised where it is awaited: it may have become an event by then)
                return error
            return None

        async def rest() -> None:
            if (error := await beginning) is not None:
                raise error

        beginning = group.create_task(begun())
        await asyncio.wait([beginning], timeout=HELD)
        if beginning.done():
            await rest()
        return rest

    def _calls(self, index: int, calls: Sequence[ToolCall]) -> bytes:
        """Calls that are complete now, the last of their answer so far; where they are written early, what is new of
        all."""
        parser, writer = self._parsers[index], self._writer
        if not parser.early:
            number = len(parser.calls) - len(calls)
            return b"".join(writer.tool_call(index, i, call) for i, call in enumerate(calls, number))
        events: list[bytes] = []
        for new in parser.written:
            if new.first:
                events.append(writer.call_begun(index, new.number, new.id, new.name))
            if new.arguments:
                events.append(writer.call_arguments(index, new.number, new.arguments))
        parser.written.clear()
        return b"".join(events)

    def _end(self, index: int, outcome: Outcome) -> bytes:
        """The end of an answer, and where it is the last to end, of them all."""
        parser = self._parsers[index]
        text, calls = parser.end(outcome.complete)
        sealed, events = self._sealed.get(index), b""
        if sealed is None and (sealed := answers.sealed(self._resolved, outcome)) and index not in self._sealed:
            events = self._writer.thought(index, sealed)
        events += self._writer.text(index, text, ()) if text else b""
        if calls or parser.written:
            events += self._calls(index, calls)
        self._remember(outcome, parser)
        outcomes = [one for one in self._outcomes if one is not None]
        summary = None
        if len(outcomes) == len(self._outcomes):
            summary = answers.summary(self._resolved, outcomes, self._spendings, self._signed())
        return events + self._writer.end(index, answers.ended(self._resolved, outcome, parser, sealed), summary)

    def _sealing(self, index: int, sealing: Sealing, out: Outbox, told: OnDelta) -> OnDelta:
        """The same, but before the first text comes the thought, sealed, where it is over then."""

        async def sealed(delta: Delta, /) -> None:
            if index not in self._sealed and (delta.text or delta.logprobs):
                found = None
                if delta.thought is not None:
                    found = sealing.sealed(delta.thought, self._spendings[index].spent.hidden)
                if found is not None:
                    out.put(self._writer.thought(index, found))
                self._sealed[index] = found
            await told(delta)

        return sealed

    def _revealing(self, index: int, out: Outbox, told: OnDelta) -> OnDelta:
        """The same, but before the first text comes the thought, where it is over then and the key may see it."""

        async def revealed(delta: Delta, /) -> None:
            if index not in self._revealed and (delta.text or delta.logprobs):
                self._revealed.add(index)
                if delta.thought is not None and (thought := unseal.over(delta.thought)):
                    out.put(self._writer.revealed(index, thought))
            await told(delta)

        return revealed

    async def _follow(self, out: Outbox) -> None:
        """Tells how far the answers are, whenever that has changed, until it is cancelled."""
        told: dict[int, answers.Progress] = {}
        while True:
            for index, watch in enumerate(self._watches):
                now_ = answers.progress(self._resolved, self._spendings, index, watch.look())
                if self._outcomes[index] is None and told.get(index) != now_ and not out.full:
                    told[index] = now_
                    out.put(self._writer.progress(index, now_))
            await asyncio.sleep(PROGRESS)

    def _remember(self, outcome: Outcome, parser: ToolCallParser) -> None:
        """Keeps the thought behind the calls of an answer, for models that go on with it."""
        resolved = self._resolved
        if parser.calls and resolved.reads_thoughts:
            self._thoughts.keep(resolved.key_id, resolved.base, parser.calls, outcome.thought)

    def _event(self, error: BaseException, request_id: str) -> bytes:
        """The event for an error in a stream; logged, too, where the fault is ours."""
        self._told = _word(error)
        self._metrics.errors.told(errors.code(error), errors.status(error))
        errors.told(error, request_id)
        used = answers.used(self._resolved, self._spendings)
        return self._writer.failure(errors.failure(self._reading.renamed(error), request_id, used))

    async def _begin(self, turn: Turn, request_id: str, stop_signals: Sequence[StopSignal]) -> None:
        await turn.wait(self._left())
        engine = self._resolved.resources.engine
        turn.timed = not away.is_away(engine)
        await away.wait(engine, self._left(), stop_signals, self._metrics)
        self._phase = "thinking"
        self._spendings = [Spending(plan.budget, request_id, i) for i, plan in enumerate(self._resolved.plans)]
        self._receipt = self._receipts.begin(request_id, self._resolved, self._spendings)
        if self._bill is not None and (used := self._bill.used) is not None:
            for spending in self._spendings:
                spending.on_usage = used
        if self._limited is not None and (drawing := self._limited.drawing) is not None:
            for spending in self._spendings:
                spending.quota = drawing
        if isinstance(self._bill, Revocable):
            self._bill.when_revoked(partial(_revoked, stop_signals))
        if isinstance(self._bill, Following) and self._bill.every < sys.maxsize:
            self._bill.follow(self._progress)
            for spending in self._spendings:
                spending.follow(self._bill.every, self._bill.look)

    def _limits(self) -> list[tuple[bytes, bytes]]:
        """How the limits of its key stand."""
        if self._limited is None:
            return []
        return [(name.encode(), value.encode()) for name, value in self._limited.headers().items()]

    def _left(self) -> float:
        return max(0.001, self._resolved.timeout - (now() - self._began))

    async def _listen(self, delta: Delta) -> None:
        if self._first is None and delta.text:
            self._answers()

    def _late(self, told: OnDelta) -> OnDelta:
        """The same, but the first text waits until it tells less of the time before it."""

        async def late(delta: Delta) -> None:
            try:
                if self._first is None and delta.text:
                    await self._on_the_beat()
            finally:
                # Also where the time of the request is over meanwhile: the model has written it.
                await told(delta)

        return late

    async def _on_the_beat(self) -> None:
        coarse = self._resolved.coarse
        if coarse is not None and (wait := coarse.wait(now() - self._began)):
            await asyncio.sleep(wait)

    def _answers(self) -> None:
        """The first text is there."""
        self._first = now() - self._began
        self._phase = "answering"

    async def _run(
        self,
        turn: Turn,
        stop_signals: Sequence[StopSignal],
        on_delta: Callable[[int], OnDelta],
        ended: Callable[[int, Outcome], Awaitable[None]] | None = None,
    ) -> None:
        """Runs all plans at the same time."""
        resolved, left = self._resolved, self._left()
        engine = resolved.resources.engine
        before = away.went_away(engine)

        async def one(i: int) -> None:
            outcome = await execute(
                resolved.plans[i],
                resolved.resources,
                self._spendings[i],
                on_delta(i),
                stop_signals[i],
                timeout=left,
                watch=self._watches[i] if self._watches else None,
            )
            self._outcomes[i] = outcome
            if ended is not None:
                await ended(i, outcome)

        try:
            if len(resolved.plans) == 1:
                await one(0)
                return
            async with TaskGroup() as group:
                for i in range(len(resolved.plans)):
                    group.create_task(one(i))
        finally:
            turn.timed = turn.timed and before == away.went_away(engine) and not away.is_away(engine)

    # -- writing ------------------------------------------------------------------------------------------------------

    async def _send_whole(self, send: Send, request_id: str) -> None:
        self._phase = "writing"
        outcomes = [outcome for outcome in self._outcomes if outcome is not None]
        resolved, each = self._resolved, zip(outcomes, self._parsers, strict=True)
        content = self._writer.whole(
            [answers.whole(resolved, outcome, parser) for outcome, parser in each],
            answers.summary(resolved, outcomes, self._spendings, self._signed()),
        )
        for outcome, parser in zip(outcomes, self._parsers, strict=True):
            self._remember(outcome, parser)
        await self._settle("answered", request_id)
        try:
            async with asyncio.timeout(self._send_timeout):
                if self._started:
                    await self._head_out.wait()
                for early in self._early:
                    early.cancel()
                if not self._started:
                    headers = [*self._heads(), (b"content-length", str(len(content)).encode())]
                    await send({"type": "http.response.start", "status": 200, "headers": headers})
                    self._started = True
                await send({"type": "http.response.body", "body": content})
        except TimeoutError:
            raise SlowReader from None

    # -- ending -------------------------------------------------------------------------------------------------------

    async def _failed(self, error: BaseException, request_id: str, scope: Scope, receive: Receive, send: Send) -> str:
        """Answers with an error where somebody still listens; the word for how the request ended."""
        if isinstance(error, Withdrawn):
            return self._told or "cancelled"
        if isinstance(error, HungUp) and self._out is not None and self._out.all_sent:
            # A server tells of a connection's end when the last byte of an answer is sent, too.
            return self._told or "answered"
        if isinstance(error, HungUp):
            self._metrics.disconnected(self._phase)
            return "disconnected"
        if isinstance(error, SlowReader):
            self._metrics.disconnected("slow_reader")
            return self._told or "disconnected"
        if not isinstance(error, Exception):
            raise error
        if self._started and self._resolved.stream:
            errors.told(error, request_id)
            return _word(error)
        await self._settle(_word(error), request_id)
        self._metrics.errors.told(errors.code(error), errors.status(error))
        used = answers.used(self._resolved, self._spendings)
        refusal = errors.response(self._reading.renamed(error), request_id, self._dialect.error, used)
        if not self._started:
            await self._in_time(refusal(scope, receive, send))
        elif self._head_out.is_set():
            # Its status is told. The words are for who reads them; that the last chunk is missing, for all others.
            body = {"type": "http.response.body", "body": bytes(refusal.body), "more_body": True}
            await self._in_time(send(body))
        return _word(error)

    async def _in_time(self, sending: Awaitable[object]) -> None:
        try:
            async with asyncio.timeout(self._send_timeout):
                await sending
        except TimeoutError:
            self._metrics.disconnected("slow_reader")

    async def _settle(self, ended: str, request_id: str) -> None:
        """Tells the account what was used, before the last byte; nothing where it was told already. Cut off by a
        hang-up it is done again."""
        if self._bill is None:
            return
        try:
            await self._bill.settle(self._usage(), ended)
        except Exception as error:  # noqa: BLE001 (the answer was made, and an account may be anybody's)
            log.error("%s: the account could not settle it: %s", request_id, errors.way(error))
        self._bill = None

    def _usage(self) -> Usage:
        """What the request has used so far."""
        return answers.spent(self._resolved, self._spendings)

    def _progress(self) -> Progress:
        """How far the request is, for accounts that follow it."""
        outcomes = [outcome for outcome in self._outcomes if outcome is not None]
        return Progress(
            self._usage(),
            open=sum(spending.open for spending in self._spendings),
            samples=sum(outcome.samples for outcome in outcomes),
            stopped_by=answers.stopped_by(outcomes) if outcomes else None,
            receipt=self._signed,
        )

    def _signed(self) -> str | None:
        """The receipt, when nothing is made any more; None where there is to be none."""
        return None if self._receipt is None else self._receipt.signed(self._usage)

    def _tell(self, ended: str, request_id: str, span: Span | None) -> None:
        resolved, seconds = self._resolved, now() - self._began
        if span is not None:
            span.told(resolved, ended, self._spendings, self._outcomes, self._parsers, self._first)
        salt = None if self._receipt is None else self._receipt.salt
        self._traces.keep(request_id, trace(resolved, ended, seconds, self._spendings, self._outcomes, salt))
        self._metrics.ended(
            owner=resolved.owner,
            model=resolved.base,
            strategy=resolved.strategy,
            outcome=ended,
            seconds=seconds,
            first_visible=self._first,
            budget=resolved.budget,
            spendings=self._spendings,
            outcomes=[outcome for outcome in self._outcomes if outcome is not None],
            verifier=judge.name if (judge := resolved.plans[0].verifier) else None,
        )


def _revoked(stop_signals: Sequence[StopSignal]) -> None:
    """Others are about to have the place of the request."""
    for stop_signal in stop_signals:
        stop_signal.set("quota", GRACE)


def _intent(resolved: ResolvedRequest, request_id: str) -> Intent:
    return Intent(
        request_id,
        resolved.owner,
        resolved.base,
        resolved.strategy,
        prompt=resolved.prompt_tokens,
        thinking=sum(plan.budget.thinking for plan in resolved.plans),
        answer=sum(plan.budget.answer for plan in resolved.plans),
        timeout=resolved.timeout,
        answers=len(resolved.plans),
        asked=resolved.asked,
        verifier=judge.name if (judge := resolved.plans[0].verifier) else None,
        price=resolved.price,
        max_cost=resolved.max_cost,
        quota=resolved.quota,
        whole=resolved.plans[0].sampling.seed is not None,
        user=resolved.user,
        metadata=resolved.metadata,
        key_id=resolved.key_id,
    )


def _word(error: BaseException) -> str:
    """How a request ended, for the metrics and its trace."""
    match error:
        case RequestError():
            return "refused"
        case NotNow():
            return "turned_away"
        case DeadlinePassed():
            return "deadline"
        case _:
            return "failed"
