"""Which requests run or wait on this server, for who wants to look at them (`ponder.server.live`).

A request does nothing to be seen: it stands in a table from its place in the queue to its end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from ponder.compute.budget import Spending
from ponder.compute.clock import now
from ponder.metering.clock import milliseconds
from ponder.server.plan import ResolvedRequest

Look = tuple[bool, Sequence[Spending]]
"""The request waits for its turn, and what its answers have spent."""


@dataclass(eq=False, slots=True)
class Running:
    """One request that runs or waits."""

    id: str
    resolved: ResolvedRequest
    look: Callable[[], Look]
    began_ms: int
    began: float
    """The same moment by the clock of the event loop."""
    ended: str | None = None
    """How it ended, for who watches it."""


class RunningTable:
    """All of them by their `x-request-id`, in the order they came."""

    def __init__(self) -> None:
        self._running: dict[str, Running] = {}

    def begin(self, id: str, resolved: ResolvedRequest, look: Callable[[], Look]) -> None:
        """A request has come to the queue; `end` follows for certain."""
        self._running[id] = Running(id, resolved, look, milliseconds(), now())

    def end(self, id: str, ended: str) -> None:
        """It is over. Its trace is kept already."""
        if (one := self._running.pop(id, None)) is not None:
            one.ended = ended

    def get(self, id: str) -> Running | None:
        """One of them; None where it does not run here."""
        return self._running.get(id)

    def __iter__(self) -> Iterator[Running]:
        return iter(self._running.values())
