"""A replica as a continuous batch: in each step it writes one token of every chain that runs.

So all its chains are equally far, and one number says how far: tokens written since it began, by each that was there
all along. Between two events that number grows on a straight line; a chain ends when it has come far enough. What is
read of prompts holds the steps up for its time, as chunked prefill does in sum.

A step reads all contexts, so it takes the longer the more tokens they have: as many as there are chains come to them
with each step. Progress is then a parabola between two events, and still one number.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections import OrderedDict, deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar


@dataclass(frozen=True, slots=True)
class Costs:
    """What a replica's steps take, in seconds."""

    steps: Sequence[tuple[int, float]]
    """(chains that run, seconds of a step), in rising order: between two on the straight line, beyond the last along
    the last line; below the first as the first."""
    read: float = 0.0
    """A token of a prompt that is not in the prefix cache."""
    context: float = 0.0
    """What each token in the contexts of chains that run adds to a step; 0 where that was not measured."""

    def step(self, running: int, contexts: float = 0.0) -> float:
        """Seconds of a step in which so many chains run, whose contexts have so many tokens together."""
        return self._step(running) + self.context * contexts

    def _step(self, running: int) -> float:
        steps = self.steps
        if len(steps) == 1 or running <= steps[0][0]:
            return steps[0][1]
        at = next((i for i, (batch, _) in enumerate(steps) if batch >= running), len(steps) - 1)
        (x0, y0), (x1, y1) = steps[at - 1], steps[at]
        return y0 + (y1 - y0) * (running - x0) / (x1 - x0)

    def rate(self, running: int, contexts: float = 0.0) -> float:
        """Tokens a second with so many chains."""
        return running / self.step(running, contexts)

    def table(self, places: int) -> Sequence[float]:
        """Seconds of a step by the number of chains, from 0; contexts come on top."""
        return [self.step(max(1, running)) for running in range(places + 1)]


class Chain(Protocol):
    """What a replica knows of a chain."""

    left: float
    """Tokens to be written when it came."""
    ends: float
    """How far the replica is when it ends; the replica's own."""
    begun: float
    """How far the replica was when it came."""
    context: float
    """Tokens in its context when it came."""
    runs: bool
    where: int
    """The replica's number."""


C = TypeVar("C", bound=Chain)


class Replica(Generic[C]):
    """One engine. Times in seconds, progress in tokens."""

    __slots__ = (
        "_at",
        "_context",
        "_contexts",
        "_ends",
        "_held",
        "_kept",
        "_numbers",
        "_seen",
        "_steps",
        "far",
        "number",
        "running",
        "up",
        "version",
        "waiting",
    )

    def __init__(self, number: int, steps: Sequence[float], kept: int, context: float = 0.0) -> None:
        """`steps`: seconds of a step by chains that run. `kept`: beginnings of prompts that its cache holds. `context`:
        seconds of a step that each token in a context adds."""
        self.number, self.up = number, True
        self.far = 0.0
        self.running = 0
        self.version = 0
        """Grows when what is next has changed."""
        self.waiting: deque[C] = deque()
        """First come, first served, as in vLLM."""
        self._steps, self._kept, self._context = steps, kept, context
        self._contexts = 0.0
        """Tokens in the contexts of all that run."""
        self._at = self._held = 0.0
        self._ends: list[tuple[float, int, C]] = []
        self._numbers = itertools.count()
        self._seen: OrderedDict[int, None] = OrderedDict()

    @property
    def load(self) -> int:
        """Chains that run and wait."""
        return self.running + len(self.waiting)

    def advance(self, now: float) -> None:
        """Comes to the present."""
        begin = self._at if self._held <= self._at else min(self._held, now)
        if self.running and now > begin:
            made = self._made(now - begin)
            self.far += made
            self._contexts += made * self.running
        self._at = now

    def _made(self, seconds: float) -> float:
        """Tokens that each chain writes in so many seconds from now."""
        step = self._steps[self.running]
        if not self._context:
            return seconds / step
        step += self._context * self._contexts
        # step x made + grows x made^2 / 2 = seconds
        grows = self._context * self.running
        return 2 * seconds / (step + math.sqrt(step * step + 2 * grows * seconds))

    def _lasts(self, tokens: float) -> float:
        """Seconds until each chain has written so many tokens more."""
        step = self._steps[self.running]
        if self._context:
            step += self._context * (self._contexts + self.running * tokens / 2)
        return tokens * step

    def add(self, chain: C, now: float, reading: float) -> None:
        """A chain runs from now on, whose prompt takes so many seconds to read."""
        self.advance(now)
        self._held = max(self._held, now) + reading
        # It waits for the step that is under way, half of one on average.
        chain.begun, chain.ends = self.far, self.far + chain.left + (0.5 if self.running else 0.0)
        chain.runs, chain.where = True, self.number
        heapq.heappush(self._ends, (chain.ends, next(self._numbers), chain))
        self.running += 1
        self._contexts += chain.context
        self.version += 1

    def remove(self, chain: C, now: float) -> float:
        """It runs no longer. Returns how many tokens were written of it here."""
        self.advance(now)
        chain.runs = False
        self.running -= 1
        self._contexts = self._contexts - chain.context - (self.far - chain.begun) if self.running else 0.0
        self.version += 1
        return self.progress(chain)

    def written(self, chain: C, now: float) -> float:
        """Tokens of a chain that runs, so far."""
        self.advance(now)
        return self.progress(chain)

    def progress(self, chain: C) -> float:
        """The same, as of the last event."""
        return min(self.far - chain.begun, chain.left)

    def chains(self) -> list[C]:
        """Those that run."""
        return [end[2] for end in self._ends if self._runs(end)]

    @property
    def first(self) -> C | None:
        """Whose end is next."""
        ends = self._ends
        while ends and not self._runs(ends[0]):
            heapq.heappop(ends)
        return ends[0][2] if ends else None

    def _runs(self, end: tuple[float, int, C]) -> bool:
        """Whether an end is still to come here: its chain may have been stopped, or gone on elsewhere."""
        return end[2].runs and end[2].where == self.number and end[2].ends == end[0]

    def when(self) -> float | None:
        """When that will be, as things are now; None where none runs."""
        if (chain := self.first) is None:
            return None
        return max(self._at, self._held) + self._lasts(max(0.0, chain.ends - self.far))

    def has_read(self, key: int) -> bool:
        """Whether the beginning of a prompt is in its cache, where it is from now on."""
        seen = self._seen
        if key in seen:
            seen.move_to_end(key)
            return True
        seen[key] = None
        if len(seen) > self._kept:
            seen.popitem(last=False)
        return False

    def fail(self, now: float) -> list[C]:
        """It is gone, with its cache. Returns the chains it had; those that ran still say so."""
        self.advance(now)
        self._ends.sort(key=lambda end: end[1])
        lost = self.chains()
        lost += self.waiting
        self.waiting.clear()
        self._ends.clear()
        self._seen.clear()
        self.up, self.running, self._contexts = False, 0, 0.0
        self.version += 1
        return lost

    def mend(self, now: float) -> None:
        """It is back, with nothing in its cache."""
        self.advance(now)
        self._held, self.up = now, True
