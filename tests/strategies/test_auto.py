"""What `auto` draws and whom it believes, on scripts and pools where that is known."""

from __future__ import annotations

import asyncio
from typing import Literal

import pytest

from ponder.compute.budget import Budget, Spending
from ponder.compute.engine import Sampling
from ponder.compute.execute import execute
from ponder.compute.lengths import Lengths
from ponder.compute.outcome import Outcome
from ponder.compute.plan import Plan
from ponder.compute.policy import BUILT_IN
from ponder.compute.resources import Resources
from ponder.compute.run import Selection
from ponder.engines.replay import ReplayEngine
from ponder.engines.samples import Question, Sample
from ponder.strategies.auto import Auto
from ponder.strategies.majority_vote import MajorityVote
from ponder.strategies.stopping import Standing, abreast, stops
from ponder.testing import Chain, ScriptedEngine, VirtualTimeLoop, always
from ponder.verifiers.agreement import Agreement
from tests.strategies.test_choices import Likes, Runs, deaf, outcome, says


def test_auto_stops_when_its_first_chains_agree() -> None:
    engine = ScriptedEngine(says("7"))
    out = outcome(Auto(evidence="votes"), engine)
    assert (engine.calls, out.samples, out.samples_requested, out.agreement) == (3, 3, 32, 1.0)


LIKES_NINE = Likes({"9": 1.0, "7": 0.1})


def test_auto_asks_the_verifier_when_three_stand_against_one() -> None:
    engine = ScriptedEngine(says("7", "9", "7", "7"))
    out = outcome(Auto(), engine, verifier=LIKES_NINE)
    assert "9" in out.answer.text
    assert engine.calls == 4


def test_auto_votes_on_at_three_to_one_where_the_verifier_is_for_neither() -> None:
    out = outcome(Auto(), ScriptedEngine(says("7", "9", *["7"] * 30)), verifier=Likes({"9": 0.6, "7": 0.3}))
    assert "7" in out.answer.text
    assert out.samples > 4


@pytest.mark.parametrize("answers", [("7", "9", "7", ""), ("7", "9", "", "")], ids=["2-1", "1-1"])
def test_auto_votes_on_where_fewer_stand_against_one_as_a_chain_came_to_no_answer(answers: tuple[str, ...]) -> None:
    engine = ScriptedEngine(says(*answers, *["7"] * 28))
    out = outcome(Auto(), engine, verifier=Likes({"9": 0.5, "7": 0.2}))
    assert out.samples > 4
    assert "7" in out.answer.text, "the verifier chose among four chains"


def test_auto_votes_on_at_three_to_one_where_the_verifier_only_counts() -> None:
    engine = ScriptedEngine(says("7", "9", "7", "7", "7", "7", "7", "7"))
    out = outcome(Auto(), engine, verifier=Agreement())
    assert "7" in out.answer.text
    assert out.samples > 4
    assert out.score is None


def test_auto_does_not_take_one_voice_among_the_silent_for_agreement() -> None:
    engine = ScriptedEngine(always(*[Chain(f"{i}\n", "Hm" if i % 4 else "The answer is 7.") for i in range(16)]))
    outcome(Auto(), engine)
    assert engine.calls > 4


def test_auto_votes_on_when_its_first_chains_are_split() -> None:
    engine = ScriptedEngine(says("7", "9", "7", "9", "7", "7", "7", "7"))
    out = outcome(Auto(), engine)
    assert "7" in out.answer.text
    assert engine.calls > 4


def test_auto_takes_a_tie_that_persists_to_the_last_to_the_verifier() -> None:
    for n in (4, 8, 16):
        out = outcome(Auto(n=n), ScriptedEngine(says("7", "9")), verifier=LIKES_NINE)
        assert "9" in out.answer.text
        assert out.samples == n


def test_auto_thinks_once_where_the_budget_feeds_no_second_chain() -> None:
    engine = ScriptedEngine(says("7"))
    out = outcome(Auto(), engine, budget=30)
    assert engine.calls == 1
    assert (out.samples, out.samples_requested, out.stopped_by) == (1, 32, "budget")


def report(i: int) -> str:
    return f"On the last day it rained again, and nobody went out. We read {'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdef'[i]}."


REPORTS = always(*[Chain(f"thought {i}\n", report(i)) for i in range(32)])


def test_auto_draws_no_vote_of_answers_that_cannot_be_compared() -> None:
    """Prose: three chains, of which the first is given; with a verifier that tells them apart, eight."""
    out = outcome(Auto(), ScriptedEngine(REPORTS), verifier=Agreement())
    assert (out.samples, out.ungrouped, out.answer.text) == (3, True, report(0))
    out = outcome(Auto(), ScriptedEngine(REPORTS), verifier=Likes({report(4): 1.0, "": 0.5}))
    assert (out.samples, out.answer.text) == (8, report(4))


def test_auto_ends_with_the_first_program_that_passes() -> None:
    out = outcome(Auto(), ScriptedEngine(REPORTS), verifier=Runs({report(4): 1.0}))
    assert (out.answer.text, out.verdict) == (report(4), "verified")
    assert out.samples <= 8


def test_auto_that_prefers_latency_draws_more_side_by_side() -> None:
    widths: list[int] = []
    for prefer in ("tokens", "latency"):
        engine = ScriptedEngine(says("7"))
        outcome(Auto(prefer=prefer, evidence="votes"), engine)  # pyright: ignore[reportArgumentType]
        widths.append(engine.calls)
    assert widths == [3, 6]


# -- when a vote stops ------------------------------------------------------------------------------------------------


def test_a_vote_stops_the_earlier_the_further_it_has_come_and_the_surer_its_leader_is() -> None:
    def at(first: int, second: int, ended: int, against: float = 0.0) -> bool:
        return stops(Standing(first, second, ended, 32, against, chains=first), BUILT_IN)

    assert not at(0, 0, 31)
    assert not at(2, 0, 2)
    assert at(3, 0, 3)
    assert not at(3, 0, 3, against=1.0), "two chains are slow to end"
    assert not at(3, 1, 4)
    assert at(5, 1, 6)
    assert (at(5, 3, 8), at(5, 3, 24)) == (False, True)
    assert at(17, 15, 32), "all have voted"
    assert not at(16, 16, 32)


def test_as_many_chains_are_under_way_as_the_leader_needs_votes_and_some_to_spare() -> None:
    def wide(first: int, second: int, ended: int, pace: Literal["tokens", "latency"]) -> int:
        return abreast(Standing(first, second, ended, 32, chains=first), BUILT_IN, getattr(BUILT_IN, pace))

    assert wide(2, 0, 2, "tokens") == 1
    assert wide(3, 3, 6, "tokens") > wide(3, 2, 5, "tokens") > wide(3, 1, 4, "tokens") == 1
    assert wide(3, 3, 6, "tokens") <= BUILT_IN.tokens.abreast < wide(3, 3, 6, "latency") <= BUILT_IN.latency.abreast
    assert wide(15, 15, 30, "latency") == 2, "no more than there may be"


def test_of_two_answers_with_as_many_votes_the_one_with_the_shorter_chains_is_given() -> None:
    script = always(Chain("so " * 40, "The answer is 9."), Chain("so " * 10, "The answer is 7."))
    assert "7" in outcome(Auto(n=2), ScriptedEngine(script), verifier=Agreement()).answer.text
    assert "9" in outcome(MajorityVote(n=2), ScriptedEngine(script), verifier=Agreement()).answer.text


# -- how a budget is shared -------------------------------------------------------------------------------------------


def replayed(tokens: int, budget: int, seed: int | None = None) -> Outcome:
    """A question whose chains have so many tokens each, asked of a model whose usual chain has 8,000."""
    samples = tuple(Sample(0, tokens + i) for i in range(32))
    engine = ReplayEngine([Question("a", frozenset({0}), samples)], typical_chain=(8_000, 20_000), answer_tokens=100)
    plan = Plan(
        prompt=engine.ask(0, 0),
        strategy=Selection("auto", Auto()),
        budget=Budget(budget, 1_000),
        sampling=Sampling(0, 0, seed=seed),
    )
    resources = Resources(engine, Lengths(*engine.card.typical_chain))
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return runner.run(execute(plan, resources, Spending(plan.budget), deaf))


@pytest.mark.parametrize("seed", [None, 5])
def test_it_votes_on_with_what_is_left_while_that_feeds_a_chain_like_those_before(seed: int | None) -> None:
    """The third has 6,500 tokens: less than the model's chains take, and more than those of this question."""
    out = replayed(3_000, 12_500, seed)
    assert (out.samples, out.agreement, out.complete) == (3, 1.0, True)
    assert out.spent.hidden <= 12_500


@pytest.mark.parametrize("seed", [None, 5])
def test_a_budget_that_feeds_one_chain_gives_it_all(seed: int | None) -> None:
    out = replayed(11_900, 12_500, seed)
    assert (out.samples, out.samples_requested, out.complete, out.stopped_by) == (1, 32, True, "budget")


def test_chains_that_are_begun_share_the_whole_budget() -> None:
    """It would feed eight of the usual length, and three are begun: each may be nearly three times as long."""
    engine = ScriptedEngine(says("7"))
    outcome(Auto(evidence="votes"), engine, budget=3_840)
    assert [one.thinking + one.answer >= 3_840 // 3 - 1 for one in engine.samplings] == [True] * 3
