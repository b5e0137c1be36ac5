"""Votes weighted by confidence, counted in flight (DeepConf, Fu et al. 2025, "Deep Think with Confidence").

Each chain is scored as soon as it is there, and votes with its score: by default the model's own likelihood of it. The
race ends when nobody can catch up in weight. DeepConf also cuts chains below a threshold that it learns from the first
ones; here none is cut, and what a doubtful chain says weighs the less.

How sure a lead is depends on how many chains it stands on, not on how heavy they are. So weights are turned into votes
by Kish's effective sample size (1965, "Survey Sampling"), (sum w)^2 / sum w^2, and those go to the Beta rule. One heavy
chain counts as one.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Collection, Sequence, Set
from heapq import nlargest
from math import ceil, floor
from typing import Annotated, ClassVar

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from ponder.compute.run import Run
from ponder.compute.text import Candidate, Score
from ponder.compute.vote import Vote
from ponder.strategies.voting import lead_probability

HEAVIEST = 1.0
"""What a vote may weigh at most: scores are at most 1."""


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class ConfidenceVote:
    """Many chains; each vote weighs as much as its chain is sure. Stops when nobody can catch up in weight."""

    judged: ClassVar[bool] = True
    default_verifier: ClassVar[str] = "confidence"

    n: Annotated[int, Field(ge=1, le=256, description="Chains at most")] = 16
    first: Annotated[int | None, Field(ge=1, le=256, description="Chains to start with; left out: half of n")] = None
    confidence: Annotated[
        float,
        Field(ge=0.5, le=1, description="Stop when the leader is ahead with this probability; 1: when it is certain"),
    ] = 0.9

    async def __call__(self, run: Run) -> Candidate:
        judged: dict[int, tuple[Candidate, Score]] = {}
        weights: list[float] = []
        vote: Vote | None = None

        def at_once() -> int:
            if vote is None:
                return self.first or (self.n + 1) // 2
            left = self.n - len(judged) - len(arriving.lost)
            return chains_to_settle(weighed(vote.votes, weights), left, self.confidence)

        async def voted(numbers: Collection[int]) -> Vote:
            chains = [judged[number] for number in sorted(numbers)]
            return await run.vote([chain for chain, _ in chains], [score for _, score in chains])

        async with run.sampling(self.n, at_once=at_once) as arriving:
            async for candidate in arriving:
                (score,) = await run.score([candidate])
                judged[candidate.number] = candidate, score
                vote = await voted(judged)
                weights = [judged[number][1].value for number in sorted(judged)]
                votes = dict(zip(sorted(judged), zip(vote.votes, weights, strict=True), strict=True))
                outstanding = self.n - len(arriving.begun)
                fair = fair_sample(votes, arriving.begun, outstanding, self.confidence, arriving.lost)
                if fair:
                    return (await voted(judged.keys() & set(arriving.begun[:fair]))).leader
        return (await voted(judged)).leader


@dataclass(frozen=True)
class Weighed:
    """How the two leading answers stand."""

    first: float
    second: float
    squares: float
    """The squares of the single weights behind both, added up."""

    def with_more(self, *, first: float = 0.0, second: float = 0.0, chains: int = 0) -> Weighed:
        """With so many more chains, of this weight each, for the one answer or for the other."""
        squares = self.squares + chains * (first + second) ** 2
        return Weighed(self.first + chains * first, self.second + chains * second, squares)

    def decided(self, outstanding: int, confidence: float) -> bool:
        """Nobody can catch up with so many more chains, or the leader is ahead with this confidence."""
        if self.first - self.second > outstanding * HEAVIEST:
            return True
        whole = self.first + self.second
        if not self.squares or self.first <= self.second:
            return False
        votes = whole * whole / self.squares
        leader, runner_up = floor(votes * self.first / whole + 1e-9), ceil(votes * self.second / whole - 1e-9)
        return lead_probability(leader, runner_up) >= confidence


class Tally:
    """The weights behind each answer, added up chain by chain."""

    def __init__(self) -> None:
        self._totals: defaultdict[int, float] = defaultdict(float)
        self._squares: defaultdict[int, float] = defaultdict(float)

    def add(self, answer: int | None, weight: float) -> None:
        """A chain has given this answer; None: none that can be compared."""
        if answer is not None:
            self._totals[answer] += weight
            self._squares[answer] += weight * weight

    @property
    def standing(self) -> Weighed:
        """Of the two heaviest answers."""
        both = nlargest(2, self._totals, key=self._totals.__getitem__)
        first, second = (*(self._totals[answer] for answer in both), 0.0, 0.0)[:2]
        return Weighed(first, second, sum(self._squares[answer] for answer in both))


def weighed(votes: Sequence[int | None], weights: Sequence[float]) -> Weighed:
    """The standing of the two heaviest answers; `votes` has the answer of each chain, None where it has none."""
    tally = Tally()
    for answer, weight in zip(votes, weights, strict=True):
        tally.add(answer, weight)
    return tally.standing


def fair_sample(
    votes: dict[int, tuple[int | None, float]],
    begun: Sequence[int],
    outstanding: int,
    confidence: float,
    lost: Set[int] = frozenset(),
) -> int:
    """How many of the chains, in the order they were begun, settle the vote, with `outstanding` not begun yet; 0 when
    it is not settled. `votes` has for each that has finished its answer and its weight.

    As in a vote that counts: those that are still being written stand against the leader, each as heavy as the heaviest
    that was seen. Those that were `lost` have no vote.
    """
    heaviest = max((weight for _, weight in votes.values()), default=0.0)
    tally = Tally()
    writing = found = 0
    for taken, number in enumerate(begun, 1):
        if number in votes:
            tally.add(*votes[number])
        elif number not in lost:
            writing += 1
        standing = tally.standing
        against = standing.with_more(second=heaviest, chains=writing)
        if standing.first and against.decided(len(begun) - taken + outstanding, confidence):
            found = taken
    return found


def chains_to_settle(standing: Weighed, outstanding: int, confidence: float) -> int:
    """How many of the `outstanding` chains it takes at least, all of them for the leader and as heavy as those so far;
    at least one."""
    weight = standing.squares / (standing.first + standing.second) if standing.squares else HEAVIEST
    short = range(1, outstanding)

    def settles(chains: int) -> bool:
        return standing.with_more(first=weight, chains=chains).decided(outstanding - chains, confidence)

    return 1 + bisect_left(short, True, key=settles)
