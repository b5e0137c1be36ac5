"""Commits what the ledger is told: a thread of its own takes all that has come since it last looked into one
transaction, so that many requests wait for the disk together, and the event loop for nothing.

A transaction first renews the sign of life of this process. Where the row of the process is no longer as it left it,
another process has declared this one dead and settled its open rows: those stay as they are, and this process goes on
under a new epoch. Where the database is away, openings are refused, and what is owed is tried again until it is back.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from sqlalchemy import Connection, Engine, Table, bindparam, delete, insert, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, SQLAlchemyError, StatementError

from ponder.metering import leases
from ponder.metering.clock import SharedClock, milliseconds
from ponder.metering.database import ASKED
from ponder.metering.leases import Ask, Lease, Window
from ponder.metering.processes import LEASE, Process, Watcher, name_sessions, sessions
from ponder.metering.retention import DAY, Retention, expire_answers
from ponder.metering.tables import requests, servers

log = logging.getLogger(__name__)

HEARTBEAT = 10.0
"""Seconds between two signs of life of a process that has nothing to write."""
BETWEEN = 0.02
"""Seconds between two transactions that delete old rows, where nobody has anything to write."""
AGAIN = (0.1, 1.0)
"""Seconds between two tries while the database is away: the first, and the most."""
STUCK = 2.0
"""Seconds a transaction may take until the database counts as away."""
MOST = 1000
"""Changes in one transaction, at most."""
ANSWERS = 2000
"""Answers, and keys, that are forgotten at a time, each `HEARTBEAT`."""
FORGOTTEN = 30 * DAY
"""Milliseconds after which the row of a process that has ended goes."""
LAST = 5.0
"""Seconds in which what is owed must be written when the process ends."""

Kind = Literal["open", "checkpoint", "settle"]
Settled = Mapping[str, Any]
"""A settled row, by its columns."""


class Away(Exception):
    """The database does not answer, or cannot write."""

    def __init__(self, word: str, *, again: bool = True) -> None:
        """`again`: a settlement is tried again."""
        super().__init__(word)
        self.again = again


@dataclass(eq=False, slots=True)
class Entry:
    """The row of one request."""

    values: dict[str, Any]
    """What stands in it when it is opened."""
    nothing: Mapping[str, Any]
    """What is set where it is settled without having been begun."""
    epoch: int = 0
    """Under which it was written; 0: nobody has tried yet."""
    void: bool = False
    """Its opening failed, or nobody waits for it any more: it is settled without counts, should it be there."""
    taken: bool = False
    """Another process has settled it."""
    windows: tuple[Window, ...] = ()
    """The limits of its key, which it spends of."""


@dataclass(eq=False, slots=True)
class Change:
    """Something to be written."""

    kind: Kind
    entry: Entry
    values: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """New values of the row; none for an opening."""
    done: asyncio.Future[None] | None = None
    """Told when it is durable, or `Away`."""
    fresh: bool = True
    """It has not been tried before."""


@dataclass(frozen=True, slots=True)
class Leasing:
    """A lease that is asked for, or one of which so much is needed no more."""

    ask: Ask
    heard: Callable[[Lease | None, int], None]
    """Told on the event loop what an ask has come to, None where the database is away, and the epoch it holds for; of
    what is given back only where nothing came of it: the database is away, or the epoch was another."""
    give_back: int = 0
    epoch: int = 0
    """Under which what is given back was leased."""


_UPDATE = update(requests).where(
    requests.c.id == bindparam("_id"), requests.c.epoch == bindparam("_epoch"), requests.c.settled_ms.is_(None)
)
"""What is set is read off the values it is given."""
_RENEW = (
    update(servers)
    .where(servers.c.id == bindparam("_id"), servers.c.epoch == bindparam("_epoch"), servers.c.ended_ms.is_(None))
    .values(seen_ms=bindparam("_now"))
)


class Writer:
    """The thread that writes, and the process it writes for."""

    def __init__(
        self,
        engine: Engine,
        me: Process,
        checkpoint: int,
        told: Callable[[Sequence[Settled]], None],
        drifted: Callable[[int], None],
        committed: Callable[[float], None],
        recover: Callable[[Connection, Process, int, int | None], Sequence[Settled]],
        days: int | None = None,
        clock: Callable[[], int] | None = None,
        lease: float = LEASE,
    ) -> None:
        """`checkpoint` is written beside the process, for whoever settles its rows when it is dead: tokens of each live
        chain that may be in none. `told` is called on the event loop with rows that were settled just now, `drifted`
        with the tokens that were made for a request and are not in its row, because another process had settled it;
        `committed` in the thread with the seconds a commit took. `recover` settles the rows of a dead process, by its
        epoch and its checkpoint, None where it may have made more behind that and could not say so. Settled rows older
        than `days` are deleted; None keeps them. `clock`: by which windows of limits are over. `lease`: seconds of
        silence after which another server is dead."""
        self._engine, self._me, self._checkpoint = engine, me, checkpoint
        self._told, self._committed = told, committed
        self._drifted, self._recover, self._watcher = drifted, recover, Watcher(me, lease)
        self._retention, self._clock = Retention(days), clock or milliseconds
        self._loop = asyncio.get_running_loop()
        self._changes: queue.SimpleQueue[Change | Leasing | None] = queue.SimpleQueue()
        self._owed: list[Change] = []
        """Settlements that could not be written so far, in their order."""
        self._epoch = 0
        self._failing = False
        self.unsettled = 0
        """Requests whose row is open, for all that is known here."""
        self.pending = 0
        """Changes that are on their way to the database."""
        self._signed = time.monotonic()
        """When the transaction began that has given the last sign of life which is durable."""
        self._since: float | None = None
        """When the transaction that is under way began."""
        self._insert = insert_of(engine, requests)
        name_sessions(engine, me)
        self._thread = threading.Thread(target=self._run, name="ledger", daemon=True)
        self._ended = threading.Event()

    # -- on the event loop --------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Signs this process in and settles what the dead have left, in the thread that asks; then begins to write.
        Raises what the database does."""
        with self._engine.begin() as connection:
            self._renew(connection)
        self._sweep()
        self._thread.start()

    @property
    def away(self) -> bool:
        """The database does not answer, as far as is known."""
        since = self._since
        return self._failing or (since is not None and time.monotonic() - since > STUCK)

    @property
    def silent(self) -> float:
        """Seconds for which nobody may have heard of this process."""
        return time.monotonic() - self._signed

    def put(self, change: Change) -> None:
        """Has a change written after those before it."""
        self.pending += 1
        self._changes.put(change)

    def lease(self, leasing: Leasing) -> None:
        """Has a lease taken or given back, behind the changes before it."""
        self._changes.put(leasing)

    async def close(self) -> None:
        """Writes what is owed and signs this process out. Where the database is away longer than `LAST` seconds, open
        rows are left to the next process."""
        self._changes.put(None)
        await asyncio.to_thread(self._thread.join, LAST)

    # -- in the thread ------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        pause, swept = AGAIN[0], time.monotonic()
        while True:
            batch, leasing, ends = self._take()
            self._write(batch)
            if leasing:
                self._lease(leasing)
            if not self._failing and time.monotonic() - swept > HEARTBEAT:
                swept = time.monotonic()
                self._swept()
            if ends:
                self._end()
                return
            if self._failing:
                time.sleep(pause)
                pause = min(2 * pause, AGAIN[1])
            else:
                pause = AGAIN[0]

    def _take(self) -> tuple[list[Change], list[Leasing], bool]:
        """All that has come, and whether that is the end. Waits for the first unless something is owed, and not for
        long where old rows are to go."""
        batch: list[Change] = []
        leasing: list[Leasing] = []
        try:
            wait = BETWEEN if self._retention.due else HEARTBEAT
            change = self._changes.get(block=not self._failing, timeout=wait)
            while change is not None:
                if isinstance(change, Leasing):
                    leasing.append(change)
                else:
                    batch.append(change)
                if len(batch) + len(leasing) >= MOST:
                    return batch, leasing, False
                change = self._changes.get_nowait()
        except queue.Empty:
            return batch, leasing, False
        return batch, leasing, True

    def _write(self, batch: Sequence[Change]) -> None:
        """Writes what is owed and a batch; or refuses the openings and owes the settlements."""
        owed, self._owed = self._owed, []
        whole = [*owed, *batch]
        try:
            self._commit(whole)
        except Exception as error:  # noqa: BLE001 (drivers refuse values as they like; without this thread nothing is begun)
            if isinstance(error, SQLAlchemyError) and not _of_a_row(error):
                self._put_off(whole, error)
            elif len(whole) > 1:
                for change in whole:
                    self._write([change])
            else:
                self._give_up(whole, error)

    def _commit(self, batch: Sequence[Change]) -> None:
        self._since = began = time.monotonic()
        try:
            try:
                drift = self._transaction(batch)
            except DBAPIError as error:
                # A connection goes stale when the database is started again. What was committed all the same changes
                # nothing the second time.
                if not error.connection_invalidated:
                    raise
                drift = self._transaction(batch)
        finally:
            self._since = None
        for tokens in drift:
            self._call(self._drifted, tokens)
        if self._failing:
            self._failing = False
            log.warning("the ledger writes again; %d settlements that had waited are written", len(batch))
        self._committed(time.monotonic() - began)
        if batch:
            self._call(self._resolve, batch, None)

    def _transaction(self, batch: Sequence[Change]) -> Sequence[int]:
        began = time.monotonic()
        with self._engine.begin() as connection:
            self._renew(connection)
            drift = self._apply(connection, batch)
            if self._retention.due:
                self._retention.expire(connection, len(batch))
        self._signed = began
        return drift

    def _lease(self, leasing: Sequence[Leasing]) -> None:
        """Leases, in a transaction of their own: what they wait for, the requests of other keys need not."""
        asking = [one for one in leasing if not one.give_back]
        giving = [one for one in leasing if one.give_back]
        taken: list[Lease] = []
        self._since = time.monotonic()
        try:
            if not self._failing:
                with self._engine.begin() as connection:
                    self._renew(connection)
                    given = [(o.ask.window, o.give_back) for o in leasing if o.give_back and o.epoch == self._epoch]
                    leases.give_back(connection, self._me.id, given)
                    found = leases.take(connection, self._me.id, [one.ask for one in asking])
                # Not before it is committed: that may fail, and what nobody has written down others lease, too.
                taken = found
                # Under an earlier epoch: what runs has kept its places, so whoever gives one back asks what there is.
                giving = [one for one in giving if one.epoch != self._epoch]
        except SQLAlchemyError as error:
            log.warning("the ledger could not lease from the limits of keys (%s)", _word(error))
        finally:
            self._since = None
        for i, one in enumerate(asking):
            self._call(one.heard, taken[i] if taken else None, self._epoch)
        for one in giving:
            self._call(one.heard, None, self._epoch)

    def _renew(self, connection: Connection) -> None:
        """Gives a sign of life under the epoch of this process, or begins a new epoch."""
        if isinstance(self._clock, SharedClock):
            self._clock.look(connection)
        now = milliseconds()
        renewed = connection.execute(_RENEW, {"_id": self._me.id, "_epoch": self._epoch, "_now": now})
        if renewed.rowcount == 1:
            return
        row = servers.c.id == self._me.id
        last = connection.execute(select(servers.c.epoch).where(row)).scalar_one_or_none()
        me = {
            "machine": self._me.machine,
            "pid": self._me.pid,
            "started": self._me.started,
            "checkpoint": self._checkpoint,
        }
        if last is None:
            self._epoch = 1
            connection.execute(insert(servers).values(id=self._me.id, epoch=1, seen_ms=now, **me))
            return
        log.warning("another server took this one for dead and settled its open requests; it goes on")
        self._epoch = last + 1
        connection.execute(update(servers).where(row).values(epoch=self._epoch, seen_ms=now, ended_ms=None))

    def _apply(self, connection: Connection, batch: Sequence[Change]) -> Sequence[int]:
        """Writes a batch; the tokens of each settlement that comes too late. Nobody is told of them here, for a
        transaction may fail and be tried again."""
        drift: list[int] = []
        opened: list[dict[str, Any]] = []
        looked: list[dict[str, Any]] = []
        settled: list[dict[str, Any]] = []
        for change in batch:
            entry = change.entry
            if change.kind == "open":
                entry.epoch = self._epoch
                opened.append(entry.values | {"owner": self._me.id, "epoch": self._epoch})
            elif entry.epoch and entry.epoch != self._epoch:
                if change.kind == "settle" and not entry.void:
                    drift.append(self._too_late(connection, change))
            elif entry.epoch:
                rows = looked if change.kind == "checkpoint" else settled
                rows.append({"_id": entry.values["id"], "_epoch": entry.epoch, **change.values})
        if opened:
            connection.execute(self._insert, opened)
        if looked:
            connection.execute(_UPDATE, looked)
        if settled:
            if spent := self._spent(connection, batch):
                leases.spend(connection, self._me.id, spent)
            connection.execute(_UPDATE, settled)
        return drift

    def _spent(self, connection: Connection, batch: Sequence[Change]) -> Mapping[Window, int]:
        """What the requests that a batch settles take of the limits of their keys. One that is settled already does not
        a second time: it may be tried again where the database went away behind a commit."""
        limited = {
            change.entry.values["id"]: change
            for change in batch
            if change.kind == "settle" and change.entry.windows and change.entry.epoch == self._epoch
        }
        ids, spent = list(limited), dict[Window, int]()
        for at in range(0, len(ids), ASKED):
            open_ = select(requests.c.id).where(
                requests.c.id.in_(ids[at : at + ASKED]),
                requests.c.epoch == self._epoch,
                requests.c.settled_ms.is_(None),
            )
            for id in connection.execute(open_).scalars():
                for window in limited[id].entry.windows:
                    spent[window] = spent.get(window, 0) + leases.amount(window.kind, limited[id].values)
        return spent

    def _too_late(self, connection: Connection, change: Change) -> int:
        """Another process has settled the request, as it was last seen: the tokens that were made beyond that."""
        change.entry.taken = True
        row = requests.c.id == change.entry.values["id"]
        found = connection.execute(select(requests.c.thinking + requests.c.answer).where(row)).scalar_one_or_none()
        made = change.values["thinking"] + change.values["answer"]
        return made - (found or 0)

    def _put_off(self, batch: Sequence[Change], error: SQLAlchemyError) -> None:
        """The database is away. A row that may have been opened all the same is closed when it is back."""
        for change in batch:
            if change.kind == "open":
                change.entry.void = True
                self._owed.append(Change("settle", change.entry, change.entry.nothing, fresh=False))
            elif change.kind == "settle":
                self._owed.append(Change("settle", change.entry, change.values, fresh=False))
        if not self._failing:
            self._failing = True
            log.error("the ledger cannot write (%s): no request is admitted until it can", _word(error))
        self._call(self._resolve, batch, Away(_word(error)))

    def _give_up(self, batch: Sequence[Change], error: Exception) -> None:
        """A row that the database will never take."""
        log.error("the ledger refuses a row (%s)", _word(error))
        self._call(self._resolve, batch, Away(_word(error), again=False))

    def _now(self) -> int:
        """By the clock of all who share the database."""
        return self._clock() if isinstance(self._clock, SharedClock) else milliseconds()

    def _swept(self) -> None:
        try:
            self._sweep()
        except SQLAlchemyError as error:
            log.warning("the ledger could not look for dead servers (%s)", _word(error))

    def _sweep(self) -> None:
        """Settles the open rows of dead processes, and deletes rows, answers and keys that are old."""
        with self._engine.begin() as connection:
            others = connection.execute(
                select(servers).where(servers.c.ended_ms.is_(None), servers.c.id != self._me.id)
            ).mappings()
            dead = [
                (process, row["epoch"], row["checkpoint"] if how == "ended" else None)
                for row in others
                if (
                    how := self._watcher.dead(
                        process := Process(row["id"], row["machine"], row["pid"], row["started"]),
                        row["epoch"],
                        row["seen_ms"],
                    )
                )
            ]
            if dead:
                alive = sessions(connection)
                dead = [one for one in dead if one[0].id not in alive]
            connection.execute(delete(servers).where(servers.c.ended_ms < milliseconds() - FORGOTTEN))
            leases.forget(connection, self._clock(), self._now())
            self._retention.expire(connection, 0)
            expire_answers(connection, ANSWERS)
        for process, epoch, checkpoint in dead:
            with self._engine.begin() as connection:
                fenced = connection.execute(
                    update(servers)
                    .where(servers.c.id == process.id, servers.c.epoch == epoch, servers.c.ended_ms.is_(None))
                    .values(epoch=epoch + 1, ended_ms=self._now())
                )
                rows = self._recover(connection, process, epoch, checkpoint) if fenced.rowcount == 1 else ()
            if rows:
                log.warning("a server died with %d requests open; they are settled as they were last seen", len(rows))
                self._call(self._told, rows)

    def _end(self) -> None:
        """The last transaction: this process has ended. Rows that are open yet are settled as they were last seen, for
        nobody looks for those of a process that has ended; unless something is owed."""
        end = time.monotonic() + LAST
        while self._failing and time.monotonic() < end:
            time.sleep(AGAIN[0])
            self._write(())
        if self._owed or self._failing:
            log.error("the ledger is away: %d requests are left open, for the next server to settle", len(self._owed))
            return
        with contextlib.suppress(SQLAlchemyError):
            with self._engine.begin() as connection:
                ended = connection.execute(
                    update(servers)
                    .where(servers.c.id == self._me.id, servers.c.epoch == self._epoch)
                    .values(ended_ms=self._now())
                )
                left = ended.rowcount == 1
                rows = self._recover(connection, self._me, self._epoch, self._checkpoint) if left else ()
            if rows:
                log.error(
                    "%d requests were not settled when the server ended; they are as they were last seen", len(rows)
                )
                self._call(self._told, rows)
        self._engine.dispose()

    def _call(self, what: Callable[..., None], *arguments: Any) -> None:
        with contextlib.suppress(RuntimeError):  # The loop is closed: nobody waits any more.
            self._loop.call_soon_threadsafe(what, *arguments)

    def _resolve(self, batch: Sequence[Change], error: Away | None) -> None:
        """On the event loop: what a batch has come to."""
        if error is None:
            rows: list[Settled] = [
                {**change.entry.values, **change.values}
                for change in batch
                if change.kind == "settle" and not (change.entry.void or change.entry.taken)
            ]
            if rows:
                self._told(rows)
        for change in batch:
            self.pending -= change.fresh
            if change.kind == "settle" and not change.entry.void and (error is None or not error.again):
                self.unsettled -= 1
            if change.done is not None and not change.done.done():
                if error is None:
                    change.done.set_result(None)
                else:
                    change.done.set_exception(error)


def insert_of(database: Engine | Connection, table: Table) -> Any:
    """Rows that are put in where none with their id, or whatever else is unique in them, is there yet."""
    make = postgresql.insert if database.dialect.name == "postgresql" else sqlite.insert
    return make(table).on_conflict_do_nothing()


def _of_a_row(error: SQLAlchemyError) -> bool:
    """The fault is a row's, not the database's."""
    if isinstance(error, DBAPIError):
        return isinstance(error, DataError | IntegrityError)
    return isinstance(error, StatementError)


def _word(error: Exception) -> str:
    """What a database said, without the statement and its values."""
    if isinstance(error, DBAPIError) and error.orig is not None:
        return type(error.orig).__name__
    return type(error).__name__
