"""Which server process is which, and whether one is dead: an open row is settled by another only where its owner is.

On the machine it runs on, the kernel knows: a process is a number and the moment it began. Of another machine only the
rows are seen, so a process there is dead when it has changed its row for `LEASE` seconds no more. That is measured by
the watcher's own monotonic clock, so it does not matter what time either machine thinks it is.
"""

from __future__ import annotations

import os
import secrets
import time
from dataclasses import dataclass
from pathlib import Path

LEASE = 60.0
"""Seconds without a sign of life after which a process on another machine is dead."""

PROC = Path("/proc")


@dataclass(frozen=True, slots=True)
class Process:
    """A server process."""

    id: str
    machine: str
    """The same for processes that see each other; empty where that is not known."""
    pid: int
    started: int
    """When it began, in ticks of its machine."""


def this_process() -> Process:
    """The process that asks, under a new id."""
    id = "srv_" + secrets.token_hex(8)
    try:
        boot = (PROC / "sys/kernel/random/boot_id").read_text().strip()
        space = os.readlink(PROC / "self/ns/pid")
        return Process(id, f"{boot} {space}", os.getpid(), _started(os.getpid()) or 0)
    except OSError:
        return Process(id, "", os.getpid(), 0)


def _started(pid: int) -> int | None:
    """When a process of this machine began; None where it has ended, waited for by its parent or not."""
    try:
        told = (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if told[0] in "ZX" else int(told[19])


class Watcher:
    """Looks at the rows of other processes again and again, and says which of them are dead."""

    def __init__(self, me: Process, lease: float = LEASE) -> None:
        self._me, self._lease = me, lease
        self._seen: dict[str, tuple[int, int, float]] = {}
        """By id: its epoch, its last sign of life, and when that was first looked at."""

    def dead(self, other: Process, epoch: int, seen_ms: int) -> bool:
        """The process is dead. One on another machine is not before it was watched for the lease."""
        if self._me.machine and other.machine == self._me.machine:
            return _started(other.pid) != other.started
        known = self._seen.get(other.id)
        if known is None or known[:2] != (epoch, seen_ms):
            self._seen[other.id] = epoch, seen_ms, time.monotonic()
            return False
        return time.monotonic() - known[2] > self._lease
