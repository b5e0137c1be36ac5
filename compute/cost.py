"""What one answer of a request may cost beside its limits in tokens: money that its calls are held to in the same way.

Amounts are tokens times prices, where a price is in nano-USD for a million tokens: whole numbers, never rounded. Money
for the visible answer is kept apart (`Budget.answer` times its price), so that there always is one. All else is paid
out of `amount`: hidden tokens, answers of chains that may lose, and what a reward model reads. Before it is known what
a token will be, it is held at the dearest price that it may have.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class CostLimit:
    """A bound on the cost of one answer, and the prices it goes by."""

    hidden: int
    """Price of a hidden token."""
    visible: int
    """Price of a token of the answer that is given."""
    verifier: int
    """Price of a token that a reward model reads."""
    amount: int
    """For everything but the answer that is given."""
    judging: int = 0
    """Of it, kept for the reward model: chains may not have it."""
    thought_short: bool = False
    """The limit of hidden tokens is what it pays for: tokens alone would allow more."""
    answer_short: bool = False
    """The same of visible ones."""

    @property
    def dearest(self) -> int:
        """Price of a token that may turn out to be hidden or visible."""
        return max(self.hidden, self.visible)


def payable(amount: int, price: int) -> int:
    """Tokens that an amount pays for; negative where it is below 0."""
    if price == 0:
        return sys.maxsize if amount >= 0 else -1
    return amount // price
