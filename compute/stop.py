"""The signal that ends a run before its time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from ponder.compute.outcome import StoppedBy


class StopSignal:
    """Ends a run early, from outside: it answers with its best so far."""

    def __init__(self) -> None:
        self.reason: StoppedBy | None = None
        self.expired = False
        """The time was up or the signal was set; a `TimeoutError` of somebody else's does not say so."""
        self._until: float | None = None
        """Loop time by which the answer has to be complete, where one was set."""
        self._timeout: asyncio.Timeout | None = None
        self._ending: asyncio.Timeout | None = None

    def set(self, reason: StoppedBy = "draining", seconds: float | None = None) -> None:
        """End the run now. `seconds` are left for completing its answer; else those that its deadline leaves. The first
        reason stands."""
        if self.reason is None:
            self.reason = reason
        if seconds is not None:
            self._until = asyncio.get_running_loop().time() + seconds
        if self._timeout is not None and not self._timeout.expired():
            self._timeout.reschedule(0)
        if self._ending is not None and not self._ending.expired():
            self._ending.reschedule(self._sooner(self._ending.when()))

    @asynccontextmanager
    async def scope(self, deadline: float | None) -> AsyncGenerator[None]:
        """Work inside ends with `TimeoutError` at `deadline` (loop time) or when it is set."""
        async with asyncio.timeout_at(deadline) as timeout:
            self._timeout = timeout
            try:
                if self.reason is not None:
                    timeout.reschedule(0)
                yield
            finally:
                self._timeout = None
                self.expired = timeout.expired()

    @asynccontextmanager
    async def ending(self, deadline: float | None) -> AsyncGenerator[None]:
        """Work inside completes an answer: it ends with `TimeoutError` at `deadline` (loop time), or when the seconds
        are over that were left when the signal was set."""
        async with asyncio.timeout_at(self._sooner(deadline)) as timeout:
            self._ending = timeout
            try:
                yield
            finally:
                self._ending = None

    def _sooner(self, deadline: float | None) -> float | None:
        return min((at for at in (deadline, self._until) if at is not None), default=None)
