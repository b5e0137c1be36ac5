"""Responses that are kept, to be asked for again or to be gone on with: one row for each, apart from the ledger's.

What was asked and what came of it is sealed before it comes here. A response that runs behind its caller has its row
before the model is asked, and its events are written as they come; whoever changes such a row does so only while it is
open. So a run that was cancelled, deleted or, because its server was taken for dead, has failed, learns that from what
it writes next. Servers share the rows: any of them reads, cancels and deletes what another runs.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from sqlalchemy import Connection, Engine, delete, insert, select, update
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from ponder.compute.errors import Unavailable
from ponder.metering.clock import milliseconds
from ponder.metering.database import ASKED
from ponder.metering.ledger import RETRY, Ledger, storable
from ponder.metering.response_rows import AT_ONCE, OPEN, Place, forget_responses, forget_until, too_many
from ponder.metering.retention import DAY
from ponder.metering.tables import response_events, responses, servers
from ponder.metering.writer import MOST, insert_of

T = TypeVar("T")

RUNNING = 2 * DAY
"""Milliseconds beyond its time for which a response that runs is kept: nothing runs for so long."""

LOOKS = 128
"""How often it is looked how many responses a key has, while it keeps as many as it may: it never has many more."""

Status = Literal["queued", "in_progress", "completed", "incomplete", "failed", "cancelled"]
"""The last four are for good."""


@dataclass(frozen=True, slots=True)
class Opening:
    """A response that is to be kept."""

    id: str
    request: str
    """The id of its request, that of its row in the ledger."""
    key: str
    """The id of the API key."""
    user: str | None
    secret: str
    """Which secret it is sealed with."""
    keep: float
    """Seconds for which it is kept."""


@dataclass(frozen=True, slots=True)
class StoredResponse:
    """What is kept of one."""

    id: str
    request: str
    key: str
    secret: str
    background: bool
    status: Status
    content: bytes
    """Sealed."""
    events: int
    """Of its stream, that are kept."""

    @property
    def open(self) -> bool:
        """It runs."""
        return self.status in OPEN


@dataclass(eq=False, slots=True)
class _Work:
    """What somebody wants done in a transaction, and what it came to."""

    do: Callable[[Connection], Any]
    loop: asyncio.AbstractEventLoop
    done: asyncio.Future[Any] = field(init=False)

    def __post_init__(self) -> None:
        self.done = self.loop.create_future()

    def end(self, result: Any, error: BaseException | None) -> None:
        """In the thread."""
        with contextlib.suppress(RuntimeError):  # The loop is closed: nobody waits any more.
            self.loop.call_soon_threadsafe(self._ended, result, error)

    def _ended(self, result: Any, error: BaseException | None) -> None:
        if self.done.done():
            return
        if error is None:
            self.done.set_result(result)
        else:
            self.done.set_exception(error)


class ResponseStore:
    """The rows, read and written in a thread of its own: all that has come meanwhile in one transaction. Every method
    raises `Unavailable` where the database does not answer in so many `seconds`."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._me = ledger.process.id
        self._thread = ThreadPoolExecutor(1, "responses")
        self._asked: queue.SimpleQueue[_Work] = queue.SimpleQueue()
        self._unlooked: dict[str, int] = {}
        """Responses of a key that may be kept before it is looked how many it has."""
        self._engine: Engine | None = None
        """Opened for the first response."""

    # -- what runs behind its caller ----------------------------------------------------------------------------------

    async def open(self, opening: Opening, seconds: float) -> None:
        """A response is about to run."""
        try:
            await self._do(lambda connection: _opened(connection, opening, self._me), seconds)
        except (Unavailable, asyncio.CancelledError):
            # It may have been written all the same.
            self._put(lambda connection: forget_responses(connection, _own(opening.id, self._me), 1))
            raise

    async def append(
        self, id: str, content: bytes | None, number: int, count: int, events: bytes, seconds: float
    ) -> bool:
        """So many more events of its stream, `number` the first of them; and what is kept of it beside, where that has
        changed. False: it is not to run any more."""
        values: dict[str, Any] = {"events": number + count}
        if content is not None:
            values["content"] = content
        return await self._do(lambda connection: _appended(connection, id, self._me, values, number, events), seconds)

    async def finish(
        self, id: str, status: Status, content: bytes | None, count: int, events: bytes, keep: float, seconds: float
    ) -> bool:
        """It is over; `events` are all of them. False: it was over already, or is gone."""
        until = milliseconds() + round(keep * 1000)
        values = {"status": status, "content": content, "events": count, "until_ms": until}

        def finished(connection: Connection) -> bool:
            # Put in the place of the many that were written as they came.
            if connection.execute(update(responses).where(_own(id, self._me)).values(values)).rowcount != 1:
                return False
            connection.execute(delete(response_events).where(response_events.c.response == id))
            connection.execute(insert(response_events).values(response=id, number=0, content=events))
            return True

        return await self._do(finished, seconds)

    async def wanted(self, ids: Sequence[str], begun: Collection[str], seconds: float) -> set[str]:
        """Which of those that run here are to run on. `begun` are those whose turn has come."""

        def looked(connection: Connection) -> set[str]:
            found = set[str]()
            for at in range(0, len(ids), ASKED):
                some = ids[at : at + ASKED]
                here = responses.c.owner == self._me, responses.c.status.in_(OPEN)
                wanted = select(responses.c.id).where(responses.c.id.in_(some), *here)
                found |= set(connection.execute(wanted).scalars())
            for id in begun:
                queued = responses.c.status == "queued"
                row = update(responses).where(_own(id, self._me), queued).values(status="in_progress")
                connection.execute(row)
            return found

        return await self._do(looked, seconds)

    async def drop(self, id: str, seconds: float) -> None:
        """It came to nothing that is to be kept: its caller was refused."""
        await self._do(lambda connection: forget_responses(connection, _own(id, self._me), 1), seconds)

    # -- what is over -------------------------------------------------------------------------------------------------

    async def keep(self, opening: Opening, status: Status, content: bytes, seconds: float) -> None:
        """One that its caller has waited for."""
        now = milliseconds()
        values = _values(opening, self._me, now) | {
            "background": 0,
            "status": status,
            "content": content,
            "until_ms": now + round(opening.keep * 1000),
        }

        def kept(connection: Connection) -> None:
            connection.execute(insert_of(connection, responses).values(values))

        await self._do(kept, seconds)

    def bound(self, key: str, most: int) -> None:
        """One more of an API key's is over. It is looked now and then whether the key has more than so many: then the
        oldest go. What runs counts for nothing. Behind this call, and whoever reads next sees it; nobody waits."""
        left = self._unlooked.get(key, 0)
        self._unlooked[key] = left - 1 if left else most // LOOKS
        if not left:
            self._forget(key, most, None)

    def _forget(self, key: str, most: int, place: Place | None) -> None:
        """Some of a key's that are too many go, all up to that one, and others behind whoever waits meanwhile."""

        def some(connection: Connection) -> Place | None:
            last = place or too_many(connection, key, most)
            return last if last is not None and forget_until(connection, key, last) == AT_ONCE else None

        def others(done: asyncio.Future[Place | None]) -> None:
            if not done.cancelled() and done.exception() is None and (last := done.result()) is not None:
                self._forget(key, most, last)

        self._put(some).add_done_callback(others)

    # -- for whoever asks ---------------------------------------------------------------------------------------------

    async def find(self, id: str, key: str, seconds: float) -> StoredResponse | None:
        """A response of an API key; None: there is none of that id, or it is another key's. One whose server has died
        has failed."""
        return await self._do(lambda connection: _found(connection, id, key), seconds)

    async def events(self, id: str, number: int, seconds: float) -> Sequence[tuple[int, bytes]]:
        """Sealed events of its stream, each piece with the number of its first: those behind `number`, and some before
        them where a piece has both."""
        row = response_events.c

        def read(connection: Connection) -> Sequence[tuple[int, bytes]]:
            first = select(row.number).where(row.response == id, row.number <= number)
            begin = connection.execute(first.order_by(row.number.desc()).limit(1)).scalar_one_or_none() or 0
            wanted = select(row.number, row.content).where(row.response == id, row.number >= begin)
            return [(one.number, one.content) for one in connection.execute(wanted.order_by(row.number))]

        return await self._do(read, seconds)

    async def cancel(self, id: str, key: str, seconds: float) -> StoredResponse | None:
        """Ends one that runs in the background, wherever it does; as it is then, None as for `find`."""

        def cancelled(connection: Connection) -> StoredResponse | None:
            found = _found(connection, id, key)
            if found is None or not found.open:
                return found
            row = responses.c.id == id, responses.c.status.in_(OPEN)
            connection.execute(update(responses).where(*row).values(status="cancelled"))
            return _found(connection, id, key)

        return await self._do(cancelled, seconds)

    async def delete(self, id: str, key: str, seconds: float) -> bool:
        """Forgets one, whether it runs or not; False: as for `find`."""

        def deleted(connection: Connection) -> bool:
            found = _found(connection, id, key)
            return found is not None and forget_responses(connection, responses.c.id == id, 1) == 1

        return await self._do(deleted, seconds)

    # -- in the thread ------------------------------------------------------------------------------------------------

    def _put(self, do: Callable[[Connection], T]) -> asyncio.Future[T]:
        work = _Work(do, asyncio.get_running_loop())
        work.done.add_done_callback(_heard)
        self._asked.put(work)
        self._thread.submit(self._work)
        return work.done

    async def _do(self, do: Callable[[Connection], T], seconds: float) -> T:
        if self._ledger.away:
            raise _unavailable()
        try:
            async with asyncio.timeout(seconds):
                return await self._put(do)
        except (SQLAlchemyError, TimeoutError):
            raise _unavailable() from None

    def _work(self) -> None:
        """All that has come, together; nothing where another turn has taken it."""
        batch: list[_Work] = []
        with contextlib.suppress(queue.Empty):
            while len(batch) < MOST:
                batch.append(self._asked.get_nowait())
        if batch:
            self._done(batch)
        if len(batch) == MOST:
            self._thread.submit(self._work)

    def _done(self, batch: Sequence[_Work]) -> None:
        try:
            results = self._transaction(batch)
        except Exception as error:  # noqa: BLE001 (whoever waits is told; the thread goes on)
            if len(batch) == 1:
                batch[0].end(None, error)
                return
            # One that cannot be done does not keep others from it.
            for work in batch:
                self._done([work])
            return
        for work, result in zip(batch, results, strict=True):
            work.end(result, None)

    def _transaction(self, batch: Sequence[_Work]) -> Sequence[Any]:
        if self._engine is None:
            self._engine = self._ledger.place.engine()
        try:
            with self._engine.begin() as connection:
                return [work.do(connection) for work in batch]
        except DBAPIError as error:
            # A connection goes stale when the database is started again.
            if not error.connection_invalidated:
                raise
        with self._engine.begin() as connection:
            return [work.do(connection) for work in batch]


# -- in a transaction -------------------------------------------------------------------------------------------------


def _values(opening: Opening, me: str, now: int) -> dict[str, Any]:
    return {
        "id": opening.id,
        "request": opening.request,
        "key": opening.key,
        "user": None if opening.user is None else storable(opening.user),
        "owner": me,
        "epoch": 0,
        "secret": opening.secret,
        "begun_ms": now,
    }


def _opened(connection: Connection, opening: Opening, me: str) -> None:
    now = milliseconds()
    epoch = connection.execute(select(servers.c.epoch).where(servers.c.id == me)).scalar_one_or_none() or 0
    values = _values(opening, me, now) | {
        "epoch": epoch,
        "background": 1,
        "status": "queued",
        "until_ms": now + round(opening.keep * 1000) + RUNNING,
    }
    # Where it was tried before, and committed all the same, it is there.
    connection.execute(insert_of(connection, responses).values(values))


def _own(id: str, me: str) -> Any:
    """The response, where it runs here yet."""
    row = responses.c
    return (row.id == id) & (row.owner == me) & row.status.in_(OPEN)


def _appended(connection: Connection, id: str, me: str, values: dict[str, Any], number: int, events: bytes) -> bool:
    # Its row is locked by that, so that who cancels it comes before or behind.
    if connection.execute(update(responses).where(_own(id, me)).values(values)).rowcount != 1:
        return False
    piece = insert_of(connection, response_events).values(response=id, number=number, content=events)
    connection.execute(piece)
    return True


def _found(connection: Connection, id: str, key: str) -> StoredResponse | None:
    """A response of a key, as it is; one that has not begun is not known to its caller yet. One that runs on a server
    which has ended, or has another epoch by now, fails."""
    rows, now = responses.c, milliseconds()
    if storable(id) != id:
        # PostgreSQL would not even look for it.
        return None
    wanted = select(responses).where(rows.id == id, rows.key == key, rows.until_ms > now, rows.content.is_not(None))
    row = connection.execute(wanted).mappings().one_or_none()
    if row is None:
        return None
    status = row["status"]
    if status in OPEN:
        alive = select(servers.c.id).where(
            servers.c.id == row["owner"], servers.c.epoch == row["epoch"], servers.c.ended_ms.is_(None)
        )
        if connection.execute(alive).first() is None:
            open_ = rows.id == id, rows.status.in_(OPEN)
            if connection.execute(update(responses).where(*open_).values(status="failed")).rowcount != 1:
                # Somebody was quicker.
                return _found(connection, id, key)
            status = "failed"
    names = ("id", "request", "key", "secret", "content", "events")
    return StoredResponse(background=bool(row["background"]), status=status, **{name: row[name] for name in names})


def _heard(future: asyncio.Future[Any]) -> None:
    """Whoever asked may have gone."""
    if not future.cancelled():
        future.exception()


def _unavailable() -> Unavailable:
    return Unavailable(
        "the ledger of this server cannot be read or written to, and responses are kept there: send the request again",
        code="ledger_unavailable",
        retry_after=RETRY,
    )
