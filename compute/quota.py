"""What all requests of an API key may spend together, and how a call draws on that while others do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Quota:
    """Limits of all requests of a key together; None is no limit. A window is one of the clock (UTC)."""

    minute: int | None = None
    """Hidden tokens of the requests that come in a minute."""
    day: int | None = None
    month: int | None = None
    nano_usd: int | None = None
    """What the requests that come in a calendar month cost, in nano-USD."""
    inflight: int | None = None
    """Requests at the same time, those that wait included."""
    told: bool = True
    """The caller is told how much is left: not where its numbers are coarse."""

    @property
    def thinking(self) -> int | None:
        """Hidden tokens that one request can have at most, whatever others take."""
        return min((n for n in (self.minute, self.day, self.month) if n is not None), default=None)


class Drawing(Protocol):
    """What a request may draw from the quota of its key. Counts are tokens that may turn out to be hidden."""

    async def draw(self, most: int) -> int:
        """Sets tokens aside for a call that may make `most`: all of them, or as many as it may make until it asks
        again. 0: the limit is used up."""
        ...

    def give(self, drawn: int, made: int) -> None:
        """The call has ended: of what was drawn for it so many were made, and the others are free at once."""
        ...

    def take(self, tokens: int) -> bool:
        """Counts tokens that were made, or will be, beside what was drawn. False, and none counted, where there are
        not so many."""
        ...

    async def hold(self, tokens: int) -> bool:
        """Sets aside what a reward model is about to read. False, and nothing is, where that is not left."""
        ...

    def release(self, tokens: int) -> None:
        """What was set aside so is not needed any more: it was read, or will not be."""
        ...

    def read(self, tokens: int) -> None:
        """A reward model has read so much."""
        ...
