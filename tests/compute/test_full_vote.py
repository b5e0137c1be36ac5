"""How likely an answer is to win the vote in full: exact over all ways votes may fall, and true as often as it says."""

from __future__ import annotations

import asyncio
import os
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from functools import cache
from itertools import product
from math import exp
from pathlib import Path

import pytest

from bench.reliability import calibration_error
from ponder.compute.budget import Budget, Spending
from ponder.compute.engine import Delta, Sampling
from ponder.compute.execute import execute
from ponder.compute.full_vote import AHEAD, Ballots, Urn, confidence, would_win
from ponder.compute.lengths import Lengths
from ponder.compute.outcome import Outcome
from ponder.compute.plan import Plan
from ponder.compute.policy import BUILT_IN, Policy
from ponder.compute.resources import Resources
from ponder.compute.run import Run, Selection, Verifier
from ponder.compute.text import Candidate, Hidden, Message, Prompt, Score
from ponder.engines.samples import Question, read
from ponder.evaluation.calibrating.scatter import learn
from ponder.testing import Chain, ScriptedEngine, always

URNS = (Urn(0.5, 0.0, 0.7), Urn(0.3, 0.6, -0.4), Urn(0.2, 0.6, 3.0))


def by_hand(counts: tuple[int, ...], left: int, urn: Urn, place: int) -> float:
    """The same by one urn: over all orders in which votes may come."""

    @cache
    def won(counts: tuple[int, ...], left: int) -> float:
        if not left:
            best = max(counts)
            return float(counts[place] == best and best not in counts[:place])
        n = sum(counts) + urn.strength
        again = sum(
            (c - urn.discount) / n * won((*counts[:i], c + 1, *counts[i + 1 :]), left - 1) for i, c in enumerate(counts)
        )
        return again + (urn.strength + urn.discount * len(counts)) / n * won((*counts, 1), left - 1)

    return won(counts, left)


@pytest.mark.parametrize("counts", [(1,), (2, 1), (1, 1, 1), (3, 2), (2, 3, 1), (1, 2)])
@pytest.mark.parametrize("left", [0, 1, 2, 5])
def test_it_is_the_chance_over_all_votes_that_may_come(counts: tuple[int, ...], left: int) -> None:
    for place in range(len(counts)):
        for urn in URNS:
            assert would_win(counts, left, (urn,), place) == pytest.approx(by_hand(counts, left, urn, place))
        shares = [urn.weight * exp(urn.evidence(counts)) for urn in URNS]
        mean = sum(s * by_hand(counts, left, urn, place) for s, urn in zip(shares, URNS, strict=True)) / sum(shares)
        assert would_win(counts, left, URNS, place) == pytest.approx(mean)


def test_urns_explain_all_votes_that_there_may_be() -> None:
    """The evidence is that of an order in which the votes came: over all orders and answers it adds up to one."""
    for urn in URNS:
        whole = 0.0
        for order in product(range(4), repeat=4):
            if all(one <= len(set(order[:i])) for i, one in enumerate(order)):
                whole += exp(urn.evidence(tuple(Counter(order).values())))
        assert whole == pytest.approx(1)


def test_it_is_certain_where_nobody_can_catch_up_and_no_more_than_that() -> None:
    urns = BUILT_IN.urns
    assert would_win((9, 3), 5, urns) == pytest.approx(1)
    assert would_win((9, 3), 5, urns, 1) == pytest.approx(0)
    assert would_win((3, 3), 0, urns) == pytest.approx(1)
    assert would_win((3, 3), 0, urns, 1) == pytest.approx(0)
    chances = [would_win(votes, 32 - sum(votes), urns) for votes in ((4,), (3,), (3, 1), (2, 1), (1, 1), (1, 1, 1, 1))]
    assert chances == sorted(chances, reverse=True)
    assert 0 < chances[-1] < 0.5 < 0.95 < chances[0] < 1
    # Far ahead nothing changes any more, and nothing is worked out.
    assert would_win((5, 4), 10_000, urns) == would_win((5, 4), AHEAD, urns)


def test_chains_without_an_answer_leave_fewer_votes_to_come() -> None:
    votes = Ballots((3, 2), {0: 0, 1: 0, 2: 0, 3: 1, 4: 1})
    silent = Ballots(votes.counts, {**votes.places, **dict.fromkeys(range(5, 15))})
    assert (confidence(votes, {0}, 24, BUILT_IN.urns) or 0) < (confidence(silent, {0}, 24, BUILT_IN.urns) or 0) < 1
    assert confidence(silent, {5}, 24, BUILT_IN.urns) is None
    assert confidence(votes, {99}, 24, BUILT_IN.urns) is None
    first, second = (confidence(votes, {n}, 24, BUILT_IN.urns) or 0 for n in (1, 3))
    assert second < 0.5 < first < first + second <= 1


@pytest.mark.parametrize("wrong", [(0, 0.5, 1), (0.5, 1, 1), (0.5, -0.1, 1), (0.5, 0.5, -0.5), (1.5, 0, 1)])
def test_an_urn_that_cannot_be_is_refused(wrong: tuple[float, float, float]) -> None:
    with pytest.raises(ValueError, match="validation error"):
        Urn(*wrong)


# -- which answers have one -------------------------------------------------------------------------------------------


class _Scored:
    def __init__(self, exact: bool) -> None:
        self.exact = exact

    async def __call__(self, run: Run, candidates: Sequence[Candidate]) -> list[Score]:
        return [Score(1.0) for _ in candidates]


def asked(
    strategy: Callable[[Run], Awaitable[Candidate]],
    *answers: str,
    policy: Policy = BUILT_IN,
    verifier: Verifier | None = None,
    thinking: int = 4000,
) -> Outcome:
    class Given:
        async def __call__(self, run: Run) -> Candidate:
            return await strategy(run)

    async def deaf(_: Delta) -> None:
        return

    engine = ScriptedEngine(always(*[Chain("so " * 5, answer) for answer in answers]))
    judge = Selection("judge", verifier) if verifier else None
    prompt = Prompt((Message("user", "How many?"),))
    plan = Plan(prompt, Selection("given", Given()), Budget(thinking, 40), Sampling(0, 0), judge)
    resources = Resources(engine, Lengths(20, 40), policy=policy)
    return asyncio.run(execute(plan, resources, Spending(plan.budget), deaf))


async def voted(run: Run) -> Candidate:
    return (await run.vote(await run.sample(4))).leader


async def judged(run: Run) -> Candidate:
    candidates = await run.sample(4)
    return (await run.vote(candidates, await run.score(candidates))).leader


async def the_last(run: Run) -> Candidate:
    candidates = await run.sample(4)
    await run.vote(candidates)
    return candidates[-1]


async def alone(run: Run) -> Candidate:
    return await run.stream()


async def one_voice(run: Run) -> Candidate:
    return (await run.vote(await run.sample(1))).leader


async def grown(run: Run) -> Candidate:
    begun = await run.extend([run.blank], 2, until=3)
    return (await run.vote(await run.extend(begun, 2))).leader


async def rewritten(run: Run) -> Candidate:
    drafts = await run.sample(2)
    prompt = run.prompt.then(Message("assistant", "7", thought=Hidden("")), Message("user", "Again."))
    return (await run.vote([*drafts, *await run.sample(2, prompt)])).leader


SAID = ("It is 7.", "It is 7.", "It is 7.", "It is 9.")
LEARNED = Policy(model="mine")


def test_the_answer_of_a_vote_has_a_confidence() -> None:
    out = asked(voted, *SAID)
    assert out.agreement == 0.75
    assert out.confidence == round(would_win((3, 1), 28, BUILT_IN.urns), 4)
    other = asked(the_last, *SAID)
    assert other.answer.text == "It is 9."
    assert other.confidence == round(would_win((3, 1), 28, BUILT_IN.urns, 1), 4)
    assert asked(judged, *SAID, verifier=_Scored(exact=False)).confidence == out.confidence


def test_where_there_was_no_such_vote_there_is_none() -> None:
    assert asked(voted, "Well, that depends.", "It is hard to say.").confidence is None
    assert asked(grown, *SAID).confidence is None
    assert asked(rewritten, *SAID).confidence is None
    assert asked(judged, *SAID, verifier=_Scored(exact=True)).confidence is None


def test_of_one_chain_alone_it_is_known_what_was_learned_of_its_model() -> None:
    for strategy in (alone, one_voice):
        assert asked(strategy, *SAID).confidence is None
        known = asked(strategy, *SAID, policy=LEARNED).confidence
        assert known == round(would_win((1,), 31, LEARNED.urns), 4)
    assert asked(alone, "Well, that depends.", policy=LEARNED).confidence is None
    # A chain closed by force answers otherwise than those that were learned from.
    assert asked(alone, *SAID, policy=LEARNED, thinking=3).confidence is None


# -- it is true as often as it says -----------------------------------------------------------------------------------


def resampled(question: Question, urns: tuple[Urn, ...], chance: random.Random) -> list[tuple[float, bool]]:
    """One order of a question's samples, stopped at several places."""
    full = min(32, len(question.samples))
    drawn = [sample.answer for sample in chance.sample(question.samples, full)]

    def ranked(votes: list[int | None]) -> list[tuple[int, int]]:
        return Counter(vote for vote in votes if vote is not None).most_common()

    told: list[tuple[float, bool]] = []
    for ended in (2, 3, 4, 6, 8, 12, 16, 24):
        if ended < full and (vote := ranked(drawn[:ended])):
            left = round((full - ended) * (sum(c for _, c in vote) + 1) / (ended + 1))
            sure = would_win(tuple(c for _, c in vote), left, urns)
            told.append((sure, ranked(drawn)[0][0] == vote[0][0]))
    return told


@pytest.mark.skipif("TEST_POOLS" not in os.environ, reason="TEST_POOLS is no folder of recorded samples")
def test_over_pools_it_was_not_learned_from_it_is_calibrated() -> None:
    files = sorted(Path(os.environ["TEST_POOLS"]).glob("*.jsonl"))
    pools = [random.Random(1).sample(found, min(30, len(found))) for found in asyncio.run(_all(files))]
    chance = random.Random(2)
    told: list[tuple[float, bool]] = []
    for i, pool in enumerate(pools):
        urns = learn(pools[:i] + pools[i + 1 :])
        told += [one for question in pool for _ in range(4) for one in resampled(question, urns, chance)]
    assert len(told) > 5000
    assert calibration_error(told) <= 0.05
    # So it is with the numbers that are built in.
    built_in = [one for pool in pools for question in pool for one in resampled(question, BUILT_IN.urns, chance)]
    assert calibration_error(built_in) <= 0.05


async def _all(files: list[Path]) -> list[list[Question]]:
    return [await read(file.read_text()) for file in files]
