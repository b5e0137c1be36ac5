"""The ledger of a simulation: the real one, its writer on the loop in place of a thread, its SQL in memory.

A transaction takes time on its way there and back. On either it may be lost: so it has happened or has not, and who
asked does not know.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from functools import cache
from typing import Any

from sqlalchemy import Engine, create_engine, event
from sqlalchemy.exc import OperationalError
from sqlalchemy.pool import NullPool, StaticPool

from ponder.metering.clock import milliseconds
from ponder.metering.database import database
from ponder.metering.leases import PLACES, Window, forget
from ponder.metering.ledger import Ledger, Watch
from ponder.metering.processes import Process, this_process
from ponder.metering.tables import metadata
from ponder.metering.writer import AGAIN, HEARTBEAT, STUCK, Change, Leasing, Writer
from tests.simulation.world import World

AWAY = 4.0
"""Seconds that the database is away at most, each time."""
SLOW = 4.0
"""Seconds of a slow way to it, at most."""
QUICK = 0.004


class _Kept(sqlite3.Connection):
    """A database in memory lives as long as its connection."""

    def close(self) -> None:
        """Whoever closes it may be one of several servers."""


@cache
def _empty() -> bytes:
    """A ledger without rows."""
    engine = create_engine("sqlite://", poolclass=StaticPool)
    metadata.create_all(engine)
    raw = engine.raw_connection().driver_connection
    assert isinstance(raw, sqlite3.Connection)
    return raw.serialize()


class _Way:
    """The way to the database of the simulation that runs. One for all, for statements are compiled once for each."""

    def __init__(self) -> None:
        self.engine = create_engine("sqlite://", poolclass=NullPool, creator=lambda: self.disk.connection)
        event.listen(self.engine, "begin", self._begins)
        event.listen(self.engine, "commit", self._commits)

    disk: Disk

    def _begins(self, connection: Any) -> None:
        self.disk.begins(connection)

    def _commits(self, connection: Any) -> None:
        self.disk.commits()


_way = cache(_Way)


class Disk:
    """The database that all servers of a simulation share."""

    def __init__(self, world: World) -> None:
        self.world = world
        way = _way()
        way.disk, self.engine = self, way.engine
        self.connection = sqlite3.connect(":memory:", factory=_Kept, isolation_level=None, check_same_thread=False)
        self.connection.deserialize(_empty())
        self.servers: dict[str, bool] = {}
        """Those that have been, and whether each is dead."""
        self._away_until = 0.0

    def begins(self, connection: Any) -> None:
        """A transaction begins, unless the database is away."""
        if self.world.loop.time() < self._away_until and not self.world.healed:
            raise _error("away")
        if self.world.strikes("database_away", "database"):
            self._away_until = self.world.loop.time() + AWAY * self.world.chance("away").random()
            raise _error("away")
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    def commits(self) -> None:
        """A transaction is about to be committed: it may be, and nobody hear of it."""
        lost = self.world.strikes("lost_commit", "database")
        twice = self.world.strikes("twice", "database")
        if lost or twice:
            self.connection.execute("COMMIT")
            raise _error("nobody heard of the commit", gone=twice)

    def minutes_pass(self) -> None:
        """So many that nothing runs any more of servers that were taken for dead."""
        with self.engine.begin() as connection:
            forget(connection, self.world.now_ms(), milliseconds() + PLACES + 1)

    def rows(self) -> dict[str, dict[str, Any]]:
        """All requests, by their ids."""
        found = self.connection.execute("SELECT * FROM requests ORDER BY begun_ms, id")
        names = [column[0] for column in found.description]
        return {row[names.index("id")]: dict(zip(names, row, strict=True)) for row in found}

    def leased(self) -> list[tuple[str, str, int, int]]:
        """Of each window of a limit: its key, its kind, when it began, what is leased of it and was spent without."""
        words = (
            "SELECT w.key, w.kind, w.begun_ms, w.before + (SELECT coalesce(sum(l.leased), 0) FROM limit_leases l "
            "WHERE l.key = w.key AND l.kind = w.kind AND l.begun_ms = w.begun_ms) FROM limit_windows w"
        )
        return list(self.connection.execute(words))


def _error(word: str, *, gone: bool = False) -> OperationalError:
    return OperationalError("", None, sqlite3.OperationalError(word), connection_invalidated=gone)


class _Watcher:
    """Knows which servers of a simulation are dead."""

    def __init__(self, disk: Disk, *, all_of_them: bool = False) -> None:
        self._disk, self._all = disk, all_of_them

    def dead(self, other: Process, epoch: int, seen_ms: int) -> bool:
        return self._all or self._disk.servers[other.id]


class SteppedWriter(Writer):
    """The real writer; what its thread would do at a time is done at a moment of the loop."""

    disk: Disk

    def __init__(self, engine: Engine, me: Process, *args: Any, **more: Any) -> None:
        super().__init__(engine, me, *args, **more)
        self.disk.servers[me.id] = False
        self._watcher: Any = _Watcher(self.disk)
        self._began: float | None = None
        self._calls: list[tuple[Callable[..., None], tuple[Any, ...]]] | None = None
        self._pause = AGAIN[0]
        self.dead = False
        """Its process was killed: nothing of it arrives any more."""
        self._signs: asyncio.TimerHandle | None = None

    def start(self) -> None:
        with self._engine.begin() as connection:
            self._renew(connection)
        self._sweep()
        self._sign()

    @property
    def away(self) -> bool:
        return self._failing or (self._began is not None and self._loop.time() - self._began > STUCK)

    def put(self, change: Change) -> None:
        super().put(change)
        self._wake()

    def lease(self, leasing: Leasing) -> None:
        super().lease(leasing)
        self._wake()

    async def close(self) -> None:
        if self._signs is not None:
            self._signs.cancel()
        while not self.dead and (self._began is not None or not self._changes.empty() or self._failing):
            self._wake()
            await asyncio.sleep(0.1)
        if not self.dead:
            self._end()

    def kill(self) -> None:
        self.dead = True
        self.disk.servers[self._me.id] = True
        if self._signs is not None:
            self._signs.cancel()

    def _sign(self) -> None:
        """A sign of life, now and then."""
        self._wake()
        self._signs = self._loop.call_later(HEARTBEAT, self._sign)

    def _wake(self) -> None:
        if self._began is None and not self.dead:
            self._began = self._loop.time()
            self._loop.call_later(self._way("there"), self._step)

    def _way(self, name: str) -> float:
        slow = self.disk.world.strikes("slow_database", f"way {name}")
        return (SLOW if slow else QUICK) * self.disk.world.chance(f"way {name}").random()

    def _step(self) -> None:
        if self.dead:
            return
        self._calls = []
        batch, leasing = (), ()
        if not self._changes.empty() or self._failing:
            batch, leasing, _ = self._take()
        self._write(batch)
        if leasing:
            self._lease(leasing)
        told, self._calls = self._calls, None
        kinds = " ".join(change.kind for change in batch)
        self.disk.world.log(f"database: [{kinds}] and {len(leasing)} leases, {'away' if self._failing else 'written'}")
        self._loop.call_later(self._way("back"), self._back, told)

    def _back(self, told: list[tuple[Callable[..., None], tuple[Any, ...]]]) -> None:
        if self.dead:
            return
        self._began = None
        for what, arguments in told:
            what(*arguments)
        if self._failing:
            self._loop.call_later(self._pause, self._wake)
            self._pause = min(2 * self._pause, AGAIN[1])
        else:
            self._pause = AGAIN[0]
            if not self._changes.empty():
                self._wake()

    def _call(self, what: Callable[..., None], *arguments: Any) -> None:
        if self._calls is None:
            self._loop.call_soon(what, *arguments)
        else:
            self._calls.append((what, arguments))

    def fence(self) -> None:
        """Another server takes all others for dead, and settles what they have left open."""
        other = _writer(self.disk)(
            self._engine, this_process(), 0, _nobody, _nobody, _nobody, self._recover, clock=self._clock
        )
        other._watcher = _Watcher(self.disk, all_of_them=True)
        other._swept()
        self.disk.servers[other._me.id] = True


def _nobody(_: object) -> None:
    """Nobody wants to hear it."""


def _writer(disk: Disk) -> type[SteppedWriter]:
    """Those that write to it."""
    return type("DiskWriter", (SteppedWriter,), {"disk": disk})


class SimulatedLedger(Ledger):
    """The real ledger on such a disk, by the machine's clock."""

    def __init__(self, disk: Disk, watch: Watch, checkpoint: int) -> None:
        super().__init__(
            database("sqlite:////nowhere/ledger.db"),
            disk.engine,
            watch,
            checkpoint=checkpoint,
            clock=disk.world.now_ms,
            writer=_writer(disk),
        )

    @property
    def writer(self) -> SteppedWriter:
        assert isinstance(self._writer, SteppedWriter)
        return self._writer

    @property
    def held(self) -> dict[Window, int]:
        """What is reserved of the limits of keys, where anything is."""
        pools = self._limits._pools  # pyright: ignore[reportPrivateUsage]
        return {window: pool.held for window, pool in pools.items() if pool.held}
