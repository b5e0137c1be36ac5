"""How likely an answer is to win the vote in full, as the vote stands when it ends early: a probability, not a share.

Chains that are still to come are foreseen by Pitman and Yor's urn (1997, "The two-parameter Poisson-Dirichlet
distribution"): of n votes, an answer that has c is given again with probability (c - discount) / (n + strength), and
the rest goes to answers that nobody has given yet. How far answers scatter is different from question to question, so a
few urns are weighed against one another by how well each explains the votes that were cast. The chance to win is worked
out exactly, over all ways in which the votes to come may fall.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from itertools import accumulate
from math import exp, lgamma, log
from typing import Annotated

from pydantic import ConfigDict, Field, model_validator
from pydantic.dataclasses import dataclass

AHEAD = 32
"""Votes to come that are reckoned with: who leads so many votes later leads in the end, nearly always."""


@dataclass(frozen=True, slots=True, config=ConfigDict(extra="forbid"))
class Urn:
    """One way in which a model's answers to a question may scatter."""

    weight: Annotated[float, Field(gt=0, le=1)]
    """The part of all questions that are like this, in (0, 1]."""
    discount: Annotated[float, Field(ge=0, lt=1)]
    """In [0, 1): how much of the scatter is answers that are given once and never again."""
    strength: float
    """Above -discount: how ready the model is to give another answer."""

    def evidence(self, counts: Sequence[int]) -> float:
        """The logarithm of the probability of votes that are divided like this."""
        n, d, s = sum(counts), self.discount, self.strength
        new = sum(log(s + i * d) for i in range(1, len(counts)))
        again = sum(lgamma(c - d) for c in counts) - len(counts) * lgamma(1 - d)
        return new + again + lgamma(1 + s) - lgamma(n + s)

    @model_validator(mode="after")
    def _scatters(self) -> Urn:
        if self.strength <= -self.discount:
            raise ValueError("strength must be above -discount")
        return self


@dataclasses.dataclass(frozen=True, slots=True)
class Ballots:
    """A vote as it stands. All its chains are answers to the same prompt, drawn one like the other."""

    counts: tuple[int, ...]
    """Votes of each answer."""
    places: Mapping[int, int | None]
    """For each chain that has ended, by its number: the place of its answer in `counts`; None where it has no vote."""


def confidence(ballots: Ballots, chains: Iterable[int], full: int, urns: tuple[Urn, ...]) -> float | None:
    """Probability that the answer of one of these chains wins the vote of `full` chains; None where none has a vote.
    Chains to come are taken to be silent as often as those that have ended."""
    place = next((place for n in chains if (place := ballots.places.get(n)) is not None), None)
    if place is None:
        return None
    ended, voted = len(ballots.places), sum(ballots.counts)
    left = round(max(0, full - ended) * (voted + 1) / (ended + 1))
    return round(would_win(ballots.counts, left, urns, place), 4)


@lru_cache(maxsize=8192)
def would_win(counts: tuple[int, ...], left: int, urns: tuple[Urn, ...], place: int = 0) -> float:
    """Probability in [0, 1] that the answer at this `place` of `counts`, the votes of each answer, leads the vote when
    `left` more chains have answered. Of equals, the one that stands first in `counts` leads.

    Time grows with the cube of `left`, which counts for at most `AHEAD`.
    """
    left = min(max(0, left), AHEAD)
    logs = [log(urn.weight) + urn.evidence(counts) for urn in urns]
    shares = [exp(one - max(logs)) for one in logs]
    chances = 0.0
    for discount in sorted({urn.discount for urn in urns}):
        alike = [(urn, share) for urn, share in zip(urns, shares, strict=True) if urn.discount == discount]
        chances += _chances(counts, left, place, alike)
    return min(1.0, chances / sum(shares))


def _chances(counts: tuple[int, ...], left: int, place: int, alike: list[tuple[Urn, float]]) -> float:
    """The chance to win by urns of one discount, each times its share.

    Votes to come are counted by generating functions: one polynomial for each answer that was given, whose coefficients
    are cut where it would have too many, times one for all that are new.
    """
    discount, n = alike[0][0].discount, sum(counts)
    ours = _again(counts[place] - discount, left)
    # Answers with as many votes, on one side of ours, are alike; of 200 answers most have one vote.
    many = Counter((c, c + (i < place)) for i, c in enumerate(counts) if i != place)
    others = [(_again(c - discount, left), least, times) for (c, least), times in many.items()]
    found = [0.0] * len(alike)
    for more in range(left + 1):
        rest, most = left - more, counts[place] + more
        known = [1.0]
        for ways, least, times in others:
            known = _times(known, _power(ways[: max(0, most - least + 1)], times, rest), rest)
        for i, (urn, _) in enumerate(alike):
            new = _new(urn, len(counts), rest, min(rest, most))
            found[i] += ours[more] * sum(k * new[rest - j] for j, k in enumerate(known))
    whole = [_again(n + urn.strength, left)[left] for urn, _ in alike]
    return sum(share * some / all_ for some, all_, (_, share) in zip(found, whole, alike, strict=True))


def _again(ready: float, most: int) -> list[float]:
    """In how many ways an answer may have y more votes, by y, over y!."""
    return list(accumulate(range(1, most + 1), lambda ways, y: ways * (ready + y - 1) / y, initial=1.0))


def _times(one: Sequence[float], other: Sequence[float], degree: int) -> list[float]:
    """The product of two polynomials, up to a degree."""
    product = [0.0] * max(0, min(degree + 1, len(one) + len(other) - 1))
    for i, a in enumerate(one[: len(product)]):
        for j, b in enumerate(other[: len(product) - i], i):
            product[j] += a * b
    return product


def _power(one: Sequence[float], times: int, degree: int) -> Sequence[float]:
    """A polynomial times itself, up to a degree, by squares."""
    power: Sequence[float] = [1.0]
    while times:
        if times & 1:
            power = _times(power, one, degree)
        times >>= 1
        one = _times(one, one, degree) if times else one
    return power


@lru_cache(maxsize=4096)
def _new(urn: Urn, given: int, most: int, cap: int) -> Sequence[float]:
    """In how many ways answers that are new may have y votes together, by y, over y!, and none of them above `cap`,
    where `given` others are known."""
    d, s = urn.discount, urn.strength + urn.discount * given
    one = [0.0, *accumulate(range(2, cap + 1), lambda ways, y: ways * (y - 1 - d) / y, initial=1.0)]
    ways = [1.0]
    for y in range(1, most + 1):
        ways.append(sum(one[i] * (s * i + d * (y - i)) * ways[y - i] for i in range(1, min(y, cap) + 1)) / y)
    return ways
