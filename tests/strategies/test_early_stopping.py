"""A vote that stops early comes to what the full vote comes to, whichever chains finish first."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Set
from dataclasses import dataclass

import pytest

from ponder.compute.budget import Budget, Spending
from ponder.compute.engine import Delta, Sampling
from ponder.compute.execute import execute
from ponder.compute.lengths import Lengths
from ponder.compute.outcome import Outcome
from ponder.compute.plan import Plan
from ponder.compute.resources import Resources
from ponder.compute.run import Selection
from ponder.compute.vote import Vote
from ponder.engines.replay import ReplayEngine
from ponder.engines.samples import Question, Sample
from ponder.strategies.auto import Auto
from ponder.strategies.majority_vote import MajorityVote
from ponder.strategies.voting import fair_sample
from ponder.testing.virtual_time import VirtualTimeLoop
from tests.verifiers.hand import candidate

RIGHT, WRONG = 0, 1
QUESTIONS = 60
LENGTHS = {"short chains are wrong": (6_000, 1_000), "short chains are right": (1_000, 6_000), "either": (3_000, 3_000)}
"""Median tokens of right chains and of wrong ones."""


def pool(right: int, wrong: int, share: float = 0.7) -> list[Question]:
    """Questions answered rightly by this share of the chains, and otherwise all in the same wrong way."""
    chance = random.Random(7)

    def sample() -> Sample:
        answer = RIGHT if chance.random() < share else WRONG
        return Sample(answer, round((right, wrong)[answer] * chance.lognormvariate(0, 0.3)))

    return [Question(str(i), frozenset({RIGHT}), tuple(sample() for _ in range(64))) for i in range(QUESTIONS)]


@dataclass(frozen=True)
class Voted:
    """One request."""

    right: bool
    tokens: int
    steps: float
    out: Outcome


async def deaf(_: Delta) -> None:
    return


def voted(questions: list[Question], strategy: MajorityVote | Auto, seed: int | None = None) -> list[Voted]:
    """Each question once."""
    engine = ReplayEngine(questions, typical_chain=(3_000, 7_000), answer_tokens=100)
    lengths = Lengths(*engine.card.typical_chain)
    votes: list[Voted] = []

    async def ask(question: int) -> None:
        plan = Plan(
            prompt=engine.ask(question, 0),
            strategy=Selection("it", strategy),
            budget=Budget(1_000_000, 1_000),
            sampling=Sampling(0, 0, seed=seed),
        )
        begun = asyncio.get_running_loop().time()
        spending = Spending(plan.budget)
        out = await execute(plan, Resources(engine, lengths), spending, deaf)
        right = engine.right(plan.prompt, out.answer.text)
        votes.append(Voted(right, out.spent.generated, asyncio.get_running_loop().time() - begun, out))
        assert engine.running == 0
        assert spending.held == 0

    async def all_of_them() -> None:
        for question in range(len(questions)):
            await ask(question)

    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        runner.run(all_of_them())
    assert sum(vote.tokens for vote in votes) == engine.produced
    return votes


FULL = MajorityVote(n=16, first=16, confidence=1)
"""Stops when no vote outstanding could change anything."""


def wrong(votes: list[Voted]) -> int:
    return sum(not vote.right for vote in votes)


def tokens(votes: list[Voted]) -> int:
    return sum(vote.tokens for vote in votes)


@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize("seed", [None, 5])
@pytest.mark.parametrize("first", [None, 4, 16])
def test_a_vote_that_stops_early_is_right_where_the_full_vote_is(
    first: int | None, seed: int | None, lengths: str
) -> None:
    """Trusting the first to finish, 56 of 60 were wrong where short chains are (20, begun with eight), and 1 in full.
    A rule that is right with a confidence of 0.9 is wrong now and then."""
    questions = pool(*LENGTHS[lengths])
    full, stopped = voted(questions, FULL, seed), voted(questions, MajorityVote(n=16, first=first), seed)
    assert wrong(stopped) <= wrong(full) + 3
    if lengths == "either":
        assert tokens(stopped) < {None: 0.8, 4: 0.65, 16: 1.0}[first] * tokens(full)


@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize("seed", [None, 5])
@pytest.mark.parametrize("prefer", ["tokens", "latency"])
def test_auto_is_right_where_the_full_vote_is(prefer: str, seed: int | None, lengths: str) -> None:
    """Were slow chains not counted against the leader, 27 of 60 would be wrong where short ones are and latency is
    preferred."""
    questions = pool(*LENGTHS[lengths])
    auto = voted(questions, Auto(n=16, prefer=prefer), seed)  # pyright: ignore[reportArgumentType]
    full = voted(questions, FULL, seed)
    assert wrong(auto) <= wrong(full) + 9


def test_rounds_are_waited_for_so_that_lengths_change_no_answer() -> None:
    strategy = MajorityVote(n=16, mode="rounds")
    answers = [[v.out.answer.text for v in voted(pool(*medians), strategy)] for medians in LENGTHS.values()]
    assert answers[0] == answers[1] == answers[2]


def test_chains_still_being_written_are_counted_against_the_leader() -> None:
    def fair(
        votes: dict[int, int | None], begun: int, n: int = 16, confidence: float = 0.9, lost: Set[int] = frozenset()
    ) -> int:
        """`votes`: number of the chain -> answer, of those that have finished."""
        counts = tuple(sorted(Counter(a for a in votes.values() if a is not None).values(), reverse=True))
        vote = Vote(candidate(), counts, (), len(votes), tuple(votes.values()))
        finished = [candidate(number=number) for number in votes]
        return fair_sample(vote, finished, range(begun), n - begun, confidence, lost)

    assert fair({0: 0, 1: 0, 2: 0}, begun=16) == 3
    assert fair({5: 0, 6: 0, 7: 0}, begun=16) == 0  # five begun before them are being written
    assert fair({0: 0, 2: 0, 3: 0, 4: 0, 5: 0, 6: 0}, begun=16) == 8  # two are, and may be of another mind
    assert fair({0: 0, 2: 0, 3: 0, 4: 0}, begun=16) == 0
    assert fair({0: 0, 1: None, 2: 0, 3: 0}, begun=16) == 4
    assert fair(dict.fromkeys(range(8, 16), 0), begun=16, confidence=1) == 0
    assert fair(dict.fromkeys(range(7, 16), 0), begun=16, confidence=1) == 16  # nobody can catch up
    assert fair({0: 0, 1: 0, 2: 0, 3: 1, 4: 1}, begun=5) == 3
    assert fair({5: 0, 6: 0, 7: 0}, begun=16, lost=set(range(5))) == 8  # nothing is to come of those before them
    assert fair({0: 0, 2: 0, 3: 0, 4: 0}, begun=16, lost={1}) == 5
