"""Who of those that wait is next: between keys by weight, within a key whoever has had the least.

Between keys it is start-time fair queueing with many servers, SFQ(D) (Goyal et al. 1996; Jin et al. 2004, "Interposed
Proportional Sharing for a Storage Service Utility"). Each key has a tag, which grows with every turn by the turn's cost
over the key's weight, and the least tag is next. What a turn costs is known when it is over: until then the mean of the
key's turns stands for it (as Sheng et al. 2024, "Fairness in Serving Large Language Models", count tokens for tenants).
A key that had nothing to do begins at the tag of the last turn, so it saves nothing up; and what is charged afterwards
puts it back by no more than its open turns cost. So what a key did while nobody else wanted anything costs it nothing.

Within a key it is least attained service (Nuyens and Wierman 2008, "The Foreground-Background queue"), but for one turn
in eight, which goes to whoever has waited longest: a large request is slower, it does not stand still.
"""

from __future__ import annotations

import heapq
import itertools
from collections import OrderedDict
from collections.abc import Collection
from typing import Any, Generic, TypeVar

T = TypeVar("T")

ELDEST = 8
"""One turn of a key in so many goes to the member that has waited longest."""


class Least(Generic[T]):
    """Things by rank, the least first, of equal ranks the one that came first. A rank may be changed."""

    __slots__ = ("_entries", "_heap", "_numbers")

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, int, T]] = []
        self._entries: dict[T, tuple[float, int, int, T]] = {}
        self._numbers = itertools.count()

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, thing: T) -> bool:
        return thing in self._entries

    def put(self, thing: T, rank: float) -> None:
        """Takes it in, or gives it another rank."""
        known = self._entries.get(thing)
        if known is not None and known[0] == rank:
            return
        number = next(self._numbers)
        entry = self._entries[thing] = rank, number if known is None else known[1], number, thing
        heapq.heappush(self._heap, entry)
        if len(self._heap) > 2 * len(self._entries) + 16:
            self._heap = list(self._entries.values())
            heapq.heapify(self._heap)

    def drop(self, thing: T) -> None:
        """Takes it out, if it is in."""
        self._entries.pop(thing, None)

    @property
    def first(self) -> T | None:
        """The least; None where there is nothing."""
        heap = self._heap
        while heap:
            thing = heap[0][3]
            if self._entries.get(thing) is heap[0]:
                return thing
            heapq.heappop(heap)
        return None


class Member:
    """Whoever wants turns: a request. It stands in the queue once, however many turns it waits for."""

    __slots__ = ("line",)

    def __init__(self, line: Line[Any]) -> None:
        self.line = line


M = TypeVar("M", bound=Member)


class Line(Generic[M]):
    """The members of one key that wait, and what the key has had."""

    __slots__ = ("eldest", "held", "mean", "name", "small", "tag", "turns", "waiting", "weight")

    def __init__(self, name: str, weight: float, mean: float) -> None:
        self.name, self.weight = name, weight
        self.tag = 0.0
        self.mean = mean
        """What a turn of this key costs, running mean."""
        self.held = 0
        """Its open turns."""
        self.turns = 0
        self.waiting: Least[M] = Least()
        self.small: Least[M] = Least()
        """Those of them who may have what is kept."""
        self.eldest: OrderedDict[M, None] = OrderedDict()


class FairQueue(Generic[M]):
    """Members that wait, of all keys. Its owner knows what turns there are; `next` says whose is one, and `charge` that
    it was given. Lines are kept: keys come from a configuration and are few."""

    def __init__(self, mean: float) -> None:
        """`mean`: what a turn costs, before any was seen."""
        self._mean = mean
        self._by_name: dict[str, Line[M]] = {}
        self._lines: Least[Line[M]] = Least()
        self._small: Least[Line[M]] = Least()
        self._now = 0.0
        """The tag at which the last turn began."""

    def __len__(self) -> int:
        """Members that wait."""
        return sum(len(line.waiting) for line in self._by_name.values())

    @property
    def lines(self) -> Collection[Line[M]]:
        """All keys that were ever here."""
        return self._by_name.values()

    def line(self, name: str, weight: float) -> Line[M]:
        """The line of a key."""
        line = self._by_name.get(name)
        if line is None:
            line = self._by_name[name] = Line(name, weight, self._mean)
        return line

    def enter(self, member: M, rank: float, *, small: bool) -> None:
        """It waits; or, where it does already, it has another rank. `small`: it may have what is kept."""
        line = member.line
        if not line.waiting:
            line.tag = max(line.tag, self._now)
        if member not in line.waiting:
            line.eldest[member] = None
        line.waiting.put(member, rank)
        if small:
            line.small.put(member, rank)
        else:
            line.small.drop(member)
        self._sort(line)

    def leave(self, member: M) -> None:
        """It waits no more. Idempotent."""
        line = member.line
        line.waiting.drop(member)
        line.small.drop(member)
        line.eldest.pop(member, None)
        self._sort(line)

    def next(self, *, small: bool = False) -> M | None:
        """Whose the next turn is; it goes on waiting. `small`: among those who may have what is kept."""
        line = (self._small if small else self._lines).first
        if line is None:
            return None
        if small:
            return line.small.first
        if line.turns % ELDEST == ELDEST - 1:
            return next(iter(line.eldest))
        return line.waiting.first

    def charge(self, member: M, cost: float) -> None:
        """It has a turn, which is likely to cost this much, more than nothing."""
        line = member.line
        if not line.waiting:
            line.tag = max(line.tag, self._now)
        elif member in line.eldest:
            line.eldest.move_to_end(member)
        self._now = max(self._now, line.tag)
        line.tag += cost / line.weight
        line.turns += 1
        line.held += 1
        if line.waiting:
            self._sort(line)

    def settle(self, member: M, charged: float, cost: float) -> None:
        """A turn is over that cost this much in place of what was charged."""
        line = member.line
        line.held -= 1
        if cost > 0:
            line.mean += (max(1.0, cost) - line.mean) / 32
        if cost == charged:
            return
        tag = line.tag + (cost - charged) / line.weight
        if cost > charged:
            line.tag = min(tag, max(line.tag, self._now + line.mean * (1 + line.held) / line.weight))
        else:
            line.tag = max(tag, min(line.tag, self._now - line.mean / line.weight))
        if line.waiting:
            self._sort(line)

    def _sort(self, line: Line[M]) -> None:
        """Puts a line in its place among the others."""
        for lines, waiting in ((self._lines, line.waiting), (self._small, line.small)):
            if waiting:
                lines.put(line, line.tag)
            else:
                lines.drop(line)
