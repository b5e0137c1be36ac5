"""When a vote may stop, and how many chains it should have under way: the decisions of `auto`, as plain functions."""

from __future__ import annotations

from dataclasses import dataclass

from ponder.compute.policy import Policy
from ponder.strategies.voting import lead_probability


@dataclass(frozen=True, slots=True)
class Standing:
    """How a vote stands: what has been seen of it, and what may come."""

    first: int
    """Votes for the leader."""
    second: int
    """Votes for the runner-up."""
    ended: int
    """Chains that have ended, those without an answer and those that were lost included."""
    writing: int
    """Chains that are still being written."""
    most: int
    """Chains that there may be in all."""

    @property
    def outstanding(self) -> int:
        """Chains that may still vote, begun or not."""
        return self.most - self.ended

    @property
    def safe(self) -> bool:
        """Nobody can catch up."""
        return self.first - self.second > self.outstanding

    def with_votes(self, more: int) -> Standing:
        """The same, had so many more chains ended, all with the leader's answer."""
        return Standing(self.first + more, self.second, self.ended + more, max(0, self.writing - more), self.most)


def stops(standing: Standing, policy: Policy) -> bool:
    """Whether a vote stops as it stands."""
    if not standing.first:
        return False
    if standing.safe:
        return True
    threshold = policy.lead - policy.slope * standing.ended / policy.chains
    return standing.first >= policy.start and lead_probability(standing.first, standing.second) >= threshold


def abreast(standing: Standing, policy: Policy) -> int:
    """How many chains should be under way: as many as the leader needs votes at least, and some to spare."""
    needed = next((n for n in range(1, standing.outstanding) if stops(standing.with_votes(n), policy)), None)
    wanted = standing.outstanding if needed is None else int(policy.spare * needed)
    return max(1, min(policy.abreast, wanted, standing.outstanding))
