"""Choosing among finished chains: what the voting and the judged strategies share.

The Beta rule is Adaptive-Consistency's (Aggarwal et al. 2023, "Let's Sample Step by Step"): with a uniform prior and
only the two leading answers in the race, a leader with `a` votes against `b` stays ahead with probability
1 - I(1/2; a+1, b+1).
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence, Set
from math import comb

from ponder.compute.run import Run
from ponder.compute.text import Candidate, Score
from ponder.compute.vote import Vote


def lead_probability(leader: int, runner_up: int) -> float:
    """Probability that the answer with `leader` votes is really the more frequent of the two, in [0, 1]."""
    n = leader + runner_up + 1
    return sum(comb(n, k) for k in range(runner_up + 1, n + 1)) / 2**n


async def drawn(run: Run, n: int) -> tuple[list[Candidate], int]:
    """Up to `n` more chains, ordered by number, and how many were begun for them: those that were lost included, and
    none where there is but one chain, which is known. Raises what `Run.sample` does."""
    async with run.sampling(n) as arriving:
        found = sorted([candidate async for candidate in arriving], key=lambda candidate: candidate.number)
    return found, len(arriving.begun)


def fair_sample(
    vote: Vote,
    finished: Sequence[Candidate],
    begun: Sequence[int],
    outstanding: int,
    confidence: float,
    lost: Set[int] = frozenset(),
) -> int:
    """How many of the chains, in the order they were begun, settle the vote over those `finished`, with `outstanding`
    not begun yet; 0 when it is not settled.

    The first to finish are the shortest, and short chains may be right less often than others, or more often. A fair
    sample is all that were begun up to some point, whatever came of them: those of them that are still being written
    are counted against the leader. Those that were `lost` have no vote, and will have none.
    """
    votes = {candidate.number: answer for candidate, answer in zip(finished, vote.votes, strict=True)}
    counts: Counter[int] = Counter()
    writing = found = 0
    for taken, number in enumerate(begun, 1):
        answer = votes.get(number)
        writing += number not in votes and number not in lost
        if answer is not None:
            counts[answer] += 1
        (_, first), (_, second) = (*counts.most_common(2), (0, 0), (0, 0))[:2]
        if first and _decided(first, second + writing, len(begun) - taken + outstanding, confidence):
            found = taken
    return found


def settled(vote: Vote, outstanding: int, confidence: float) -> bool:
    """Nobody can catch up with `outstanding` more votes, or the leader is ahead with this confidence, where all that
    were begun have voted."""
    return bool(vote.counts) and _decided(*_leading(vote), outstanding, confidence)


def votes_to_settle(vote: Vote, outstanding: int, confidence: float) -> int:
    """How many of the `outstanding` votes it takes at least, all of them for the leader; at least one."""
    first, second = _leading(vote)
    short = range(1, outstanding)
    return 1 + bisect_left(short, True, key=lambda n: _decided(first + n, second, outstanding - n, confidence))


def _leading(vote: Vote) -> tuple[int, int]:
    """The votes for the leader and for the runner-up."""
    first, second = (*vote.counts, 0, 0)[:2]
    return first, second


def _decided(first: int, second: int, outstanding: int, confidence: float) -> bool:
    return first - second > outstanding or lead_probability(first, second) >= confidence


async def elect(run: Run, candidates: Sequence[Candidate], scores: Sequence[Score]) -> Candidate:
    """The leader of the weighted vote, offered. Where the verifier is exact, only the best scored vote: a program that
    fails some tests is no better for being written three times."""
    if not run.exact:
        return (await run.vote(candidates, scores)).leader
    highest = max(score.value for score in scores)
    return (await run.vote([c for c, score in zip(candidates, scores, strict=True) if score.value == highest])).leader
