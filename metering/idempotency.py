"""Which run an `Idempotency-Key` has, and what came of it: one row for each key, beside the ledger and apart from it.

draft-ietf-httpapi-idempotency-key-header. A key is claimed by a row that only one request can put in, whichever server
it came to. Whoever finds the row there waits for that run, or learns what became of it. A run whose server died is
known by its row in the ledger: where that has billed nothing, or is not there, the key is free again. What is kept of
an answer is sealed before it comes here, and goes after its time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from sqlalchemy import Connection, Engine, Select, delete, select, update
from sqlalchemy.exc import SQLAlchemyError

from ponder.compute.errors import Unavailable
from ponder.metering.clock import milliseconds
from ponder.metering.ledger import RETRY, Ledger
from ponder.metering.retention import DAY
from ponder.metering.tables import idempotency, requests, servers
from ponder.metering.writer import insert_of

T = TypeVar("T")

KNOWN = DAY
"""Milliseconds for which a key is known behind the end of its run, at least: it is not run again in that time."""
RUNNING = 2 * DAY
"""Milliseconds behind the beginning of a run after which nobody can be at it any more."""
BILLED = ("prompt", "thinking", "answer", "verifier_tokens")
"""Columns of a ledger's row, one of which is above 0 where something is billed."""

State = Literal["runs", "free", "answered", "lost"]
"""runs: somebody is at it · free: it came to an end, or its server did, before anything was billed · answered: it is
over; its answer is kept, or is not · lost: it was billed and came to no answer."""


@dataclass(frozen=True, slots=True)
class Claim:
    """A request that asks for a key."""

    id: str
    """Stands for the API key and the `Idempotency-Key` together."""
    request: str
    """The request's own id, that of its row in the ledger."""
    key: str
    """The id of the API key."""
    secret: str
    """Which secret the fingerprint is made with."""
    fingerprint: bytes
    """Of the body."""


@dataclass(frozen=True, slots=True)
class Kept:
    """The run that a key has."""

    request: str
    secret: str
    fingerprint: bytes
    state: State
    answer: bytes | None
    """Sealed; None where none is kept."""


class IdempotencyStore:
    """The rows, read and written in a thread of its own."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._me = ledger.process.id
        self._thread = ThreadPoolExecutor(1, "idempotency")
        self._engine: Engine | None = None
        """Opened for the first request with a key."""

    async def claim(self, claim: Claim, seconds: float) -> Kept | None:
        """The run that the key has; None: it is this request's now. Of one key, one request of this process at a time
        may ask. Raises `Unavailable` where the database does not answer in so many seconds."""
        try:
            return await self._do(lambda connection: _claimed(connection, claim, self._me), seconds)
        except (Unavailable, asyncio.CancelledError):
            # It may have been written all the same.
            self._thread.submit(self._quietly, lambda connection: _released(connection, claim.id, claim.request))
            raise

    async def confirm(self, id: str, request: str, seconds: float) -> bool:
        """The key is still this request's. Asked when the request's row in the ledger is durable: whoever takes the key
        from now on sees that row. Raises as `claim` does."""

        def look(connection: Connection) -> bool:
            wanted = select(idempotency.c.id).where(idempotency.c.id == id, idempotency.c.request == request)
            return connection.execute(wanted.with_for_update()).first() is not None

        return await self._do(look, seconds)

    async def finish(
        self, id: str, request: str, answer: bytes | None, keep: float, seconds: float, *, lost: bool
    ) -> None:
        """The run is over; `keep`: seconds for which the answer is kept. Nothing where the key is another's now. Raises
        as `claim` does."""

        def finished(connection: Connection) -> None:
            now = milliseconds()
            until = now + round(keep * 1000)
            values = {
                "outcome": "lost" if lost else "answered",
                "answer": answer,
                "answer_until_ms": None if answer is None else until,
                "until_ms": max(until, now + KNOWN),
            }
            connection.execute(_own(update(idempotency), id, request).values(values))

        await self._do(finished, seconds)

    async def release(self, id: str, request: str, seconds: float) -> None:
        """The run came to nothing that is billed: the key is free. Raises as `claim` does."""
        await self._do(lambda connection: _released(connection, id, request), seconds)

    async def want(self, id: str, seconds: float) -> None:
        """Tells whoever runs it that somebody waits for it elsewhere. Raises as `claim` does."""
        values = {"wanted": idempotency.c.wanted + 1}
        wanted = update(idempotency).where(idempotency.c.id == id).values(values)
        await self._do(lambda connection: connection.execute(wanted), seconds)

    async def wanted(self, id: str, seconds: float) -> int:
        """How often that was told. Raises as `claim` does."""
        wanted = select(idempotency.c.wanted).where(idempotency.c.id == id)
        return await self._do(lambda connection: connection.execute(wanted).scalar_one_or_none() or 0, seconds)

    async def _do(self, work: Callable[[Connection], T], seconds: float) -> T:
        if self._ledger.away:
            raise _unavailable()
        try:
            async with asyncio.timeout(seconds):
                return await asyncio.get_running_loop().run_in_executor(self._thread, self._done, work)
        except (SQLAlchemyError, TimeoutError):
            raise _unavailable() from None

    # -- in the thread ------------------------------------------------------------------------------------------------

    def _done(self, work: Callable[[Connection], T]) -> T:
        if self._engine is None:
            self._engine = self._ledger.place.engine()
        with self._engine.begin() as connection:
            return work(connection)

    def _quietly(self, work: Callable[[Connection], object]) -> None:
        """Where that fails, the row is of a process that has no such run."""
        try:
            self._done(work)
        except SQLAlchemyError:
            return


def forget_answers(connection: Connection, theirs: Select[Any]) -> None:
    """Forgets the answers to requests of the ledger, given by a selection of their ids."""
    own = idempotency.c.request.in_(theirs), idempotency.c.answer.is_not(None)
    connection.execute(update(idempotency).where(*own).values(answer=None, answer_until_ms=None))


# -- in a transaction -------------------------------------------------------------------------------------------------


def _claimed(connection: Connection, claim: Claim, me: str) -> Kept | None:
    now = milliseconds()
    values = {
        "request": claim.request,
        "owner": me,
        "key": claim.key,
        "secret": claim.secret,
        "fingerprint": claim.fingerprint,
        "until_ms": now + RUNNING,
    }
    own = idempotency.c.id == claim.id
    connection.execute(delete(idempotency).where(own, idempotency.c.until_ms <= now))
    row = None
    while row is None:
        if connection.execute(insert_of(connection, idempotency).values(id=claim.id, **values)).rowcount == 1:
            return None
        # Locked, so that nobody who confirms is overlooked. It may have been released meanwhile.
        row = connection.execute(select(idempotency).where(own).with_for_update()).mappings().one_or_none()
    state = _state(connection, row, me)
    if state == "free":
        connection.execute(update(idempotency).where(own).values(values))
        return None
    due = row["answer_until_ms"] is not None and row["answer_until_ms"] <= now
    return Kept(row["request"], row["secret"], row["fingerprint"], state, None if due else row["answer"])


def _state(connection: Connection, row: Any, me: str) -> State:
    """How the run of a key stands."""
    if row["outcome"] is not None:
        return row["outcome"]
    known = connection.execute(select(requests).where(requests.c.id == row["request"])).mappings().one_or_none()
    owner = select(servers.c.ended_ms).where(servers.c.id == row["owner"])
    server = connection.execute(owner).mappings().one_or_none()
    # A process asks only for what it does not run itself.
    dead = row["owner"] == me or server is None or server["ended_ms"] is not None
    if known is None:
        return "free" if dead else "runs"
    if known["settled_ms"] is None:
        return "runs"
    if not any(known[name] for name in BILLED):
        return "free"
    if not dead and known["outcome"] != "lost":
        # What it came to is about to be written.
        return "runs"
    return "answered" if known["outcome"] == "answered" else "lost"


def _own(statement: Any, id: str, request: str) -> Any:
    """A change of a row, where it is that of this run and is not over."""
    row = idempotency.c
    return statement.where(row.id == id, row.request == request, row.outcome.is_(None))


def _released(connection: Connection, id: str, request: str) -> None:
    connection.execute(_own(delete(idempotency), id, request))


def _unavailable() -> Unavailable:
    return Unavailable(
        "the ledger of this server cannot be read, so nobody knows whether this Idempotency-Key was used: send the "
        "request again",
        code="ledger_unavailable",
        retry_after=RETRY,
    )
