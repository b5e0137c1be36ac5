"""How sure a mean over questions and resamplings is, and the difference or ratio of two, by the bootstrap.

Values come by question and resampling. Of a mean two things may be asked: how it would differ over other questions of
the kind, resampled as these are, and how it would differ over other resamplings of these very questions. For the first,
questions are drawn with all of their values; drawing the values anew, too, would count their scatter twice (Davison and
Hinkley 1997, "Bootstrap Methods and their Application", 3.8). The second follows from the variance within each
question: a mean of so many independent parts is normal. Values of one place belong together: differences and ratios are
of pairs. So do the same questions asked of several models: a mean over models draws them together.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from math import hypot

import numpy as np
from numpy.typing import NDArray

Values = Sequence[Sequence[float]] | NDArray[np.float64]
"""By question and resampling; of every question as many."""

DRAWS = 2000
OUTSIDE = 0.05
"""Of 1: what lies outside an interval."""
NORMAL = 1.96


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure and its 95 % intervals."""

    value: float
    low: float
    high: float
    """Over questions and resamplings."""
    low_here: float
    high_here: float
    """Over resamplings of these questions; not numbers where there was but one of each."""

    @property
    def half(self) -> float:
        """Half of the interval over questions and resamplings."""
        return (self.high - self.low) / 2

    @property
    def half_here(self) -> float:
        """Half of the interval over resamplings."""
        return (self.high_here - self.low_here) / 2


@dataclass(frozen=True, slots=True)
class Figure:
    """A figure over some questions before its intervals are known."""

    value: float
    parts: NDArray[np.float64]
    """By question and resampling: their mean varies with the resampling as the figure does."""
    over: Callable[[NDArray[np.float64]], NDArray[np.float64]]
    """The figure over other questions: by draws, from the weights of the questions in each."""

    def estimate(self) -> Estimate:
        """With its intervals."""
        return _estimate(self.value, self.over(resampled(len(self.parts)) / len(self.parts)), self.half)

    @property
    def half(self) -> float:
        """Half of the interval over resamplings; not a number where there was but one of each."""
        questions, resamplings = self.parts.shape
        if resamplings < 2:
            return float("nan")
        return NORMAL * (float(self.parts.var(axis=1, ddof=1).sum()) / resamplings) ** 0.5 / questions


def mean_of(values: Values, times: float = 1.0) -> Figure:
    """The mean, `times` as large."""
    one = times * np.asarray(values, dtype=np.float64)
    return Figure(float(one.mean()), one, lambda drawn: drawn @ one.mean(axis=1))


def difference_of(values: Values, others: Values, times: float = 1.0) -> Figure:
    """The mean of the differences, `times` as large."""
    return mean_of(np.asarray(values, dtype=np.float64) - np.asarray(others, dtype=np.float64), times)


def ratio_of(values: Values, others: Values) -> Figure:
    """The ratio of the means; not a number where the second is 0."""
    above, below = np.asarray(values, dtype=np.float64), np.asarray(others, dtype=np.float64)
    whole = below.mean()
    if whole == 0:
        return Figure(float("nan"), np.full(above.shape, np.nan), lambda drawn: np.full(len(drawn), np.nan))
    value = float(above.mean() / whole)
    # Small changes of both, by the delta method.
    return Figure(
        value,
        (above - value * below) / whole,
        lambda drawn: (drawn @ above.mean(axis=1)) / np.maximum(drawn @ below.mean(axis=1), 1e-300),
    )


def mean(values: Values, times: float = 1.0) -> Estimate:
    """`mean_of` with its intervals."""
    return mean_of(values, times).estimate()


def difference(values: Values, others: Values, times: float = 1.0) -> Estimate:
    """`difference_of` with its intervals."""
    return difference_of(values, others, times).estimate()


def ratio(values: Values, others: Values) -> Estimate:
    """`ratio_of` with its intervals."""
    return ratio_of(values, others).estimate()


def joint(figures: Sequence[Figure], names: Sequence[Sequence[Hashable]]) -> Estimate:
    """The mean of figures, each over questions of its own `names`. Those of one name are one question and drawn
    together; resamplings are independent."""
    found = [figure.over(drawn) for figure, drawn in zip(figures, _together(tuple(map(tuple, names))), strict=True)]
    value = float(np.mean([figure.value for figure in figures]))
    half = hypot(*(figure.half for figure in figures)) / len(figures)
    return _estimate(value, np.mean(found, axis=0), half)


def _estimate(value: float, found: NDArray[np.float64], half: float) -> Estimate:
    low, high = middle(found)
    return Estimate(value, low, high, value - half, value + half)


def middle(found: NDArray[np.float64]) -> tuple[float, float]:
    """Between which 95 % of what was found lie."""
    low, high = np.quantile(found, [OUTSIDE / 2, 1 - OUTSIDE / 2])
    return float(low), float(high)


@cache
def resampled(questions: int, times: int = DRAWS) -> NDArray[np.float64]:
    """For each of so many draws with replacement how often it has each question; always the same."""
    chance = np.random.default_rng(0)
    return chance.multinomial(questions, np.full(questions, 1 / questions), size=times).astype(np.float64)


@lru_cache(maxsize=1)
def _together(names: tuple[tuple[Hashable, ...], ...]) -> list[NDArray[np.float64]]:
    """For each draw the weight of each question, for several sets of questions, which are drawn together as far as they
    have them in common."""
    chance = np.random.default_rng(0)
    weights: list[NDArray[np.float64]] = [np.empty(0)] * len(names)
    for group in _connected(names):
        places = {name: place for place, name in enumerate(dict.fromkeys(name for i in group for name in names[i]))}
        drawn = chance.multinomial(len(places), np.full(len(places), 1 / len(places)), size=DRAWS)
        for i in group:
            own = drawn[:, [places[name] for name in names[i]]].astype(np.float64)
            # A draw that leaves one of the sets without a question says nothing of it.
            own[own.sum(axis=1) == 0] = 1.0
            weights[i] = own / own.sum(axis=1, keepdims=True)
    return weights


def _connected(names: Sequence[Sequence[Hashable]]) -> list[list[int]]:
    """The numbers of the sets, those together that have names in common, also by way of others."""
    groups: list[tuple[set[Hashable], list[int]]] = []
    for i, own in enumerate(names):
        touched = [group for group in groups if not group[0].isdisjoint(own)]
        groups = [group for group in groups if group[0].isdisjoint(own)]
        groups.append((set(own).union(*(known for known, _ in touched)), [*(n for _, of in touched for n in of), i]))
    return [of for _, of in groups]
