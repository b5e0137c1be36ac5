"""What the model's own likelihood says of a chain, and how much that was worth lately in telling answers apart.

Two facts are read off a chain. Its least likely window: there the model guessed, or made a slip (DeepConf, Fu et al.
2025, with the likelihood of the drawn tokens in place of that of the likeliest ones). And its probability as a whole.
Where that is above 1/2, the chain is likelier than all others together: its answer would have the majority of a vote of
any size, so there is nothing to vote on. Each of its tokens is then the likeliest at its place, so that a temperature
below 1, top_p, top_k and min_p make it likelier still.

How well the least likely window tells answers apart is another matter for each model. It is learned from how votes
end: how often a chain of the answer that has won has a likelier one than a chain that has not.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

PRIOR = 8.0
"""Requests that what is thought beforehand counts for."""

MEMORY = 512.0
"""Observations after which what was learned fades, as the habits of a model may change."""

SUREST = 1 - 1 / MEMORY
"""No AUC is believed to be above this: from so few observations it could not be told from 1."""

WINDOWS = 8
"""Windows in a typical chain."""

LEAST_WINDOW = 4
"""Tokens of a window at least."""

HALF = math.log(0.5)


@dataclass(frozen=True, slots=True)
class Certainty:
    """How certain a model was of a chain, or of as much of it as there is. Natural logarithms."""

    whole: float
    """Of the probability of all its tokens together."""
    lowest: float
    """The mean of its tokens' in the window where that is least."""

    @property
    def prevails(self) -> bool:
        """The chain is likelier than all others together; of a half-written one: it may still be so."""
        return self.whole > HALF


def lowest_mean(values: Sequence[float], window: int) -> float:
    """The least mean over any `window` values in a row, or over all where there are fewer; of one value at least."""
    window = min(window, len(values))
    running = lowest = sum(values[:window])
    for i in range(window, len(values)):
        running += values[i] - values[i - window]
        lowest = min(lowest, running)
    return lowest / window


def window_of(typical: int) -> int:
    """Tokens of a window of chains that are typically so long."""
    return max(LEAST_WINDOW, typical // WINDOWS)


def power(auc: float) -> float:
    """By which power of its rank a chain votes, where a chain with the right answer outranks one without with
    probability `auc`, in [0, 1]. Where that is at most 1/2, the power is 0, an even vote.

    Under Lehmann's alternatives (1953, "The Power of Rank Tests") ranks of right chains have the density k u^(k-1)
    where those of wrong ones are uniform, and auc = k / (k + 1).
    """
    auc = min(auc, SUREST)
    return 0.0 if auc <= 0.5 else (2 * auc - 1) / (1 - auc)


class Worth:
    """How well the likelihood of a model's chains has told the answers that won from others, as an AUC in (0, 1). Every
    request counts once."""

    def __init__(self) -> None:
        self._sum = self._seen = 0.0

    def auc(self, prior: float) -> float:
        """`prior`: what is thought of it before any was seen."""
        return (PRIOR * prior + self._sum) / (PRIOR + self._seen)

    def saw(self, auc: float) -> None:
        """So it was in one request."""
        fades = 1 - 1 / MEMORY if self._seen >= MEMORY else 1.0
        self._sum, self._seen = self._sum * fades + auc, self._seen * fades + 1
