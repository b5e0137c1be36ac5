"""Where the ledger lies: its address, and connections to it that commit durably.

SQLite writes ahead and waits for the disk at each commit (`synchronous=FULL`). A transaction that writes takes the lock
when it begins, so that no two processes wait for each other. PostgreSQL is spoken to by psycopg 3, with limits on
every wait, so that a database that is away is noticed.
"""

from __future__ import annotations

import os
import secrets
import sqlite3
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Column, Engine, Select, create_engine, event
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

BUSY_SECONDS = 10
"""How long one process waits for the lock of another on a SQLite file."""
NOTICED = "-c timezone=UTC -c tcp_keepalives_idle=10 -c tcp_keepalives_interval=5 -c tcp_keepalives_count=2"
"""PostgreSQL notices a machine that is gone within 20 seconds. Left alone it takes hours: until then its session would
speak for a server that is dead, and keep its locks."""
POSTGRESQL = {
    "connect_timeout": 5,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 2,
    "tcp_user_timeout": 10_000,
    "options": f"{NOTICED} -c statement_timeout=10000 -c lock_timeout=5000",
    "application_name": "ponder",
}
OLDEST = (3, 30)
"""The first SQLite that orders rows with empty places first, and filters what it counts."""
READ = 500
"""Rows that are read at a time."""
ASKED = 500
"""Rows that one statement asks for by their ids, at most: one of an old SQLite takes 999 values."""
WRITES = " -c idle_in_transaction_session_timeout=5000 -c tcp_user_timeout=20000"
"""A server that stops, or is cut off, amid a transaction keeps the others waiting so many milliseconds. Where a reply
to it was under way PostgreSQL does not look whether it is there: it has the milliseconds of the second, not a quarter
of an hour, to say that it has the reply. Who only reads locks nothing, and may be slow."""
LONG = NOTICED
"""For work that may take its time: migrations, copies."""
NO_HOME = "this user has no home folder: name a place for the ledger in [ledger] url, or in XDG_STATE_HOME"


class WrongAddress(ValueError):
    """The address of a ledger cannot be meant; the message says why and does not repeat it, for it may hold a
    password."""


class LedgerFileGone(SQLAlchemyError):
    """The file was moved or deleted, or another stands in its place: what is written to it would be lost."""


def state_folder() -> Path:
    """Where a user's programs keep what must outlive them (XDG base directories). Raises `WrongAddress` for a user
    without a home, such as one that a container makes up."""
    given = os.environ.get("XDG_STATE_HOME", "")
    try:
        base = Path(given) if given.startswith("/") else Path.home() / ".local" / "state"
    except RuntimeError:
        raise WrongAddress(NO_HOME) from None
    return base / "ponder"


def made_once(file: Path, content: bytes) -> bool:
    """Puts a secret into a new file, for its owner alone, whole or not at all; False where there is one already, or
    another process was quicker. Raises `OSError`."""
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    part = file.with_name(f"{file.name}.{secrets.token_hex(8)}")
    try:
        with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as out:
            out.write(content)
            out.flush()
            os.fsync(out.fileno())
        # Unlike a renaming, it fails where there is one.
        os.link(part, file)
    except FileExistsError:
        return False
    finally:
        part.unlink(missing_ok=True)
    return True


@dataclass(frozen=True, slots=True)
class Database:
    """The address of a ledger."""

    url: URL

    @property
    def file(self) -> Path | None:
        """The file of a SQLite ledger; None for PostgreSQL."""
        return Path(self.url.database or "") if self.url.get_backend_name() == "sqlite" else None

    def __str__(self) -> str:
        """In words, without user and password."""
        if self.file is not None:
            return str(self.file)
        port = f":{self.url.port}" if self.url.port else ""
        return f"PostgreSQL at {self.url.host or 'its socket'}{port}, database {self.url.database or 'of the user'}"

    def engine(self, *, reads: bool = False, long: bool = False) -> Engine:
        """Connections: one for writing, or a few that only read. `long`: statements may take their time."""
        return _postgresql(self.url, reads, long) if self.file is None else _sqlite(self, reads)


def database(address: str | None = None) -> Database:
    """The ledger at an address; left out, the file in the user's state folder. Raises `WrongAddress`."""
    if not address:
        _new_enough()
        return Database(URL.create("sqlite", database=str(state_folder() / "ledger.db")))
    try:
        url = make_url(address)
    except (ArgumentError, ValueError):
        raise WrongAddress('it is "postgresql://user@host/database", "sqlite:////folder/ledger.db" or "none"') from None
    kind = url.drivername.partition("+")[0]
    if kind in ("postgresql", "postgres"):
        return Database(url.set(drivername="postgresql+psycopg"))
    if kind != "sqlite" or "+" in url.drivername:
        raise WrongAddress("a ledger is kept in PostgreSQL (postgresql://...) or SQLite (sqlite:///...)")
    if not url.database or url.database == ":memory:":
        raise WrongAddress("a ledger in memory would be forgotten: name a file, as in sqlite:////folder/ledger.db")
    _new_enough()
    try:
        return Database(url.set(database=str(Path(url.database).expanduser().absolute())))
    except RuntimeError:
        raise WrongAddress(NO_HOME) from None


def _new_enough() -> None:
    """Raises `WrongAddress` where Python's own SQLite is too old."""
    if sqlite3.sqlite_version_info[:2] < OLDEST:
        oldest = ".".join(map(str, OLDEST))
        raise WrongAddress(
            f"this Python has SQLite {sqlite3.sqlite_version}, and a ledger wants {oldest} or newer: "
            'use a newer Python, or name a PostgreSQL ("postgresql://...") in [ledger] url'
        )


def of_a_time(
    engine: Engine, wanted: Select[Any], at: Column[Any], begin_ms: int | None, end_ms: int | None
) -> Iterator[dict[str, Any]]:
    """Rows whose time `at` lies in a span, some read at a time."""
    if begin_ms is not None:
        wanted = wanted.where(at >= begin_ms)
    if end_ms is not None:
        wanted = wanted.where(at < end_ms)
    with engine.connect() as connection:
        for row in connection.execution_options(yield_per=READ).execute(wanted).mappings():
            yield dict(row)


def _postgresql(url: URL, reads: bool, long: bool) -> Engine:
    options = LONG if long else POSTGRESQL["options"] if reads else f"{POSTGRESQL['options']}{WRITES}"
    more = POSTGRESQL | {"options": options}
    # What the address says itself goes before.
    more = {name: value for name, value in more.items() if name not in url.query}
    return create_engine(
        url,
        connect_args=more,
        pool_size=4 if reads else 1,
        max_overflow=0,
        pool_timeout=10,
        pool_pre_ping=reads,
        isolation_level="REPEATABLE READ" if reads else "READ COMMITTED",
    )


def _identity(file: Path) -> tuple[int, int] | None:
    """Which file a name stands for; None where it stands for none."""
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _sqlite(place: Database, reads: bool) -> Engine:
    file = Path(place.url.database or "")
    if not reads:
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        # For its owner alone; the files that SQLite puts beside it take its mode. One that is there is not opened: to
        # close it would drop the locks of all connections of this process, and whoever closes the file next elsewhere
        # would take what was written ahead away from under them.
        with suppress(FileExistsError):
            os.close(os.open(file, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
    engine = create_engine(
        place.url,
        connect_args={"timeout": BUSY_SECONDS, "check_same_thread": False},
        pool_size=4 if reads else 1,
        max_overflow=0,
    )
    begin = "BEGIN" if reads else "BEGIN IMMEDIATE"
    opened = None if reads else _identity(file)

    def connected(connection: Any, _: object) -> None:
        # The library would begin transactions by itself, and too late.
        connection.isolation_level = None
        for line in (
            f"busy_timeout={BUSY_SECONDS * 1000}",
            *(["query_only=ON"] if reads else ("journal_mode=WAL", "synchronous=FULL", "secure_delete=ON")),
        ):
            connection.execute(f"PRAGMA {line}").close()

    def begins(connection: Any) -> None:
        if opened is not None and _identity(file) != opened:
            raise LedgerFileGone
        connection.exec_driver_sql(begin)

    event.listen(engine, "connect", connected)
    event.listen(engine, "begin", begins)
    return engine
