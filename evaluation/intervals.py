"""How sure a mean over questions and resamplings is, and the difference or ratio of two, by the bootstrap.

Values come by question and resampling. Of a mean two things may be asked: how it would differ over other questions of
the kind, resampled as these are, and how it would differ over other resamplings of these very questions. For the first,
questions are drawn with all of their values; drawing the values anew, too, would count their scatter twice (Davison and
Hinkley 1997, "Bootstrap Methods and their Application", 3.8). The second follows from the variance within each
question: a mean of so many independent parts is normal. Values of one place belong together: differences and ratios are
of pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

Values = Sequence[Sequence[float]] | NDArray[np.float64]
"""By question and resampling; of every question as many."""

DRAWS = 2000
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


def mean(values: Values, times: float = 1.0) -> Estimate:
    """The mean, `times` as large."""
    one = times * np.asarray(values, dtype=np.float64)
    return _estimate(one, lambda drawn: drawn @ one.mean(axis=1), float(one.mean()))


def difference(values: Values, others: Values, times: float = 1.0) -> Estimate:
    """The mean of the differences, `times` as large."""
    return mean(np.asarray(values, dtype=np.float64) - np.asarray(others, dtype=np.float64), times)


def ratio(values: Values, others: Values) -> Estimate:
    """The ratio of the means; not a number where the second is 0."""
    above, below = np.asarray(values, dtype=np.float64), np.asarray(others, dtype=np.float64)
    whole = below.mean()
    if whole == 0:
        return Estimate(*[float("nan")] * 5)
    value = float(above.mean() / whole)
    # Small changes of both, by the delta method.
    return _estimate(
        (above - value * below) / whole,
        lambda drawn: (drawn @ above.mean(axis=1)) / np.maximum(drawn @ below.mean(axis=1), 1e-300),
        value,
    )


def _estimate(
    parts: NDArray[np.float64], of: Callable[[NDArray[np.float64]], NDArray[np.float64]], value: float
) -> Estimate:
    """A figure with its intervals. `parts` vary as it does; `of` gives it for weights of the questions."""
    questions, resamplings = parts.shape
    found = of(_drawn(questions))
    within = float(parts.var(axis=1, ddof=1).sum()) / resamplings if resamplings > 1 else float("nan")
    half = NORMAL * within**0.5 / questions
    return Estimate(
        value, float(np.quantile(found, 0.025)), float(np.quantile(found, 0.975)), value - half, value + half
    )


@cache
def _drawn(questions: int) -> NDArray[np.float64]:
    """For each draw with replacement the weight of each question."""
    chance = np.random.default_rng(0)
    return chance.multinomial(questions, np.full(questions, 1 / questions), size=DRAWS) / questions
