"""Rows that are older than the operator wants to keep them, and answers and responses that were to be kept for a while:
deleted some at a time, faster than new ones come. Servers that do so at once leave each other's rows alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from sqlalchemy import Connection, Select, delete, select, update

from ponder.metering.clock import milliseconds
from ponder.metering.database import ASKED
from ponder.metering.response_rows import forget_responses
from ponder.metering.tables import idempotency, requests, responses

DAY = 86_400_000
"""Milliseconds."""
LEAST = 200
"""Rows that are deleted in one transaction of a server, at least."""


class Retention:
    """How many old rows a server deletes beside what it writes. Where many are old, twice as many go as come, and
    nobody who writes waits long."""

    def __init__(self, days: int | None) -> None:
        """`days`: how long settled rows are kept; None is for ever."""
        self._days = days
        self.due = days is not None
        """There may be old rows."""

    def expire(self, connection: Connection, beside: int) -> None:
        """Deletes some, in a transaction that is beside one with so many changes."""
        if self._days is not None:
            most = max(LEAST, 2 * beside)
            self.due = expire_some(connection, self._days, most) == most


def expire_some(connection: Connection, days: int, most: int) -> int:
    """Deletes settled rows of requests that came more than `days` days ago, `most` of them at most; how many."""
    some = select(requests.c.id).where(
        requests.c.begun_ms < milliseconds() - days * DAY, requests.c.settled_ms.is_not(None)
    )
    ids = free(connection, some.order_by(requests.c.begun_ms), most)
    for part in _parts(ids):
        connection.execute(delete(requests).where(requests.c.id.in_(part)))
    return len(ids)


def expire_answers(connection: Connection, most: int) -> int:
    """Forgets answers, keys and responses whose time is over, `most` of each at most; as many as most of the three
    were."""
    now, row = milliseconds(), idempotency.c
    answers = free(connection, select(row.id).where(row.answer_until_ms <= now), most)
    for part in _parts(answers):
        connection.execute(update(idempotency).where(row.id.in_(part)).values(answer=None, answer_until_ms=None))
    keys = free(connection, select(row.id).where(row.until_ms <= now), most)
    for part in _parts(keys):
        connection.execute(delete(idempotency).where(row.id.in_(part)))
    kept = free(connection, select(responses.c.id).where(responses.c.until_ms <= now), most)
    for part in _parts(kept):
        forget_responses(connection, responses.c.id.in_(part), len(part))
    return max(len(answers), len(keys), len(kept))


def free(connection: Connection, some: Select[Any], most: int) -> Sequence[str]:
    """Ids of rows that go, `most` at most, and that no other server is at: to wait for it would hold up all that is
    written in the same transaction."""
    return connection.execute(some.limit(most).with_for_update(skip_locked=True)).scalars().all()


def _parts(ids: Sequence[str]) -> Iterator[Sequence[str]]:
    for at in range(0, len(ids), ASKED):
        yield ids[at : at + ASKED]
