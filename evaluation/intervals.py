"""How sure a mean over questions and resamplings is, and the difference or ratio of two, by the bootstrap.

Values come by question and resampling. Of a mean two things may be asked: how it would differ over other questions of
the kind, resampled as these are, and how it would differ over other resamplings of these very questions. For the first,
questions are drawn with all of their values; drawing the values anew, too, would count their scatter twice (Davison and
Hinkley 1997, "Bootstrap Methods and their Application", 3.8). For the second, values are drawn within each question.
Values of one place belong together: differences and ratios are of pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Values = Sequence[Sequence[float]]
"""By question and resampling; of every question as many."""

DRAWS = 2000
AT_ONCE = 1 << 22
"""Values drawn at a time, which bounds the memory."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure and its 95 % intervals."""

    value: float
    low: float
    high: float
    """Over questions and resamplings."""
    low_here: float
    high_here: float
    """Over resamplings of these questions."""

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
    return _estimate(lambda one: times * one[0], [values])


def difference(values: Values, others: Values, times: float = 1.0) -> Estimate:
    """The mean of the differences, `times` as large."""
    return _estimate(lambda both: times * (both[0] - both[1]), [values, others])


def ratio(values: Values, others: Values) -> Estimate:
    """The ratio of the means; not a number where the second is 0."""
    return _estimate(_ratio, [values, others])


def _ratio(means: NDArray[np.float64]) -> Any:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(means[1] == 0, np.nan, means[0] / means[1])


def _estimate(of: Callable[[NDArray[np.float64]], Any], values: Sequence[Values]) -> Estimate:
    """A figure of the means of some values that belong together."""
    whole = np.asarray(values, dtype=np.float64)
    chance = np.random.default_rng(0)
    over = _middle(of(_over_questions(whole, chance)))
    here = _middle(of(_over_resamplings(whole, chance)))
    return Estimate(float(of(whole.mean(axis=(1, 2)))), *over, *here)


def _middle(values: NDArray[np.float64]) -> tuple[float, float]:
    """What 95 % of them lie between."""
    return float(np.quantile(values, 0.025)), float(np.quantile(values, 0.975))


def _over_questions(values: NDArray[np.float64], chance: np.random.Generator) -> NDArray[np.float64]:
    """Means, of each kind of value `DRAWS`."""
    of_questions = values.mean(axis=2)
    questions = values.shape[1]
    drawn = chance.multinomial(questions, np.full(questions, 1 / questions), size=DRAWS)
    return of_questions @ drawn.T / questions


def _over_resamplings(values: NDArray[np.float64], chance: np.random.Generator) -> NDArray[np.float64]:
    kinds, questions, resamplings = values.shape
    found = np.empty((kinds, DRAWS))
    size = max(1, AT_ONCE // (questions * resamplings))
    each = np.full(resamplings, 1 / resamplings)
    for at in range(0, DRAWS, size):
        drawn = chance.multinomial(resamplings, each, size=(min(size, DRAWS - at), questions))
        found[:, at : at + size] = np.einsum("kqr,dqr->kd", values, drawn) / (questions * resamplings)
    return found
