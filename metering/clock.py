"""The clock of a ledger: that of the PostgreSQL, where several servers share one.

Their machines may think it is another minute, and windows of limits begin with the minute, the day and the month. So
what the database says counts, and between two of its words what has passed here since: whoever sets the clock of a
machine changes nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from sqlalchemy import Connection, text

EVERY = 1.0
"""Seconds between two times that the database is asked, at least."""
_NOW = text("SELECT extract(epoch FROM clock_timestamp()) * 1000")


def milliseconds() -> int:
    """Since 1970, as this machine has it."""
    return time.time_ns() // 1_000_000


class SharedClock:
    """Milliseconds since 1970 by the clock of a PostgreSQL. Asked in one thread, read in any."""

    def __init__(self, wall: Callable[[], int], monotonic: Callable[[], float] = time.monotonic) -> None:
        """`wall`: by which it goes until the database was asked. `monotonic`: seconds."""
        self._wall, self._monotonic = wall, monotonic
        self._ahead: float | None = None
        """Of the monotonic clock, in milliseconds."""
        self._asked = float("-inf")

    def __call__(self) -> int:
        ahead = self._ahead
        return self._wall() if ahead is None else int(self._monotonic() * 1000 + ahead)

    def look(self, connection: Connection) -> None:
        """Asks the database, unless it was asked just now."""
        before = self._monotonic()
        if before - self._asked >= EVERY:
            said = float(connection.execute(_NOW).scalar_one())
            self.heard(said, before, self._monotonic())
            self._asked = before

    def heard(self, said: float, before: float, after: float) -> None:
        """The database said so, in milliseconds, between two moments of the monotonic clock. How long its word was
        under way nobody knows; what is known already stands as long as it can be so."""
        least, most = said - after * 1000, said - before * 1000
        known = (least + most) / 2 if self._ahead is None else self._ahead
        self._ahead = min(max(known, least), most)
