"""When a vote may stop, and how many chains it should have under way: the decisions of `auto`, as plain functions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from ponder.compute.policy import Pace, Policy
from ponder.compute.vote import Vote
from ponder.strategies.voting import lead_probability


@dataclass(frozen=True, slots=True)
class Standing:
    """How a vote stands: what has been seen of it, and what may come."""

    first: float
    """Votes for the leader. They count by their weight, with a mean of 1."""
    second: float
    """Votes for the runner-up."""
    ended: int
    """Chains that have ended, those without an answer and those that were lost included."""
    most: int
    """Chains that there may be in all."""
    against: float = 0.0
    """Votes that chains which are slow to end are counted for against the leader."""
    chains: float | None = None
    """Chains that have voted for the leader; None: as many as votes."""

    @staticmethod
    def of(vote: Vote, ended: int, most: int, against: float = 0.0) -> Standing:
        if not vote.counts:
            return Standing(0, 0, ended, most, against)
        mean = sum(vote.weights) / sum(vote.counts)
        first, second = (*(weight / mean for weight in vote.weights), 0.0)[:2]
        return Standing(first, second, ended, most, against, vote.counts[0])

    @property
    def voters(self) -> float:
        """Chains that have voted for the leader."""
        return self.first if self.chains is None else self.chains

    @property
    def outstanding(self) -> int:
        """Chains that may still vote, begun or not."""
        return self.most - self.ended

    @property
    def safe(self) -> bool:
        """Nobody can catch up."""
        return self.first - self.second > self.outstanding

    @property
    def lead(self) -> float:
        """The probability that the leader would win a fair toss against the runner-up, in [0, 1]; between whole votes,
        on the straight line."""
        second = self.second + self.against
        return _between(lambda a: _between(lambda b: lead_probability(a, b), second), self.first)

    def with_votes(self, more: int) -> Standing:
        """The same, had so many more chains ended, all with the leader's answer."""
        votes = {"first": self.first + more, "chains": self.voters + more}
        return replace(self, **votes, ended=self.ended + more, against=0.0)

    def foretold(self, votes: Sequence[float], pace: Pace) -> Standing:
        """The same, where half-written chains are likely to give so many votes more: to the leader, the runner-up,
        the others. A chain whose vote is foretold does not count against the leader because it is slow to end."""
        first, second = (*votes, 0.0, 0.0)[:2]
        return replace(
            self,
            first=self.first + first,
            second=self.second + second,
            chains=self.voters + first,
            against=max(0.0, self.against - pace.doubt * sum(votes)),
        )


def _between(f: Callable[[int], float], x: float) -> float:
    """A function of whole numbers at a place between them, on the straight line."""
    below = int(x)
    low = f(below)
    return low if x == below else low + (f(below + 1) - low) * (x - below)


def stops(standing: Standing, policy: Policy) -> bool:
    """Whether a vote stops as it stands: nobody can catch up, or the leader is ahead as the policy says."""
    if not standing.first or standing.safe:
        return standing.first > 0
    enough = policy.lead - policy.slope * standing.ended / standing.most
    return standing.voters >= policy.start and standing.lead >= enough


def wanting(standing: Standing, policy: Policy) -> int:
    """How many more votes the leader needs at least."""
    more = range(1, standing.outstanding)
    return next((n for n in more if stops(standing.with_votes(n), policy)), standing.outstanding)


def abreast(standing: Standing, policy: Policy, pace: Pace) -> int:
    """How many chains should be under way: as many as the leader needs votes at least, and some to spare."""
    return max(1, min(pace.abreast, int(pace.spare * wanting(standing, policy)), standing.outstanding))
