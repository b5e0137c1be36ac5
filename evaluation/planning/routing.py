"""Which replica a chain goes to: five rules over what a door knows of the replicas' loads.

A door knows its own chains at once and those of other doors as it last asked. Where there is one door, it knows all.
"""

from __future__ import annotations

import heapq
import math
import random
from collections.abc import Sequence
from typing import Literal

from ponder.engines.replicas.routing import BOUND, IDLE

Rule = Literal["affinity", "bounded", "least", "two", "random"]
RULES: tuple[Rule, ...] = ("affinity", "bounded", "least", "two", "random")

DRAWN = 128
"""Replicas that are tried for a chain, of some more than once."""

_MIX = 0x9E3779B97F4A7C15
_WORD = (1 << 64) - 1


def mixed(key: int) -> int:
    """64 bits that follow from a number and look like chance (Steele et al. 2014, "Fast Splittable Pseudorandom Number
    Generators")."""
    z = (key * _MIX) & _WORD
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _WORD
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _WORD
    return z ^ (z >> 31)


class Router:
    """What one door knows, and where it sends chains."""

    def __init__(self, rule: Rule, replicas: int, slots: int, seed: int) -> None:
        self._rule: Rule = rule
        self._count, self._slots = replicas, slots
        self._chance = random.Random(seed)  # noqa: S311 (no secret)
        self.loads = [0] * replicas
        """Chains on each replica, as far as this door knows."""
        self.own = [0] * replicas
        """Its own chains among them."""
        self._whole = 0
        self.up = [True] * replicas
        self._alive = replicas
        self._heap: list[tuple[int, int]] = [(0, number) for number in range(replicas)] if rule == "least" else []

    def sent(self, replica: int) -> None:
        self.own[replica] += 1
        self._change(replica, 1)

    def over(self, replica: int) -> None:
        self.own[replica] -= 1
        self._change(replica, -1)

    def told(self, loads: Sequence[int]) -> None:
        """What replicas say of themselves."""
        self.loads = list(loads)
        self._whole = sum(loads)
        if self._rule == "least":
            self._heap = [(load, number) for number, load in enumerate(loads)]
            heapq.heapify(self._heap)

    def alive(self, replica: int, up: bool) -> None:
        self._alive += up - self.up[replica]
        self.up[replica] = up
        if up and self._rule == "least":
            heapq.heappush(self._heap, (self.loads[replica], replica))

    def choose(self, key: int) -> int | None:
        """For a chain whose prompt begins as `key` says; None where every replica is away."""
        if not self._alive:
            return None
        match self._rule:
            case "random":
                return self._any()
            case "two":
                one, other = self._any(), self._any()
                return one if self.loads[one] <= self.loads[other] else other
            case "least":
                return self._least()
            case "affinity":
                return self._preferred(key, self._slots)
            case "bounded":
                # As a pool of replicas does.
                most = max(IDLE * self._slots, BOUND * (self._whole + 1) / self._alive)
                return self._preferred(key, min(self._slots, max(1, math.ceil(most))))

    def _preferred(self, key: int, most: int) -> int:
        """The first in the order of its rendezvous hashes (Thaler and Ravishankar 1998) that has room. Of all the
        hashes as many are drawn as it takes: in the order of their hashes, replicas come as if by lot."""
        tried: list[int] = []
        for draw in range(DRAWN):
            replica = mixed(key + draw * 0x632BE59BD9B4E019) % self._count
            if self.up[replica]:
                if self.loads[replica] < most:
                    return replica
                tried.append(replica)
        # Where so many are full, the least is looked for: among few replicas of all, else of those that were tried.
        if self._count <= DRAWN or not tried:
            tried = [number for number in range(self._count) if self.up[number]]
        return min(tried, key=lambda one: (self.loads[one], one))

    def _any(self) -> int:
        while True:
            replica = self._chance.randrange(self._count)
            if self.up[replica]:
                return replica

    def _least(self) -> int:
        heap = self._heap
        while True:
            load, replica = heap[0]
            if self.up[replica] and load == self.loads[replica]:
                return replica
            heapq.heappop(heap)

    def _change(self, replica: int, by: int) -> None:
        self.loads[replica] += by
        self._whole += by
        if self._rule == "least":
            heapq.heappush(self._heap, (self.loads[replica], replica))
            if len(self._heap) > 8 * self._count + 64:
                self._heap = [(load, number) for number, load in enumerate(self.loads) if self.up[number]]
                heapq.heapify(self._heap)
