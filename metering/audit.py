"""What administrators did, a row for each act: a key made, rotated, changed or revoked, the configuration read again,
rows of the ledger that went or came. A row is written in the transaction of what it tells about, and never changed.

The details hold no secret, no hash, and no name of a user whose rows were erased.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator, Mapping
from typing import Any, Literal

from sqlalchemy import Connection, Engine, insert, select

from ponder.metering.database import of_a_time
from ponder.metering.tables import audit

Act = Literal[
    "key.created",
    "key.changed",
    "key.rotated",
    "key.revoked",
    "keys.configured",
    "limits.changed",
    "prices.changed",
    "ledger.erased",
    "ledger.expired",
    "ledger.restored",
]
COLUMNS = ("at_ms", "who", "act", "subject", "details")


def record(connection: Connection, who: str, act: Act, subject: str, details: Mapping[str, Any] | None = None) -> None:
    """Writes down that `who` did `act` to `subject`, in the transaction that is open."""
    row = {"who": who, "act": act, "subject": subject, "details": dict(details or {})}
    at = time.time_ns()
    # Those of one millisecond are told apart by their ids.
    id = f"act_{at:016x}{secrets.token_hex(4)}"
    connection.execute(insert(audit).values(id=id, at_ms=at // 1_000_000, **row))


def acts(engine: Engine, begin_ms: int | None = None, end_ms: int | None = None) -> Iterator[dict[str, Any]]:
    """What was done in a time, the first first, by `COLUMNS`."""
    wanted = select(*(audit.c[name] for name in COLUMNS)).order_by(audit.c.at_ms, audit.c.id)
    return of_a_time(engine, wanted, audit.c.at_ms, begin_ms, end_ms)
