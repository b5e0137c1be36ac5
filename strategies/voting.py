"""When a vote is settled: what the voting strategies share.

The Beta rule is Adaptive-Consistency's (Aggarwal et al. 2023, "Let's Sample Step by Step"): with a uniform prior and
only the two leading answers in the race, a leader with `a` votes against `b` stays ahead with probability 1 - I(1/2;
a+1, b+1).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from math import comb

from compute.answers import group

from compute.text import Candidate


def lead_probability(leader: int, runner_up: int) -> float:
    """Probability that the answer with `leader` votes is really the more frequent of the two, in [0, 1]."""
    n = leader + runner_up + 1
    return sum(comb(n, k) for k in range(runner_up + 1, n + 1)) / 2**n


@dataclass(frozen=True, slots=True)
class Tally:
    """The state of a vote. `leader` is the index of the first candidate of the leading group (0 where nobody voted)."""

    leader: int
    votes: tuple[int, ...]
    """Votes of each answer, most first."""

    @property
    def share(self) -> float:
        """The leader's part of all votes cast, in [0, 1]."""
        return self.votes[0] / sum(self.votes) if self.votes else 0.0

    @property
    def unanimous(self) -> bool:
        return len(self.votes) == 1

    def settled(self, outstanding: int, confidence: float) -> bool:
        """Nobody can catch up with `outstanding` more votes, or the leader is ahead with this confidence."""
        if not self.votes:
            return False
        first, second = self.votes[0], self.votes[1] if len(self.votes) > 1 else 0
        return first - second > outstanding or lead_probability(first, second) >= confidence


async def tally(candidates: Sequence[Candidate]) -> Tally:
    """Counts the votes of the complete candidates; one without an answer does not vote. Of equal groups the first
    leads."""
    groups = await group([c.text if c.complete else "" for c in candidates])
    votes = Counter(g for g in groups if g is not None)
    if not votes:
        return Tally(next((i for i, c in enumerate(candidates) if c.complete), 0), ())
    ranked = sorted(votes.items(), key=lambda kv: (-kv[1], kv[0]))
    return Tally(groups.index(ranked[0][0]), tuple(count for _, count in ranked))
