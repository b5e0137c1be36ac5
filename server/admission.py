"""How many requests run and how many wait: bounded, first come first served, closed while the server drains."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager

from compute.errors import TooBusy, Unavailable
from compute.run import GRACE, Leash
from metering.metrics import Metrics


class Admission:
    """The places of one server, and the leashes of those who have one."""

    def __init__(self, running: int, waiting: int, metrics: Metrics) -> None:
        self.draining = False
        self.inside = 0
        """Requests that run."""
        self._most, self._queue_most, self._metrics = running, waiting, metrics
        self._queue: deque[asyncio.Future[None]] = deque()
        self._leashes: set[Leash] = set()
        self._seconds = 1.0
        """How long a place is kept, running mean."""

    @property
    def queued(self) -> int:
        """Requests that wait."""
        return len(self._queue)

    def check(self) -> None:
        """Raises `Unavailable` while draining and `TooBusy` when nobody more can wait: before a body is read."""
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
    async def place(self, leashes: Sequence[Leash], patience: float) -> AsyncGenerator[None]:
        """A place for the block. Waits at most `patience` seconds for one; the leashes are pulled when a drain
        takes too long. Raises `TooBusy` and `Unavailable`."""
        self.check()
        began = time.monotonic()
        if self.inside >= self._most:
            await self._wait(patience)
        else:
            self.inside += 1
        self._metrics.waited(time.monotonic() - began)
        self._leashes.update(leashes)
        began = time.monotonic()
        try:
            yield
        finally:
            self._leashes.difference_update(leashes)
            self._seconds += (time.monotonic() - began - self._seconds) / 16
            self._leave()

    async def _wait(self, patience: float) -> None:
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue.append(turn)
        self._metrics.queued(self.queued)
        try:
            async with asyncio.timeout(patience):
                await turn
        except TimeoutError:
            self._gave_up(turn)
            self._metrics.rejected("waited")
            raise TooBusy(
                "no place became free in the time this request has", code="server_busy", retry_after=self._seconds
            ) from None
        except BaseException:
            self._gave_up(turn)
            raise
        finally:
            if turn in self._queue:
                self._queue.remove(turn)
            self._metrics.queued(self.queued)

    def _gave_up(self, turn: asyncio.Future[None]) -> None:
        """Whoever waited has gone; a place handed over in the same moment is passed on."""
        if turn.done() and not turn.cancelled() and turn.exception() is None:
            self._leave()

    def _leave(self) -> None:
        while self._queue:
            turn = self._queue.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self.inside -= 1

    async def drain(self, seconds: float) -> None:
        """Nobody new comes in and nobody waits; those inside have `seconds` to finish, then answer with their best.
        Returns when all have left, or when they had time to answer and did not."""
        self.draining = True
        for turn in self._queue:
            if not turn.done():
                turn.set_exception(Unavailable("the server is going down", code="draining", retry_after=5))
        await self._empty(seconds)
        for leash in list(self._leashes):
            leash.pull("draining")
        await self._empty(GRACE)

    async def _empty(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while self.inside and time.monotonic() < end:  # noqa: ASYNC110 - once in a server's life
            await asyncio.sleep(0.02)
