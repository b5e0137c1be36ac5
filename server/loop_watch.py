"""Watches the event loop from a thread: how late it comes, and what code held it when it was late.

All streams share one loop. A function that works for a second in it stops them all for a second, and nobody can tell
afterwards which it was. The thread asks the loop for a sign; where that does not come in time, it looks where the loop
stands.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
import time
from collections.abc import Callable
from types import TracebackType

from ponder.server.ending import place

EVERY = 0.1
"""Seconds between two signs."""
HELD = 0.05
"""Seconds without a sign from which the loop counts as held."""
SAY_EVERY = 60.0
"""Seconds between two lines in the log about the same place."""
PLACES = 256
"""Places that are told apart in the log."""

log = logging.getLogger(__name__)


class LoopWatch:
    """Watches the running loop within a `with` block."""

    def __init__(self, lag: Callable[[float], None], held: Callable[[str], None]) -> None:
        """`lag` is told how many seconds late a sign came, on the loop; `held` where the loop stood when it was held,
        in the thread."""
        self._lag, self._held = lag, held
        self._over = threading.Event()
        self._sign = threading.Event()
        self._said: dict[str, float] = {}

    def __enter__(self) -> LoopWatch:
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._clock = time.pthread_getcpuclockid(self._thread)
        self._watch = threading.Thread(target=self._run, name="loop-watch", daemon=True)
        self._watch.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._over.set()

    def _run(self) -> None:
        while not self._over.wait(EVERY):
            self._sign.clear()
            asked, worked = time.perf_counter(), time.clock_gettime(self._clock)
            try:
                self._loop.call_soon_threadsafe(self._came, asked)
            except RuntimeError:
                return  # the loop is closed
            if not self._sign.wait(HELD):
                where = place(sys._current_frames().get(self._thread))  # pyright: ignore[reportPrivateUsage]
                self._held(where)
                while not self._sign.wait(EVERY) and not self._over.is_set():
                    pass
                self._tell(where, time.perf_counter() - asked, time.clock_gettime(self._clock) - worked)

    def _came(self, asked: float) -> None:
        self._sign.set()
        self._lag(time.perf_counter() - asked)

    def _tell(self, where: str, seconds: float, worked: float) -> None:
        now = time.monotonic()
        if now - self._said.get(where, float("-inf")) >= SAY_EVERY and (
            where in self._said or len(self._said) < PLACES
        ):
            self._said[where] = now
            log.warning(
                "the event loop was held for %.3f s (%.3f s of them at work) in %s; further times within %.0f s are "
                "only counted: ponder_event_loop_held_total",
                seconds,
                worked,
                where,
                SAY_EVERY,
            )
