"""How strategies draw, as arithmetic: how many chains at first, and after each that ends how many should be under way.

`auto` goes by the functions of `ponder.strategies.stopping` and by votes alone: what it spares by the likelihood of
chains, and what verifiers read, is not here. So it is dearer here than it is on a model whose likelihood tells answers
apart.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache, partial
from typing import Any, Protocol

from ponder.compute.policy import Pace, Policy
from ponder.strategies.auto import Auto
from ponder.strategies.best_of_n import BestOfN
from ponder.strategies.direct import Direct
from ponder.strategies.majority_vote import MajorityVote
from ponder.strategies.stopping import Standing, abreast, stops
from ponder.strategies.voting import lead_probability


class Pattern(Protocol):
    """How one request draws its chains. It counts, so each request has its own."""

    @property
    def chains(self) -> int:
        """Chains at most."""
        ...

    @property
    def votes(self) -> bool:
        """It wants to know what chains answer."""
        ...

    def first(self) -> int:
        """Chains to begin with."""
        ...

    def ended(self, number: int, answer: int | None, took: float, ages: Sequence[float]) -> int:
        """How many chains should be under way now that chain `number`, from 0 in the order they began, has ended; 0
        where the request is answered. It `took` so many seconds since it was begun, and those under way have had as
        many as `ages` says, waiting included."""
        ...


class Fixed:
    """So many chains, all to their end: `direct`, best-of-N, a vote in full."""

    __slots__ = ("_ended", "chains")
    votes = False

    def __init__(self, chains: int = 1) -> None:
        self.chains = chains
        self._ended = 0

    def first(self) -> int:
        return self.chains

    def ended(self, number: int, answer: int | None, took: float, ages: Sequence[float]) -> int:
        self._ended += 1
        return self.chains - self._ended


class _Votes:
    """What has been answered so far."""

    __slots__ = ("counts", "ended", "took")

    def __init__(self) -> None:
        self.counts: dict[int, int] = {}
        self.ended = 0
        self.took = 0.0

    def add(self, answer: int | None, took: float) -> None:
        self.ended += 1
        self.took += took
        if answer is not None:
            self.counts[answer] = self.counts.get(answer, 0) + 1

    @property
    def leading(self) -> tuple[int, int]:
        """Votes for the leader and for the runner-up."""
        one, two = (*sorted(self.counts.values(), reverse=True)[:2], 0, 0)[:2]
        return one, two


class Voting:
    """`auto`: chains for as long as they are likely to change the answer."""

    __slots__ = ("_abreast", "_pace", "_policy", "_votes", "chains")
    votes = True

    def __init__(self, policy: Policy, pace: Pace, remembered: dict[tuple[int, int, int], int]) -> None:
        """`remembered`: how many chains should be under way, asked again and again; the same for all requests."""
        self._policy, self._pace, self._abreast = policy, pace, remembered
        self.chains = policy.chains
        self._votes = _Votes()

    def first(self) -> int:
        return min(self._pace.first, self.chains)

    def ended(self, number: int, answer: int | None, took: float, ages: Sequence[float]) -> int:
        votes, policy, pace = self._votes, self._policy, self._pace
        votes.add(answer, took)
        one, two = votes.leading
        usual = max(1e-9, votes.took / votes.ended)
        against = pace.doubt * sum(min(1.0, age / usual) for age in ages)
        if votes.ended >= self.chains or (not one and votes.ended >= policy.start):
            return 0
        if stops(Standing(one, two, votes.ended, self.chains, against, one), policy):
            return 0
        stands = one, two, votes.ended
        if stands not in self._abreast:
            self._abreast[stands] = abreast(Standing(one, two, votes.ended, self.chains, 0.0, one), policy, pace)
        return self._abreast[stands]


class Settling:
    """`majority_vote` side by side: it ends when the vote of those that were begun up to some point is settled."""

    __slots__ = ("_answers", "_begun", "_confidence", "_first", "_votes", "chains")
    votes = True

    def __init__(self, chains: int, first: int, confidence: float) -> None:
        self.chains, self._first, self._confidence = chains, min(first, chains), confidence
        self._votes = _Votes()
        self._answers: dict[int, int | None] = {}
        self._begun = self._first

    def first(self) -> int:
        return self._first

    def ended(self, number: int, answer: int | None, took: float, ages: Sequence[float]) -> int:
        votes = self._votes
        votes.add(answer, took)
        self._answers[number] = answer
        left = self.chains - votes.ended
        if not left or self._settled():
            return 0
        one, two = votes.leading
        wanted = next((n for n in range(1, left) if _decided(one + n, two, left - n, self._confidence)), left)
        self._begun = min(self.chains, max(self._begun, votes.ended + wanted))
        return wanted

    def _settled(self) -> bool:
        """As `strategies/voting.py` has it: those of the first to begin that are still written are counted against the
        leader, so that the shortest do not decide."""
        counts: dict[int, int] = {}
        writing = 0
        for taken in range(self._begun):
            if taken not in self._answers:
                writing += 1
            elif (answer := self._answers[taken]) is not None:
                counts[answer] = counts.get(answer, 0) + 1
            one, two = (*sorted(counts.values(), reverse=True)[:2], 0, 0)[:2]
            if one and _decided(one, two + writing, self.chains - taken - 1, self._confidence):
                return True
        return False


@cache
def _decided(first: int, second: int, outstanding: int, confidence: float) -> bool:
    return first - second > outstanding or lead_probability(first, second) >= confidence


def of(strategy: Any, policy: Policy, fed: int, *, judged: bool = False) -> Callable[[], Pattern]:
    """What makes the pattern of each request of a strategy of ours, whose budget feeds so many chains. `judged`: there
    is a verifier that tells more of answers than votes do, for which `auto` draws more. Raises `ValueError` for a
    strategy that draws otherwise."""
    match strategy:
        case Direct():
            return Fixed
        case BestOfN():
            return partial(Fixed, min(strategy.n, fed))
        case MajorityVote(mode="parallel"):
            first = strategy.first or (strategy.n + 1) // 2
            return partial(Settling, min(strategy.n, fed), first, strategy.confidence)
        case Auto():
            pace = policy.latency if strategy.prefer == "latency" else policy.tokens
            if strategy.confidence is not None:
                policy = replace(policy, lead=strategy.confidence, slope=0.0)
            elif judged:
                policy = replace(policy, lead=policy.judged_lead, slope=policy.judged_slope)
            if strategy.n is not None:
                policy = replace(policy, chains=max(policy.chains, strategy.n)).with_at_most(strategy.n)
            remembered: dict[tuple[int, int, int], int] = {}
            return partial(Voting, policy.with_at_most(fed), pace, remembered)
        case _:
            raise ValueError(
                "how it draws is not modelled; plan with direct, best_of_n, majority_vote (side by side) or auto, and "
                "with about as many chains"
            )


def most(strategy: Any, policy: Policy) -> int:
    """Chains that a strategy of ours may draw."""
    match strategy:
        case BestOfN() | MajorityVote():
            return strategy.n
        case Auto():
            return strategy.n or policy.chains
        case _:
            return 1
