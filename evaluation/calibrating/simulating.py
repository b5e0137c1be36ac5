"""The vote of `auto` over recorded samples as arithmetic: the decisions of `strategies/stopping.py` and no request.

What it comes to is what a replay of the strategy comes to where no budget binds and no verifier discerns, a hundred
times sooner; so many numbers can be tried. `ponder replay` then shows what one of them is worth.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

from ponder.compute.policy import Pace, Policy
from ponder.engines.samples import Question, Sample
from ponder.strategies.stopping import Standing, abreast, stops


@dataclass(frozen=True, slots=True)
class Voted:
    """What a vote came to, and what it cost."""

    answer: int | None
    tokens: int
    """Of all chains that were begun, as far as they were written."""
    steps: int
    """Until it ended, in decode steps."""
    chains: int
    """That have ended."""


class Simulator:
    """Votes by one policy. It remembers how many chains should be under way, which is asked again and again."""

    def __init__(self, policy: Policy, pace: Pace) -> None:
        self._policy, self._pace = policy, pace
        self._abreast: dict[tuple[int, int, int], int] = {}

    def vote(self, samples: Sequence[Sample]) -> Voted:
        """Over samples in the order in which chains begin, of which there are as many at least as the policy draws."""
        policy, pace = self._policy, self._pace
        writing: list[tuple[int, int, int]] = []
        votes: dict[int, list[int]] = {}
        clock = begun = ended = took = spent = 0
        wanted = pace.first
        while ended < policy.chains:
            while begun < policy.chains and len(writing) < wanted:
                heapq.heappush(writing, (clock + samples[begun].tokens, begun, clock))
                begun += 1
            clock, number, _ = heapq.heappop(writing)
            ended, took, spent = ended + 1, took + samples[number].tokens, spent + samples[number].tokens
            answer = samples[number].answer
            if answer is not None:
                count, tokens, first = votes.get(answer, [0, 0, number])
                votes[answer] = [count + 1, tokens + samples[number].tokens, min(first, number)]
            usual = took / ended
            against = pace.doubt * sum(min(1.0, (clock - since) / usual) for *_, since in writing)
            one, two = (*sorted((count for count, *_ in votes.values()), reverse=True)[:2], 0, 0)[:2]
            standing = Standing(one, two, ended, policy.chains, against, one)
            if stops(standing, policy) or (not one and ended >= policy.start):
                break
            if (one, two, ended) not in self._abreast:
                self._abreast[one, two, ended] = abreast(replace(standing, against=0.0), policy, pace)
            wanted = self._abreast[one, two, ended]
        # Of equals the answer whose chains are shorter leads, then the one seen first.
        leader = min(votes, key=lambda a: (-votes[a][0], votes[a][1], votes[a][2]), default=None)
        return Voted(leader, spent + sum(clock - since for *_, since in writing), clock, ended)


def orders(questions: Sequence[Question], draws: int, most: int, seed: int = 0) -> list[list[list[Sample]]]:
    """For each question its samples in as many orders as there are draws, as a replay draws them: `most` of each, each
    sample once before any comes again."""
    found: list[list[list[Sample]]] = []
    for q, question in enumerate(questions):
        drawn: list[list[Sample]] = []
        for draw in range(draws):
            order = list(range(len(question.samples)))
            random.Random(f"{seed}.{q}.{draw}").shuffle(order)  # noqa: S311 (no secret)
            drawn.append([question.samples[order[i % len(order)]] for i in range(most)])
        found.append(drawn)
    return found
