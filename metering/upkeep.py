"""What is done to a ledger beside writing it: how it is, a copy and its way back, rows that go.

A copy is a SQLite ledger, whatever the ledger itself is kept in; so it is read like any other, and is also the way from
one kind of database to the other. All of this may be done while servers write.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from sqlalchemy import URL, Connection, Engine, Table, delete, func, select, update

from ponder.metering import api_keys
from ponder.metering.audit import record
from ponder.metering.database import Database, of_a_time
from ponder.metering.idempotency import forget_answers
from ponder.metering.ledger import as_last_seen, storable
from ponder.metering.migrate import check, migrate, prepare, version_of
from ponder.metering.response_rows import OPEN, forget_responses
from ponder.metering.retention import expire_answers, expire_some
from ponder.metering.tables import (
    audit,
    idempotency,
    key_hashes,
    keys,
    limit_leases,
    limit_windows,
    metadata,
    receipt_keys,
    requests,
    response_events,
    responses,
    servers,
    traces,
)
from ponder.metering.traces import forget_traces
from ponder.metering.writer import MOST, insert_of

ROWS = 500
"""Rows that are read at a time, and put somewhere: a statement of an old SQLite takes 999 values."""
PAUSE = 0.2
"""Seconds between two transactions of some work, at most."""


class NoSuchLedger(Exception):
    """There is nothing to read, or something where nothing should be; the message says which and where."""


@dataclass(frozen=True, slots=True)
class State:
    """How a ledger is."""

    place: str
    version: str | None
    """None where it was never written to."""
    rows: int = 0
    open: int = 0
    """Requests that run, or whose server died since anybody looked."""
    lost: int = 0
    """Settled from a checkpoint because their server died, and the tokens of theirs that are uncertain at most."""
    uncertain: int = 0
    unseen: int = 0
    """Whose counts are the least that is certain, because the end of a call was not seen."""
    servers: int = 0
    """That have not ended, as far as the ledger knows."""
    first_ms: int | None = None
    last_ms: int | None = None
    responses: int = 0
    """That are kept, and those of them that run behind their callers."""
    background: int = 0


def readable(place: Database) -> Engine:
    """Connections to a ledger that is there and of this version. Raises `NoSuchLedger` and `OtherVersion`."""
    _there(place)
    engine = place.engine(reads=True)
    with engine.connect() as connection:
        check(place, connection)
    return engine


def _there(place: Database) -> None:
    if place.file is not None and not place.file.is_file():
        raise NoSuchLedger(f"there is no ledger at {place}: `ponder serve` makes one")


def state(place: Database) -> State:
    """How a ledger is. Raises `NoSuchLedger` and `OtherVersion`."""
    _there(place)
    engine = place.engine(reads=True)
    with engine.connect() as connection:
        version = version_of(connection)
        if version is None:
            return State(str(place), None)
        check(place, connection)
        lost = requests.c.outcome == "lost"
        counted = connection.execute(
            select(
                func.count(),
                func.count().filter(requests.c.settled_ms.is_(None)),
                func.count().filter(lost),
                func.coalesce(func.sum(requests.c.uncertain), 0),
                func.count().filter(requests.c.unseen_calls > 0),
                func.min(requests.c.begun_ms),
                func.max(requests.c.begun_ms),
            ).select_from(requests)
        ).one()
        living = connection.execute(
            select(func.count()).select_from(servers).where(servers.c.ended_ms.is_(None))
        ).scalar_one()
        kept, running = connection.execute(
            select(func.count(), func.count().filter(responses.c.status.in_(OPEN))).select_from(responses)
        ).one()
    rows, open_, lost_, uncertain, unseen, first, last = counted
    return State(str(place), version, rows, open_, lost_, int(uncertain), unseen, living, first, last, kept, running)


# -- copies -----------------------------------------------------------------------------------------------------------


def copy(place: Database, file: Path) -> int:
    """Copies all rows as they are at one moment into a new SQLite file; how many requests. Left out are answers kept
    for an `Idempotency-Key`, responses and traces, which are not to last, and what keys have taken of their limits: it
    follows from the rows. Raises `NoSuchLedger` where there is no ledger, or a file already."""
    if file.exists():
        raise NoSuchLedger(f"{file} is there already: name a new file")
    # Under another name until it is whole: half a copy would look like one.
    half = file.absolute().with_name(file.name + ".part")
    for left in ("", "-wal", "-shm"):
        half.with_name(half.name + left).unlink(missing_ok=True)
    source, made = readable(place), Database(URL.create("sqlite", database=str(half)))
    target = made.engine()
    migrate(target)
    with source.connect() as reading, target.begin() as writing:
        for table in metadata.sorted_tables:
            if table not in (idempotency, responses, response_events, traces, limit_windows, limit_leases):
                _all_put(reading, writing, table)
        count = writing.execute(select(func.count()).select_from(requests)).scalar_one()
    # What was written ahead goes into the file itself, so that the one file is all there is.
    _pragma(target, "journal_mode=DELETE")
    half.rename(file)
    source.dispose()
    return count


def restore(place: Database, file: Path, who: str = "an administrator") -> tuple[int, int]:
    """Puts the requests of a copy into a ledger, some at a time, so that no server waits long, and its API keys and
    what administrators did; how many requests, and how many were there already and stay as they are. Those that
    were open when the copy was made are settled as they were last seen. A key that is there stays as it is: one
    that was revoked since is not revived. `who` stands in the audit. Cut off in the middle it can be done again.
    Raises `NoSuchLedger` and `OtherVersion`."""
    if not file.is_file():
        raise NoSuchLedger(f"there is no file {file}")
    with TemporaryDirectory() as folder:
        # An older copy is brought to this version, and the file itself stays as it is.
        copied = Database(URL.create("sqlite", database=str(Path(folder) / "copy.db")))
        shutil.copyfile(file, Path(folder) / "copy.db")
        old = copied.engine()
        migrate(old)
        old.dispose()
        reading, target = readable(copied), place.engine(long=True)
        prepare(place, target)
        offered = new = 0
        with _in_turn(target) as writing:
            record(writing, who, "ledger.restored", file.name)
            with reading.connect() as found:
                for table in (keys, key_hashes, audit, receipt_keys):
                    _all_put(found, writing, table)
            api_keys.changed(writing)
        for some in _kept(reading):
            with _in_turn(target) as writing:
                new += _put(writing, requests, some)
            offered += len(some)
        reading.dispose()
        target.dispose()
    return new, offered - new


def _kept(engine: Engine) -> Iterator[Sequence[dict[str, Any]]]:
    """The requests of a copy, some at a time; those that were open are settled as they were last seen."""
    with engine.connect() as connection:
        intervals = {row.id: row.checkpoint for row in connection.execute(select(servers))}
        wanted = connection.execution_options(yield_per=ROWS).execute(select(requests))
        for some in wanted.mappings().partitions(ROWS):
            yield [
                {**row} if row["settled_ms"] is not None else {**row, **as_last_seen(row, intervals.get(row["owner"]))}
                for row in some
            ]


def _all_put(reading: Connection, writing: Connection, table: Table) -> None:
    """Puts all rows of a table in where they are not there yet, in the one transaction."""
    for some in reading.execution_options(yield_per=ROWS).execute(select(table)).mappings().partitions(ROWS):
        writing.execute(insert_of(writing, table), [dict(row) for row in some])


def _put(writing: Connection, table: Table, rows: Sequence[Mapping[str, Any]]) -> int:
    """Puts rows in where they are not there yet; how many."""
    # Not every driver counts what of many rows went in.
    there = len(writing.execute(select(table.c.id).where(table.c.id.in_([row["id"] for row in rows]))).all())
    writing.execute(insert_of(writing, table), rows)
    return len(rows) - there


def _pragma(engine: Engine, line: str) -> None:
    """Outside of any transaction."""
    raw = engine.raw_connection()
    try:
        raw.cursor().execute(f"PRAGMA {line}")
    finally:
        raw.close()
    engine.dispose()


def rows(place: Database, begin_ms: int | None = None, end_ms: int | None = None) -> Iterator[Mapping[str, Any]]:
    """All rows of a time, in the order in which their requests came. Raises as `readable` does."""
    engine = readable(place)
    wanted = select(requests).order_by(requests.c.begun_ms, requests.c.id)
    yield from of_a_time(engine, wanted, requests.c.begun_ms, begin_ms, end_ms)
    engine.dispose()


# -- rows that go -----------------------------------------------------------------------------------------------------


def erase(place: Database, user: str, who: str = "an administrator", *, keep_counts: bool = False) -> int:
    """Deletes the settled rows of a user, the answers and traces kept of them, and the user's responses; how many rows.
    `keep_counts`: the rows stay, without the user and the metadata, so that sums stay what they were. `who` stands in
    the audit, and the user does not. Raises as `readable` does."""
    of_user = (requests.c.user == storable(user), requests.c.settled_ms.is_not(None))
    theirs = select(requests.c.id).where(*of_user)
    some = requests.c.id.in_(theirs.limit(MOST))
    work = update(requests).values(user=None, metadata=None) if keep_counts else delete(requests)

    def erased(connection: Connection) -> int:
        forget_answers(connection, theirs)
        forget_traces(connection, theirs)
        return connection.execute(work.where(some)).rowcount

    def told(connection: Connection) -> None:
        count = connection.execute(select(func.count()).where(*of_user)).scalar_one()
        record(connection, who, "ledger.erased", "a user", {"requests": count, "keep_counts": keep_counts})

    of_theirs = (responses.c.user == storable(user)) & responses.c.status.not_in(OPEN)
    _some_at_a_time(place, lambda connection: forget_responses(connection, of_theirs, MOST), lambda _: None)
    return _some_at_a_time(place, erased, told)


def expire(place: Database, days: int, who: str = "an administrator") -> int:
    """Deletes settled rows of requests that came more than `days` days ago; how many. Answers, keys and responses
    whose time is over go, too. `who` stands in the audit. Raises as `readable` does."""

    def told(connection: Connection) -> None:
        record(connection, who, "ledger.expired", f"older than {days} days")

    _some_at_a_time(place, lambda connection: expire_answers(connection, MOST), lambda _: None)
    return _some_at_a_time(place, lambda connection: expire_some(connection, days, MOST), told)


def _some_at_a_time(place: Database, work: Callable[[Connection], int], told: Callable[[Connection], None]) -> int:
    """Does some work until it finds fewer than `MOST` rows, so that no server waits long; how many it found. `told`
    writes down, with the first of it, that it is done. Cut off in the middle it can be done again."""
    begun = False
    readable(place).dispose()
    engine, done = place.engine(long=True), 0
    while True:
        with _in_turn(engine) as connection:
            if not begun:
                told(connection)
                begun = True
            found = work(connection)
        done += found
        if found < MOST:
            break
    _forgotten(place, engine)
    return done


@contextmanager
def _in_turn(engine: Engine) -> Generator[Connection]:
    """A transaction, and as long a pause behind it: who waits for the lock of a SQLite file looks now and then."""
    began = time.monotonic()
    with engine.begin() as connection:
        yield connection
    time.sleep(min(PAUSE, time.monotonic() - began))


def _forgotten(place: Database, engine: Engine) -> None:
    """What was deleted is no longer in SQLite's log of what was written ahead either, unless somebody reads it now."""
    if place.file is not None:
        _pragma(engine, "wal_checkpoint(TRUNCATE)")
    engine.dispose()
