"""The answer to a request that carries an `Idempotency-Key`: its run, that of another, or what is kept of one."""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import Protocol, TypeVar

from starlette.types import Message, Receive, Scope, Send

from ponder.compute.account import Account, Bill, Intent
from ponder.compute.clock import now
from ponder.compute.errors import Unavailable, first
from ponder.compute.groups import TaskGroup
from ponder.compute.usage import Usage
from ponder.metering.idempotency import Claim, IdempotencyStore, Kept
from ponder.metering.ledger import OPENING, SETTLING
from ponder.server.beside import beside_if_large
from ponder.server.errors import AlreadyRun, KeyReused, StillRuns
from ponder.server.http.outbox import PIECE, SlowReader
from ponder.server.idempotency.key import NAME
from ponder.server.idempotency.requests import Idempotency
from ponder.server.idempotency.run import REPLAYED, Live
from ponder.server.idempotency.seal import Answer, Seal
from ponder.server.respond import HungUp, hang_up

T = TypeVar("T")

POLL = (0.05, 1.0)
"""Seconds between two looks at a run of another server: the first, and the most."""
MARK = 2.0
"""Seconds between two signs to another server that somebody waits; less than half of `linger_seconds`."""
NOT_KEPT = (b"retry-after", b"connection")
"""Headers that were about the moment."""


class Billed(Protocol):
    """Answers one request."""

    @property
    def billed(self) -> bool:
        """Something was used that is to be paid for."""
        ...

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None: ...


class IdempotentResponse:
    """The answer to one request that has a key."""

    def __init__(
        self,
        runs: Idempotency,
        asks: tuple[Claim, IdempotencyStore, Seal],
        run: Callable[[Account], Billed],
        account: Account,
        *,
        until: float,
        patience: float,
    ) -> None:
        """`run`: answers it without a key, and settles with the account it is given. `until`: `now()` at which its time
        is over. `patience`: seconds for a message to leave."""
        self._runs = runs
        self._claim, self._store, self._seal = asks
        self._make, self._account, self._until, self._patience = run, account, until, patience
        self._ended = False
        self._owed: Callable[[float], Awaitable[None]] | None = None
        """What could not be written when the run was over."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Raises what planning does, `KeyReused`, `AlreadyRun`, `StillRuns` and `Unavailable`."""
        try:
            while not await self._once(scope, receive, send):
                pass
        except HungUp:
            # The key may have become this request's at the last moment.
            with suppress(Unavailable):
                await self._store.release(self._claim.id, self._claim.request, SETTLING)
            self._runs.metrics.disconnected("queued")
        except SlowReader:
            self._runs.metrics.disconnected("slow_reader")

    async def _once(self, scope: Scope, receive: Receive, send: Send) -> bool:
        """Answers; False where the run that was waited for came to nothing, and the key is to be asked for anew."""
        live = self._runs.live.get(self._claim.id)
        if live is not None:
            return await self._wait(live, scope, receive, send)
        live = self._runs.live[self._claim.id] = Live(self._claim, self._runs.settings.answer_bytes)
        try:
            kept = await _listening(receive, self._claimed(live))
            if kept is None:
                await self._run(live, scope, receive, send)
                return True
        finally:
            # Those who wait look for themselves, unless it has run.
            if not live.over:
                live.release()
                live.end()
            self._runs.forget(live)
        await self._replay(kept, scope, send)
        return True

    def _compare(self, secret: str, fingerprint: bytes) -> None:
        """Raises `KeyReused` where the key came with another body. What was made with another secret cannot be
        compared, nor given."""
        if secret == self._claim.secret and not hmac.compare_digest(fingerprint, self._claim.fingerprint):
            raise KeyReused(
                f"this {NAME} came with another request before: a key is for one request and its repetitions, so send "
                "this one under a key of its own",
                param=NAME,
                code="idempotency_key_reused",
            )

    def _left(self) -> float:
        return max(0.001, self._until - now())

    # -- behind another -----------------------------------------------------------------------------------------------

    async def _wait(self, live: Live, scope: Scope, receive: Receive, send: Send) -> bool:
        """Is sent what a run of this server sends."""
        try:
            async with asyncio.timeout(self._left()):
                if not await _listening(receive, live.known()):
                    return False
            self._compare(live.claim.secret, live.claim.fingerprint)

            async def sending(message: Message) -> None:
                scope["state"]["request_id"] = live.claim.request
                await send(message)

            return await live.give(receive, sending, first=False, until=self._until, patience=self._patience)
        except TimeoutError:
            raise _still_runs() from None

    async def _claimed(self, live: Live) -> Kept | None:
        """The run that the key has, when it is over; None: this one is to run."""
        pause, marked, ran = POLL[0], float("-inf"), False
        while True:
            try:
                kept = await self._store.claim(self._claim, min(OPENING, self._left()))
                if kept is not None:
                    self._compare(kept.secret, kept.fingerprint)
                live.confirm()
                if kept is None or kept.state != "runs":
                    return kept
                ran = True
                if now() - marked >= MARK:
                    marked = now()
                    await self._store.want(self._claim.id, min(OPENING, self._left()))
            except Unavailable:
                # It need not be the database that was slow.
                if not ran or now() < self._until:
                    raise
            if now() >= self._until:
                raise _still_runs()
            await asyncio.sleep(min(pause, self._left()))
            pause = min(2 * pause, POLL[1])

    async def _replay(self, kept: Kept, scope: Scope, send: Send) -> None:
        """Gives the answer that is kept."""
        if kept.state == "lost":
            raise AlreadyRun(
                f"the request with this {NAME}, {kept.request}, was begun and billed, and came to no answer (GET "
                f"/v1/usage/{kept.request} says what it cost): send it under another key to run it again",
                param=NAME,
                code="idempotency_lost",
            )
        answer = None
        if kept.answer is not None:
            opened = partial(self._seal.opened, kept.answer, self._bound(kept.request))
            answer = await beside_if_large(len(kept.answer), opened)
        if answer is None:
            raise AlreadyRun(
                f"the request with this {NAME}, {kept.request}, was answered and billed, and its answer is not kept: "
                "send it under another key to run it again",
                param=NAME,
                code="idempotency_completed",
            )
        scope["state"]["request_id"] = kept.request
        headers = [*answer.headers, REPLAYED]
        try:
            async with asyncio.timeout(self._patience) as patience:
                await send({"type": "http.response.start", "status": answer.status, "headers": headers})
                for at in range(0, len(answer.body) or 1, PIECE):
                    patience.reschedule(asyncio.get_running_loop().time() + self._patience)
                    piece, more = answer.body[at : at + PIECE], at + PIECE < len(answer.body)
                    await send({"type": "http.response.body", "body": piece, "more_body": more})
        except TimeoutError:
            raise SlowReader from None

    def _bound(self, request: str) -> str:
        """What a sealed answer is opened with."""
        return f"{self._claim.id} {request} {self._claim.key}"

    # -- the run ------------------------------------------------------------------------------------------------------

    async def _run(self, live: Live, scope: Scope, receive: Receive, send: Send) -> None:
        """Runs the request for all who wait for it. Its own caller is one of them, and may go before."""
        run = self._make(_Confirmed(self._account, self._store, self._claim))

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                live.start(message)
                return
            chunk, last = message.get("body", b""), not message.get("more_body", False)
            if last:
                await self._finish(live, run, live.whole(chunk), lost=False)
            await live.put(chunk, last=last)
            if last and not (self._owed and live.givable):
                self._runs.forget(live)

        async def caller() -> None:
            try:
                await live.give(receive, send, first=True, until=self._until, patience=self._patience)
            except SlowReader:
                self._runs.metrics.disconnected("slow_reader")

        linger = self._runs.settings.linger_seconds
        try:
            async with TaskGroup() as group:
                group.create_task(caller())
                group.create_task(live.linger(linger, lambda: self._store.wanted(self._claim.id, SETTLING)))
                try:
                    await run(scope, live.receive, sending)
                finally:
                    await self._finish(live, run, None, lost=True)
                    live.end()
                    if not (self._owed and live.givable):
                        self._runs.forget(live)
        except BaseExceptionGroup as group:
            raise first(group) from None
        await self._pay()

    async def _finish(self, live: Live, run: Billed, body: bytes | None, *, lost: bool) -> None:
        """Writes what the run came to, once: before the last byte of its answer leaves, as far as that does not take
        long. `body`: None for one that is too large to be kept, and where it is `lost`."""
        if self._ended:
            return
        self._ended = True
        if not run.billed:
            live.release()
            work = partial(self._store.release, self._claim.id, self._claim.request)
        else:
            keep, sealed = self._runs.settings.retention_seconds, None
            if keep and body is not None and live.started is not None:
                sealed = await self._sealed(live.started, body)
            work = partial(self._store.finish, self._claim.id, self._claim.request, sealed, keep, lost=lost)
        try:
            await work(SETTLING)
        except Unavailable:
            self._owed = work

    async def _sealed(self, started: Message, body: bytes) -> bytes:
        headers = tuple((name, value) for name, value in started["headers"] if name not in NOT_KEPT)
        answer = Answer(started["status"], headers, body)
        return await beside_if_large(len(body), partial(self._seal.sealed, answer, self._bound(self._claim.request)))

    async def _pay(self) -> None:
        """Writes what was owed when the database is back; until then the run is known here. A server that goes down
        leaves it: the ledger's row says that it was billed."""
        while self._owed is not None and not self._runs.draining():
            try:
                await self._owed(SETTLING)
                self._owed = None
            except Unavailable:
                await asyncio.sleep(POLL[1])


class _Confirmed:
    """An account that begins nothing for a key that is another's by now: this server was taken for dead meanwhile."""

    def __init__(self, account: Account, store: IdempotencyStore, claim: Claim) -> None:
        self._account, self._store, self._claim = account, store, claim

    async def reserve(self, intent: Intent) -> Bill:
        bill = await self._account.reserve(intent)
        try:
            if not await self._store.confirm(self._claim.id, self._claim.request, min(OPENING, intent.timeout)):
                raise _still_runs()
        except BaseException:
            await bill.settle(Usage(), "turned_away")
            raise
        return bill


async def _listening(receive: Receive, work: Awaitable[T]) -> T:
    """What it comes to, while the caller is there. Raises `HungUp`."""
    try:
        async with TaskGroup() as group:
            watch = group.create_task(hang_up(receive))
            result = await work
            watch.cancel()
    except BaseExceptionGroup as group:
        raise first(group) from None
    return result


def _still_runs() -> StillRuns:
    return StillRuns(
        f"the request with this {NAME} runs yet, and the time of this one is over: send it again to wait for it",
        code="idempotency_in_flight",
        retry_after=1,
    )
