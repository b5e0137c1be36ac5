"""Rows that are older than the operator wants to keep them, and answers and responses that were to be kept for a while:
deleted some at a time, faster than new ones come."""

from __future__ import annotations

import time

from sqlalchemy import Connection, delete, select, update

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
    some = (
        select(requests.c.id)
        .where(requests.c.begun_ms < time.time_ns() // 1_000_000 - days * DAY, requests.c.settled_ms.is_not(None))
        .order_by(requests.c.begun_ms)
        .limit(most)
    )
    return connection.execute(delete(requests).where(requests.c.id.in_(some))).rowcount


def expire_answers(connection: Connection, most: int) -> int:
    """Forgets answers, keys and responses whose time is over, `most` of each at most; as many as most of the three
    were."""
    now = time.time_ns() // 1_000_000
    old = select(idempotency.c.id).where(idempotency.c.answer_until_ms <= now).limit(most)
    answers = update(idempotency).where(idempotency.c.id.in_(old)).values(answer=None, answer_until_ms=None)
    old = select(idempotency.c.id).where(idempotency.c.until_ms <= now).limit(most)
    keys = delete(idempotency).where(idempotency.c.id.in_(old))
    kept = forget_responses(connection, responses.c.until_ms <= now, most)
    return max(connection.execute(answers).rowcount, connection.execute(keys).rowcount, kept)
