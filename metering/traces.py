"""Traces that servers of one ledger show each other: a row for each, written behind the answer and deleted soon.

What is told of a request is sealed before it comes here. Nobody waits for a row: where the database is away, or so slow
that many wait, the trace is shown by the server that has it in memory, and by no other.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine, Select, and_, delete, or_, select
from sqlalchemy.exc import SQLAlchemyError

from ponder.compute.errors import Unavailable
from ponder.metering.clock import milliseconds
from ponder.metering.ledger import RETRY, Ledger
from ponder.metering.retention import DAY, free
from ponder.metering.tables import traces
from ponder.metering.writer import insert_of

T = TypeVar("T")

KNOWN = DAY
"""Milliseconds for which a trace is kept here, at most."""
WAITING = 256
"""Traces that wait to be written, at most; more are not."""
EACH = 64
"""Of so many that are written, one looks how many there are."""
AT_ONCE = 1000
"""Rows that are deleted at a time."""

log = logging.getLogger("ponder.server")


@dataclass(frozen=True, slots=True)
class StoredTrace:
    """A row."""

    id: str
    key_id: str
    model: str
    strategy: str
    budget: int
    ended: str
    seconds: float
    has_text: bool
    secret: str
    content: bytes
    """Sealed."""
    at_ms: int = 0
    """When it was written, in milliseconds since 1970."""


class TraceStore:
    """The rows, read and written in a thread of its own, in the order in which that is asked for."""

    def __init__(self, ledger: Ledger, most: int) -> None:
        """`most`: traces of this server that are kept."""
        self._ledger, self._me, self._most = ledger, ledger.process.id, most
        self._thread = ThreadPoolExecutor(1, "traces")
        self._engine: Engine | None = None
        self._lock, self._waiting = threading.Lock(), 0
        self._written = 0
        self._lost = False

    def put(self, made: Callable[[], StoredTrace | None]) -> None:
        """Has a trace written, which is made in the thread; None: there is nothing to write. Nobody is told what came
        of it."""
        with self._lock:
            if self._waiting >= WAITING or self._ledger.away:
                return
            self._waiting += 1
        self._thread.submit(self._put, made)

    async def find(self, id: str, seconds: float) -> StoredTrace | None:
        """One of them, whichever server has run it. Raises `Unavailable` where the database does not answer in time."""
        found = await self._do(lambda connection: _rows(connection, select(traces).where(traces.c.id == id)), seconds)
        return found[0] if found else None

    async def latest(
        self, key_id: str | None, after: str | None, most: int, seconds: float
    ) -> Sequence[StoredTrace] | None:
        """The newest of an API key, or of all, behind the one that is called `after`; `most` at most. None: that one is
        not there any more. Raises as `find` does."""
        row = traces.c

        def read(connection: Connection) -> Sequence[StoredTrace] | None:
            wanted = select(traces).order_by(row.at_ms.desc(), row.id.desc()).limit(most)
            own = [] if key_id is None else [row.key_id == key_id]
            if after is not None:
                last = connection.execute(select(row.at_ms, row.id).where(row.id == after, *own)).one_or_none()
                if last is None:
                    return None
                own.append(or_(row.at_ms < last.at_ms, and_(row.at_ms == last.at_ms, row.id < last.id)))
            return _rows(connection, wanted.where(*own))

        return await self._do(read, seconds)

    async def close(self, seconds: float) -> None:
        """What waits is written, as far as that does not take longer."""
        try:
            async with asyncio.timeout(seconds):
                await asyncio.get_running_loop().run_in_executor(self._thread, lambda: None)
        except TimeoutError:
            return

    # -- in the thread ------------------------------------------------------------------------------------------------

    def _put(self, made: Callable[[], StoredTrace | None]) -> None:
        try:
            row = made()
            if row is not None:
                self._done(lambda connection: self._inserted(connection, row))
                self._lost = False
        except Exception as error:  # noqa: BLE001 (nobody waits for it; the thread goes on)
            if not self._lost:
                self._lost = True
                log.warning("a trace is not shown by other servers: it cannot be written (%s)", type(error).__name__)
        finally:
            with self._lock:
                self._waiting -= 1

    def _inserted(self, connection: Connection, row: StoredTrace) -> None:
        now = milliseconds()
        values = asdict(row) | {"has_text": int(row.has_text), "owner": self._me, "at_ms": now}
        connection.execute(insert_of(connection, traces).values(values))
        self._written += 1
        if self._written % EACH == 1:
            own = select(traces.c.at_ms).where(traces.c.owner == self._me).order_by(traces.c.at_ms.desc())
            oldest = connection.execute(own.offset(self._most).limit(1)).scalar_one_or_none()
            if oldest is not None:
                _forget(connection, select(traces.c.id).where(traces.c.owner == self._me, traces.c.at_ms <= oldest))
            _forget(connection, select(traces.c.id).where(traces.c.at_ms < now - KNOWN))

    def _done(self, work: Callable[[Connection], T]) -> T:
        if self._engine is None:
            self._engine = self._ledger.place.engine()
        with self._engine.begin() as connection:
            return work(connection)

    async def _do(self, work: Callable[[Connection], T], seconds: float) -> T:
        if self._ledger.away:
            raise _unavailable()
        try:
            async with asyncio.timeout(seconds):
                return await asyncio.get_running_loop().run_in_executor(self._thread, self._done, work)
        except (SQLAlchemyError, TimeoutError):
            raise _unavailable() from None


def forget_traces(connection: Connection, theirs: Select[Any]) -> None:
    """Deletes the traces of requests of the ledger, given by a selection of their ids."""
    connection.execute(delete(traces).where(traces.c.id.in_(theirs)))


def _rows(connection: Connection, wanted: Select[Any]) -> Sequence[StoredTrace]:
    names = [name for name in StoredTrace.__slots__ if name != "has_text"]
    found = connection.execute(wanted).mappings()
    return [StoredTrace(**{name: row[name] for name in names}, has_text=bool(row["has_text"])) for row in found]


def _forget(connection: Connection, some: Select[Any]) -> None:
    """Deletes rows that no other server is at."""
    if ids := free(connection, some, AT_ONCE):
        connection.execute(delete(traces).where(traces.c.id.in_(ids)))


def _unavailable() -> Unavailable:
    return Unavailable(
        "the ledger of this server cannot be read, and traces of other servers are there: try again later",
        code="ledger_unavailable",
        retry_after=RETRY,
    )
