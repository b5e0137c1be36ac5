"""Choosing among finished chains: what the voting and the judged strategies share.

The Beta rule is Adaptive-Consistency's (Aggarwal et al. 2023, "Let's Sample Step by Step"): with a uniform prior and
only the two leading answers in the race, a leader with `a` votes against `b` stays ahead with probability
1 - I(1/2; a+1, b+1).
"""

from __future__ import annotations

from collections.abc import Sequence
from math import comb

from compute.run import Run, Vote
from compute.text import Candidate, Score


def lead_probability(leader: int, runner_up: int) -> float:
    """Probability that the answer with `leader` votes is really the more frequent of the two, in [0, 1]."""
    n = leader + runner_up + 1
    return sum(comb(n, k) for k in range(runner_up + 1, n + 1)) / 2**n


def settled(vote: Vote, outstanding: int, confidence: float) -> bool:
    """Nobody can catch up with `outstanding` more votes, or the leader is ahead with this confidence."""
    return bool(vote.counts) and votes_to_settle(vote, outstanding, confidence) == 0


def votes_to_settle(vote: Vote | None, outstanding: int, confidence: float) -> int:
    """How many of the `outstanding` votes it takes at least, all of them for the leader."""
    first, second = (*(vote.counts if vote else ()), 0, 0)[:2]
    for more in range(outstanding):
        ahead = first + more
        if ahead - second > outstanding - more or lead_probability(ahead, second) >= confidence:
            return more
    return outstanding


async def elect(run: Run, candidates: Sequence[Candidate], scores: Sequence[Score]) -> Candidate:
    """The leader of the weighted vote, offered. Where the verifier is exact, only the best scored vote: a program that
    fails some tests is no better for being written three times."""
    if not run.exact:
        return (await run.vote(candidates, scores)).leader
    highest = max(score.value for score in scores)
    return (await run.vote([c for c, score in zip(candidates, scores, strict=True) if score.value == highest])).leader
