"""Coarser numbers for a key, where the operator wants them: exact counts and times tell how long hidden texts are, and
a budget that can be set to the token shows an answer at every point of a thought.

Only what a caller sees is coarser. The account, the metrics and the traces have the exact numbers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from ponder.compute.outcome import Outcome, Summarised

TOLD = ("deadline", "draining", "engine_error")
"""Why an answer was cut, where that is told: the others tell where a thought ended."""


@dataclass(frozen=True, slots=True)
class Coarse:
    """How coarse."""

    tokens: int = 1
    """Budgets are multiples of it, and numbers of tokens that nobody sees are rounded up to one."""
    seconds: float = 0.0
    """The first text comes, and an answer in one piece, at a multiple of it after the request; 0: at once."""

    def lowered(self, budget: int, answers: int) -> int:
        """A budget of several answers together."""
        return budget - budget % (self.tokens * answers)

    def outcome(self, outcome: Outcome, budget: int) -> Outcome:
        """The same as a caller is told of it. `budget`: hidden tokens of this answer at most."""
        spent = replace(
            outcome.spent,
            hidden=min(self.up(outcome.spent.hidden), max(budget, outcome.spent.hidden)),
            discarded=min(self.up(outcome.spent.discarded), max(budget, outcome.spent.discarded)),
            verifier=self.up(outcome.spent.verifier),
            # Whether there were any, and not of how many chains.
            unseen_calls=min(1, outcome.spent.unseen_calls),
        )
        return replace(
            outcome,
            spent=spent,
            stopped_by=outcome.stopped_by if outcome.stopped_by in TOLD else "finished",
            # Why there is none would tell where a thought ended.
            summary=outcome.summary and Summarised(outcome.summary.text),
            agreement=_tenths(outcome.agreement),
            confidence=_tenths(outcome.confidence),
            score=_tenths(outcome.score),
        )

    def prompt(self, tokens: int, earlier: int, thoughts: int) -> int:
        """Tokens of a prompt, of which so many are `earlier` ones: of so many thoughts that were given back to the
        model. The same thought many times over tells no more of its length than once."""
        step = self.tokens * max(1, thoughts)
        return tokens - earlier + -(-earlier // step) * step

    def hidden(self, tokens: int, budget: int) -> int:
        """Hidden tokens of an answer that came to nothing."""
        return min(self.up(tokens), max(budget, tokens))

    def wait(self, passed: float) -> float:
        """Seconds until something may be seen, `passed` after the request."""
        return math.ceil(passed / self.seconds) * self.seconds - passed if self.seconds else 0.0

    def up(self, tokens: int) -> int:
        """A number of hidden tokens as it is told."""
        return -(-tokens // self.tokens) * self.tokens


def _tenths(value: float | None) -> float | None:
    return None if value is None else round(value, 1)
