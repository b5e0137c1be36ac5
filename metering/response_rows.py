"""Rows of kept responses that others than their store change: those of a server that died, and those that go."""

from __future__ import annotations

from typing import Any

from sqlalchemy import ColumnElement, Connection, and_, delete, or_, select, update

from ponder.metering.database import ASKED
from ponder.metering.tables import response_events, responses

OPEN = ("queued", "in_progress")
"""Statuses of a response that runs."""
AT_ONCE = 512
"""Responses of a key that go in one transaction at most."""


def fail_responses(connection: Connection, owner: str, epoch: int) -> int:
    """What a server process has run until it was found dead has failed; how many. A process that was not dead cannot
    write to them any more. Of those that had not begun nobody knows, so they go."""
    rows = responses.c
    theirs = rows.owner == owner, rows.epoch <= epoch, rows.status.in_(OPEN)
    connection.execute(delete(responses).where(*theirs, rows.content.is_(None)))
    return connection.execute(update(responses).where(*theirs).values(status="failed")).rowcount


def forget_responses(connection: Connection, which: ColumnElement[Any], most: int) -> int:
    """Deletes responses with all that is kept of them, `most` at most; how many."""
    ids = connection.execute(select(responses.c.id).where(which).limit(most)).scalars().all()
    for at in range(0, len(ids), ASKED):
        some = ids[at : at + ASKED]
        # The rows first: who writes to one has locked it, and nothing is written behind one that is gone.
        connection.execute(delete(responses).where(responses.c.id.in_(some)))
        connection.execute(delete(response_events).where(response_events.c.response.in_(some)))
    return len(ids)


Place = tuple[int, str]
"""Where a response stands among those of its key: when it was begun, and its id."""


def too_many(connection: Connection, key: str, most: int) -> Place | None:
    """Of what an API key has that is over, the newest one that is too many; None: there are no more than so many."""
    rows = responses.c
    over = select(rows.begun_ms, rows.id).where(rows.key == key, rows.status.not_in(OPEN))
    newest = over.order_by(rows.begun_ms.desc(), rows.id.desc()).offset(most).limit(1)
    found = connection.execute(newest).one_or_none()
    return None if found is None else (found.begun_ms, found.id)


def forget_until(connection: Connection, key: str, place: Place) -> int:
    """That one and all older ones go, `AT_ONCE` at most; how many. Servers that look at the same time leave each
    other's rows alone, and those that stay."""
    rows, (begun, id) = responses.c, place
    older = or_(rows.begun_ms < begun, and_(rows.begun_ms == begun, rows.id <= id))
    some = select(rows.id).where(rows.key == key, rows.status.not_in(OPEN), older).order_by(rows.begun_ms)
    ids = connection.execute(some.limit(AT_ONCE).with_for_update(skip_locked=True)).scalars().all()
    return forget_responses(connection, rows.id.in_(ids), AT_ONCE) if ids else 0
