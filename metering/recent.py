"""The latest errors that callers were told, counted by code, for who looks at a server without a Prometheus."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from ponder.metering.clock import milliseconds

SPAN = 3_600_000
"""Milliseconds in which an error is recent."""
MOST = 4096
"""Errors that are remembered; of more in that time, the latest."""


@dataclass(frozen=True, slots=True)
class Recent:
    """Errors of one code."""

    code: str
    status: int
    """Of HTTP; of a stream's error event, that it would have had."""
    count: int
    last_ms: int
    """When the last was told, in milliseconds since 1970."""


class RecentErrors:
    """Those of one server."""

    def __init__(self, clock: Callable[[], int] = milliseconds) -> None:
        """`clock` gives milliseconds since 1970."""
        self._clock = clock
        self._told: deque[tuple[int, str, int]] = deque(maxlen=MOST)

    def told(self, code: str, status: int) -> None:
        """A caller was told of an error."""
        self._told.append((self._clock(), code, status))

    def by_code(self) -> list[Recent]:
        """Those of the last hour, the most frequent first."""
        since = self._clock() - SPAN
        while self._told and self._told[0][0] < since:
            self._told.popleft()
        counts: dict[tuple[str, int], tuple[int, int]] = {}
        for at, code, status in self._told:
            counts[code, status] = counts.get((code, status), (0, 0))[0] + 1, at
        found = [Recent(code, status, count, last) for (code, status), (count, last) in counts.items()]
        return sorted(found, key=lambda one: (-one.count, one.code))
