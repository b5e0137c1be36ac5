"""How many requests run and how many wait: bounded, first come first served, closed while the server drains."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager

from ponder.compute.clock import now
from ponder.compute.errors import TooBusy, Unavailable
from ponder.compute.execute import GRACE
from ponder.compute.stop import StopSignal
from ponder.metering.metrics import Metrics


class Turn:
    """A request's turn: it has come already, or the request waits for it in the queue."""

    def __init__(self, comes: asyncio.Future[None], metrics: Metrics, seconds: float) -> None:
        self.comes = comes
        self.began: float | None = None
        """`now()` when the place was taken."""
        self._metrics, self._seconds, self._asked = metrics, seconds, now()

    @property
    def has_come(self) -> bool:
        """True also for a request that was cancelled before it noticed."""
        return self.comes.done() and not self.comes.cancelled() and self.comes.exception() is None

    async def wait(self, patience: float) -> None:
        """Returns when it has come. Raises `TooBusy` after `patience` seconds, `Unavailable` when the server goes
        down meanwhile."""
        if not self.has_come:
            try:
                async with asyncio.timeout(patience):
                    await self.comes
            except TimeoutError:
                self._metrics.rejected("waited")
                raise TooBusy(
                    "no place became free in the time this request has", code="server_busy", retry_after=self._seconds
                ) from None
        self.began = now()
        self._metrics.waited(self.began - self._asked)


class Admission:
    """The places of one server, and the stop signals of those who have one."""

    def __init__(self, running: int, waiting: int, metrics: Metrics) -> None:
        self.draining = False
        self.inside = 0
        """Requests that run."""
        self._most, self._queue_most, self._metrics = running, waiting, metrics
        self._queue: deque[asyncio.Future[None]] = deque()
        self._stop_signals: set[StopSignal] = set()
        self._hurried = asyncio.Event()
        self._seconds = 1.0
        """How long a place is kept, running mean."""

    @property
    def queued(self) -> int:
        """Requests that wait."""
        return len(self._queue)

    def check(self) -> None:
        """Raises `Unavailable` while draining and `TooBusy` when the queue is full. Called before a body is read."""
        if self.draining:
            self._metrics.rejected("draining")
            raise Unavailable("the server is going down; ask another or try again", code="draining", retry_after=5)
        if self.inside >= self._most and self.queued >= self._queue_most:
            self._metrics.rejected("busy")
            wait = self._seconds * (self.queued + 1) / self._most
            raise TooBusy(
                f"{self.inside} requests run and {self.queued} wait, which is all this server takes",
                code="server_busy",
                retry_after=wait,
            )

    @asynccontextmanager
    async def place(self, stop_signals: Sequence[StopSignal]) -> AsyncGenerator[Turn]:
        """A place, or a position in the queue, until the block is left. Await the turn before any work. The stop
        signals are set when a drain takes too long. Raises `TooBusy` and `Unavailable` at once."""
        self.check()
        turn = Turn(asyncio.get_running_loop().create_future(), self._metrics, self._seconds)
        if self.inside < self._most:
            self.inside += 1
            turn.comes.set_result(None)
        else:
            self._queue.append(turn.comes)
            self._metrics.queued(self.queued)
        self._stop_signals.update(stop_signals)
        try:
            yield turn
        finally:
            self._stop_signals.difference_update(stop_signals)
            if turn.began is not None:
                self._seconds += (now() - turn.began - self._seconds) / 16
            if turn.has_come:
                self._leave()
            elif turn.comes in self._queue:
                self._queue.remove(turn.comes)
                self._metrics.queued(self.queued)

    def _leave(self) -> None:
        while self._queue:
            turn = self._queue.popleft()
            if not turn.done():
                turn.set_result(None)
                break
        else:
            self.inside -= 1
        self._metrics.queued(self.queued)

    async def drain(self, seconds: float) -> None:
        """Takes no new requests and refuses those that wait. Those that run have `seconds` to finish; then they answer
        with their best so far. Returns when all have ended, at the latest `GRACE` seconds after that."""
        self.draining = True
        for turn in self._queue:
            if not turn.done():
                turn.set_exception(Unavailable("the server is going down", code="draining", retry_after=5))
        await self._empty(seconds, self._hurried)
        for stop_signal in list(self._stop_signals):
            stop_signal.set("draining")
        await self._empty(GRACE, asyncio.Event())

    def hurry(self) -> None:
        """A drain no longer waits: those that run answer with their best so far."""
        self._hurried.set()

    async def _empty(self, seconds: float, enough: asyncio.Event) -> None:
        end = now() + seconds
        while self.inside and now() < end and not enough.is_set():  # noqa: ASYNC110 - once in a server's life
            await asyncio.sleep(0.02)
