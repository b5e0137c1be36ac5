"""An event loop with a virtual clock: where every task waits for a timer, the clock jumps to the next one.

Work in threads is waited for, and the clock stands meanwhile. Sockets and processes are waited for only where no task
waits for a timer: with a timeout around one, the timeout comes first. So what talks to either is tested in real time.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable
from typing import Any


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """For `asyncio.Runner(loop_factory=VirtualTimeLoop)`. Its time begins at 0 and is in whatever unit sleeps are."""

    def __init__(self) -> None:
        self._jumping = _Jumping()
        super().__init__(self._jumping)

    @property
    def _clock_resolution(self) -> float:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Timers within this of now are due: a nanosecond, which vanishes beside a time of ten million; there more."""
        return max(1e-9, 1e-12 * self._jumping.now)

    @_clock_resolution.setter
    def _clock_resolution(self, _: float) -> None:
        """The loop sets that of the machine's clock."""

    def time(self) -> float:
        return self._jumping.now

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> asyncio.Future[Any]:
        work = super().run_in_executor(executor, func, *args)
        self._jumping.threads += 1
        work.add_done_callback(self._came_back)
        return work

    def _came_back(self, _: asyncio.Future[Any]) -> None:
        self._jumping.threads -= 1


class _Jumping(selectors.DefaultSelector):
    """A selector that jumps to the end of a wait instead of waiting, unless a thread is at work."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.threads = 0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None or (self.threads and timeout > 0):
            return super().select(None)
        ready = super().select(0)
        if not ready:
            self.now += max(0.0, timeout)
        return ready
