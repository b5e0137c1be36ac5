"""Tells when a process that should answer does not: it was stopped, or makes no token though it was asked for one.

A process that has died is seen by its exit status. These two are not: nothing of theirs ends, and whoever waits for a
token waits on. A stopped process is known by its state (proc(5)); a hung one by its silence. Silence alone says nothing
where nobody asked, so a quiet model is given a token to make.

Time is counted in looks at it, not read off a clock: a server that was itself stopped for an hour, together with its
engine, has not looked, and does not take the hour for silence.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

TICK = 0.5
"""Seconds between two looks."""
STOPPED = 3
"""Looks in a row at which a process is stopped, before that counts: a debugger or a checkpoint may stop it for a
moment."""
QUIET = 15.0
"""Seconds without a token after which the model is given one to make."""
STALL = 60.0
"""Seconds without a token, though one was asked for, after which it has hung; beside those in which it may be reading a
long prompt."""


class Watchdog:
    """What was seen of one life of a process."""

    def __init__(self, stall: float = STALL) -> None:
        self._stall = stall
        self._stopped = 0
        self._silent = 0.0
        self._progress: object = None

    @property
    def quiet(self) -> bool:
        """It is time to ask for a token."""
        return self._silent >= min(QUIET, self._stall / 2)

    def stopped(self, pids: Iterable[int]) -> bool:
        """One of them is stopped, and has been."""
        self._stopped = self._stopped + 1 if any(map(is_stopped, pids)) else 0
        return self._stopped >= STOPPED

    def stalled(self, progress: object, seconds: float, reading: float = 0.0) -> bool:
        """A look after `seconds`: no token came for too long. `progress` is something that changes with each;
        `reading`: seconds that what is being read may take."""
        if progress != self._progress:
            self._progress, self._silent = progress, 0.0
        else:
            self._silent += min(seconds, 2 * TICK)
        return self._silent >= self._stall + reading


def is_stopped(pid: int) -> bool:
    """By a signal, not by a tracer. False where that cannot be told."""
    try:
        told = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return told.rpartition(")")[2].split()[0] == "T"


def descendants(pid: int) -> list[int]:
    """It and the processes below it; itself alone where that cannot be told."""
    found = [pid]
    for one in found:
        # Any of them may end while it is looked at.
        with suppress(OSError):
            for thread in os.listdir(f"/proc/{one}/task"):
                with suppress(OSError):
                    found += map(int, Path(f"/proc/{one}/task/{thread}/children").read_text().split())
    return found


def killed_for_memory() -> int:
    """Processes the kernel has killed for want of memory since it was started, as far as can be told from here."""
    try:
        lines = Path("/proc/vmstat").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), 0)
