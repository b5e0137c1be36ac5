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
        self._timeout: asyncio.Timeout | None = None

    def set(self, reason: StoppedBy = "draining") -> None:
        """End the run now. The first reason stands."""
        if self.reason is None:
            self.reason = reason
        if self._timeout is not None and not self._timeout.expired():
            self._timeout.reschedule(0)

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
