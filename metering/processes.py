"""Which server process is which, and whether one is dead: an open row is settled by another only where its owner is.

On the machine it runs on, the kernel knows: a process is a number and the moment it began. Machines may be copies of
each other, down to the id of their boot, so a process that PostgreSQL has a session of lives, whatever the kernel says.
Of another machine only the rows are seen, so a process there is dead when it has changed its row for `LEASE` seconds no
more. That is measured by the watcher's own monotonic clock, so it does not matter what time either machine thinks it
is; and only while the watcher looks, for a database that was away takes the signs of life of all processes with it.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from sqlalchemy import Connection, Engine, event, text

LEASE = 60.0
"""Seconds without a sign of life after which a process on another machine is dead."""

Death = Literal["ended", "silent"]
"""ended: the kernel says so · silent: it gives no signs of life, and may be cut off from the database alone: what it
runs may run on."""

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
    """When a process of this machine began; None where it has ended, waited for by its parent or not. Raises
    `PermissionError` for one that runs and that /proc does not show: another user's, where it is mounted so."""
    try:
        told = (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        if _runs(pid):
            raise PermissionError from None
        return None
    return None if told[0] in "ZX" else int(told[19])


def _runs(pid: int) -> bool:
    """There is a process of this number, whoever's it is."""
    try:
        os.kill(pid, 0)
    except OSError as error:
        return isinstance(error, PermissionError)
    return True


def name_sessions(engine: Engine, process: Process) -> None:
    """Has the sessions of a PostgreSQL bear the id of the process behind the name of the application."""
    if engine.dialect.name != "postgresql":
        return

    def connected(connection: Any, _: object) -> None:
        named = "left(current_setting('application_name'), 40) || ' ' || %s"
        connection.execute(f"SELECT set_config('application_name', {named}, false)", (process.id,))
        connection.commit()

    event.listen(engine, "connect", connected)


def sessions(connection: Connection) -> set[str]:
    """The last words of the names of all sessions of this PostgreSQL that may be seen: ids of processes that are
    connected to it. A SQLite file has none, and no machine but its own."""
    if connection.dialect.name != "postgresql":
        return set()
    names = connection.execute(text("SELECT application_name FROM pg_stat_activity")).scalars()
    return {name.rpartition(" ")[2] for name in names if name}


class Watcher:
    """Looks at the rows of other processes again and again, and says which of them are dead."""

    def __init__(self, me: Process, lease: float = LEASE, clock: Callable[[], float] = time.monotonic) -> None:
        self._me, self._lease, self._clock = me, lease, clock
        self._seen: dict[str, tuple[int, int, float, float]] = {}
        """By id: its epoch, its last sign of life, and when that was looked at first and last."""

    def dead(self, other: Process, epoch: int, seen_ms: int) -> Death | None:
        """How the process is known to be dead; None: it is not. One on another machine is not before it was watched for
        the lease, without a gap: signs of life that nobody could see may have been in it."""
        if self._me.machine and other.machine == self._me.machine:
            with contextlib.suppress(PermissionError):
                return "ended" if _started(other.pid) != other.started else None
        now, known = self._clock(), self._seen.get(other.id)
        if known is None or known[:2] != (epoch, seen_ms) or now - known[3] > self._lease / 2:
            self._seen[other.id] = epoch, seen_ms, now, now
            return None
        self._seen[other.id] = epoch, seen_ms, known[2], now
        return "silent" if now - known[2] > self._lease else None
