"""What is asked of a fleet: requests over time, how long their chains are and what they answer.

A question has a difficulty of its own: chains of one question are alike. Of recorded samples of ten pairs of model and
questions, between .48 and .93 of the variance of the logarithm of lengths lies between questions. What chains answer
is drawn by the urns that `auto` reckons with (`ponder.compute.full_vote`), or taken from a pool.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from ponder.compute.full_vote import Urn
from ponder.compute.lengths import Z90
from ponder.compute.policy import BUILT_IN
from ponder.engines.samples import Question as Recorded
from ponder.evaluation.planning.patterns import Pattern

ALIKE = 0.8
"""The part of the variance of the logarithm of lengths that lies between questions."""


class Question(Protocol):
    """What the chains of one request are drawn from, one after the other."""

    def chain(self) -> int:
        """Tokens of the next chain, at least 1."""
        ...

    def answer(self) -> int | None:
        """What that chain answers; equal answers have equal numbers, None has no vote. Asked once for each chain, or
        for none."""
        ...


class Lengths(Protocol):
    """Where questions come from."""

    @property
    def mean(self) -> float:
        """Tokens of a chain."""
        ...

    @property
    def square(self) -> float:
        """The mean of their squares, by which long chains weigh the more in contexts."""
        ...

    def question(self, chance: random.Random) -> Question:
        """Another question, with what it is drawn by."""
        ...


@dataclass(frozen=True, slots=True)
class LogNormal:
    """Chains by two quantiles, in tokens."""

    p50: float
    p90: float
    alike: float = ALIKE
    longest: float = math.inf
    """A chain is cut there: what of its budget or of the context is left."""
    urns: tuple[Urn, ...] = BUILT_IN.urns

    @property
    def sigma(self) -> float:
        return math.log(self.p90 / self.p50) / Z90

    @property
    def mean(self) -> float:
        return self._moment(1)

    @property
    def square(self) -> float:
        return self._moment(2)

    def _moment(self, power: int) -> float:
        """The mean of a power of a log-normal length that is cut."""
        longest = self.longest**power
        whole = self.p50**power * math.exp((power * self.sigma) ** 2 / 2)
        if math.isinf(self.longest) or self.sigma == 0:
            return min(whole, longest)
        z = (math.log(self.longest / self.p50)) / self.sigma
        below = math.erfc((power * self.sigma - z) / math.sqrt(2)) / 2
        return whole * below + longest * math.erfc(z / math.sqrt(2)) / 2

    def question(self, chance: random.Random) -> Question:
        mean = math.log(self.p50) + self.sigma * math.sqrt(self.alike) * chance.gauss(0, 1)
        return _Drawn(mean, self.sigma * math.sqrt(1 - self.alike), self.longest, self.urns, chance)


class _Drawn:
    """A question nobody has asked: lengths around its own mean, answers of Pitman and Yor's urn."""

    __slots__ = ("_chance", "_counts", "_longest", "_mean", "_sigma", "_urn", "_urns")

    def __init__(self, mean: float, sigma: float, longest: float, urns: Sequence[Urn], chance: random.Random) -> None:
        self._mean, self._sigma, self._longest, self._chance = mean, sigma, longest, chance
        self._urns = urns
        self._urn: Urn | None = None
        self._counts: list[int] = []

    def chain(self) -> int:
        return max(1, round(min(self._longest, math.exp(self._mean + self._sigma * self._chance.gauss(0, 1)))))

    def answer(self) -> int | None:
        if self._urn is None:
            (self._urn,) = self._chance.choices(self._urns, [urn.weight for urn in self._urns])
        urn, counts = self._urn, self._counts
        at = self._chance.random() * (sum(counts) + urn.strength) if counts else 0.0
        for number, count in enumerate(counts):
            at -= count - urn.discount
            if at < 0:
                counts[number] += 1
                return number
        counts.append(1)
        return len(counts) - 1


@dataclass(frozen=True, slots=True)
class Pool:
    """Questions that were recorded (`docs/pools.md`): lengths and answers as they were."""

    questions: Sequence[Recorded]
    longest: float = math.inf

    @property
    def mean(self) -> float:
        return self._moment(1)

    @property
    def square(self) -> float:
        return self._moment(2)

    def _moment(self, power: int) -> float:
        each = [
            sum(min(sample.tokens, self.longest) ** power for sample in question.samples) / len(question.samples)
            for question in self.questions
        ]
        return sum(each) / len(each)

    def question(self, chance: random.Random) -> Question:
        question = self.questions[chance.randrange(len(self.questions))]
        order = list(range(len(question.samples)))
        chance.shuffle(order)
        return _Pooled(question, order, self.longest)


class _Pooled:
    """The samples of a question in an order, each once before any comes again."""

    __slots__ = ("_answered", "_longest", "_made", "_order", "_question")

    def __init__(self, question: Recorded, order: Sequence[int], longest: float) -> None:
        self._question, self._order, self._longest = question, order, longest
        self._made = self._answered = 0

    def chain(self) -> int:
        sample = self._question.samples[self._order[self._made % len(self._order)]]
        self._made += 1
        return max(1, round(min(self._longest, sample.tokens)))

    def answer(self) -> int | None:
        sample = self._question.samples[self._order[self._answered % len(self._order)]]
        self._answered += 1
        return sample.answer if sample.tokens <= self._longest else None


@dataclass(slots=True)
class Asked:
    """A request on its way to a door. Times in seconds, lengths in tokens."""

    at: float
    pattern: Pattern
    """How it draws: its own, for it counts."""
    question: Question
    owner: str = ""
    weight: float = 1.0
    prompt: int = 0
    shared: int = 0
    """Of the prompt, how many at its beginning are those of all requests of its group."""
    group: int = 0
    """Whose beginning that is: a system prompt, a conversation. 0: its own."""
    most: float = math.inf
    """A chain may take: its share of the budget."""


@dataclass(frozen=True, slots=True)
class Arrivals:
    """When requests come: a Poisson process, whose rate may swing by the hour of the day and come in bursts."""

    rate: float
    """A second, the mean."""
    peak: float = 1.0
    """The busiest moment of the day over the mean, up to 2: the rate is a sine."""
    day: float = 86400.0
    """Seconds of a day; less makes the same swing sooner."""
    burst: float = 1.0
    """The rate within a burst over the mean; 1 is none."""
    bursts: float = 0.1
    """The part of the time that bursts take."""
    lasting: float = 60.0
    """Seconds that a burst lasts, the mean."""

    @property
    def highest(self) -> float:
        """The rate at the busiest hour, bursts aside."""
        return self.rate * self.peak

    def times(self, chance: random.Random) -> Iterator[float]:
        """Without end. Drawn by thinning (Lewis and Shedler 1979)."""
        quiet = (1 - self.burst * self.bursts) / (1 - self.bursts)
        most = self.rate * self.peak * max(self.burst, 1.0)
        at, inside, until = 0.0, False, 0.0
        while True:
            at += chance.expovariate(most)
            while at >= until and self.burst > 1:
                inside = not inside if until else chance.random() < self.bursts
                mean = self.lasting if inside else self.lasting * (1 - self.bursts) / self.bursts
                until += chance.expovariate(1 / mean)
            now = self.rate * (1 + (self.peak - 1) * math.sin(2 * math.pi * at / self.day))
            if self.burst > 1:
                now *= self.burst if inside else quiet
            if chance.random() * most < now:
                yield at


@dataclass(frozen=True, slots=True)
class Kind:
    """Requests of one kind: how they draw, and whose they are."""

    pattern: Callable[[], Pattern]
    """Makes the pattern of each request."""
    lengths: Lengths
    share: float = 1.0
    """Of all requests, up to a factor that is the same for all kinds."""
    owner: str = ""
    weight: float = 1.0
    prompt: int = 500
    shared: int = 0
    groups: int = 0
    """So many beginnings of prompts there are; 0: each request has its own."""
    most: float = math.inf


@dataclass(frozen=True, slots=True)
class Demand:
    """All that is asked, drawn by one seed: the same requests come whatever the fleet is."""

    arrivals: Arrivals
    kinds: Sequence[Kind]
    seed: int = 0

    def requests(self, count: int) -> Iterator[Asked]:
        """So many, in the order in which they come."""
        shares = [kind.share for kind in self.kinds]
        times = self.arrivals.times(random.Random(f"{self.seed} arrivals"))  # noqa: S311 (no secret)
        for number in range(count):
            chance = random.Random(self.seed * 0x1_0000_0000 + number)  # noqa: S311
            (kind,) = self.kinds if len(self.kinds) == 1 else chance.choices(self.kinds, shares)
            yield Asked(
                next(times),
                kind.pattern(),
                kind.lengths.question(chance),
                kind.owner,
                kind.weight,
                kind.prompt,
                kind.shared,
                1 + chance.randrange(kind.groups) if kind.groups else 0,
                kind.most,
            )
