"""A chain whose end nobody saw, because its model went away: it is counted, it is no answer, and the others go on."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import pytest

from ponder.compute.budget import Budget, Spending
from ponder.compute.engine import Delta, Sampling
from ponder.compute.errors import Lost
from ponder.compute.execute import execute
from ponder.compute.lengths import Lengths
from ponder.compute.outcome import Outcome
from ponder.compute.plan import Plan
from ponder.compute.resources import Resources
from ponder.compute.run import Selection
from ponder.compute.text import Hidden, Message, Prompt
from ponder.compute.transcript import Transcript
from ponder.strategies import STRATEGIES
from ponder.testing import Chain, ScriptedEngine, ScriptedRewards, always, in_virtual_time
from ponder.verifiers import VERIFIERS

SEVEN, NINE = Chain("three and four\nmake it\n", "It is 7."), Chain("four and five\nmake it\n", "It is 9.")
SEARCHES = ("beam_search", "dvts", "particle_filter", "rebase")


def ask(
    name: str,
    engine: ScriptedEngine,
    *,
    seed: int | None = None,
    budget: int = 3000,
    streamed: list[str] | None = None,
    **parameters: Any,
) -> tuple[Spending, Outcome | None]:
    """The outcome, None where the model went away before there was one; what was spent in any case."""

    async def on_delta(delta: Delta) -> None:
        if streamed is not None:
            streamed.append(delta.text)

    plan = Plan(
        Prompt((Message("user", "What is three and four?"),)),
        Selection(name, STRATEGIES[name](**parameters)),
        Budget(budget, 100),
        Sampling(0, 0, seed=seed),
        Selection("prm", VERIFIERS["prm"]()),
        Selection("agreement", VERIFIERS["agreement"]()),
    )
    spending = Spending(plan.budget)
    resources = Resources(engine, Lengths(20, 40), ScriptedRewards(lambda line: 0.5))
    try:
        outcome = in_virtual_time(execute(plan, resources, spending, on_delta))
    except Lost:
        outcome = None
    assert engine.running == 0
    assert spending.held == 0
    assert spending.generated == engine.produced
    return spending, outcome


@pytest.mark.parametrize("after", [0, 5, 25, 30])
def test_a_sole_chain_that_is_lost_is_an_error_and_its_tokens_are_counted(after: int) -> None:
    streamed: list[str] = []
    spending, outcome = ask("direct", ScriptedEngine(always(SEVEN), vanish_at={0: after}), streamed=streamed)
    assert outcome is None
    (chain,) = spending.reservations
    assert (chain.ending, chain.tokens) == ("lost", after)
    assert spending.chosen is None
    assert SEVEN.answer.startswith("".join(streamed))


@pytest.mark.parametrize("seed", [None, 5])
def test_a_vote_goes_on_without_a_chain_that_is_lost(seed: int | None) -> None:
    """The lost one had said nearly all of its answer, a wrong one."""
    nearly = len(NINE.thought) + 1 + len(NINE.answer) - 1
    engine = ScriptedEngine(always(NINE, SEVEN, SEVEN), vanish_at={0: nearly})
    spending, outcome = ask("majority_vote", engine, seed=seed)
    assert outcome is not None
    assert (outcome.answer.text, outcome.complete) == (SEVEN.answer, True)
    lost, *others = spending.reservations
    assert (lost.ending, lost.tokens, lost.answer_group) == ("lost", nearly, None)
    assert Counter(one.ending for one in others) == {"finished": len(others)}


@pytest.mark.parametrize("seed", [None, 5])
def test_a_vote_is_settled_when_only_a_chain_that_was_lost_could_change_it(seed: int | None) -> None:
    slow = Chain("and so on\n" * 50, "It is 9.")
    engine = ScriptedEngine(always(NINE, SEVEN, SEVEN, slow), vanish_at={0: 5}, delay=0.01)
    spending, outcome = ask("majority_vote", engine, seed=seed, n=4, first=4, confidence=1)
    assert outcome is not None
    assert outcome.answer.text == SEVEN.answer
    assert [one.ending for one in spending.reservations] == ["lost", "finished", "finished", "aborted"]


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("majority_vote", {"n": 6, "mode": "rounds", "first": 2, "confidence": 1}),
        ("majority_vote", {"n": 6, "first": 2, "confidence": 1}),
        ("auto", {"n": 6, "confidence": 1}),
    ],
    ids=str,
)
def test_no_more_chains_are_begun_than_were_asked_for_where_some_are_lost(
    name: str, parameters: dict[str, Any]
) -> None:
    chains = [Chain(SEVEN.thought, f"It is {i}.") for i in range(20)]
    spending, outcome = ask(name, ScriptedEngine(always(*chains), vanish_at={0: 5}), budget=9000, **parameters)
    assert outcome is not None
    assert len([one for one in spending.reservations if one.purpose == "sample"]) == 6


def test_an_answer_given_without_a_chain_that_was_lost_says_so() -> None:
    _, whole = ask("best_of_n", ScriptedEngine(always(SEVEN)))
    _, outcome = ask("best_of_n", ScriptedEngine(always(SEVEN), vanish_at={2: 9}))
    assert whole is not None
    assert outcome is not None
    assert (whole.stopped_by, outcome.stopped_by) == ("finished", "engine_error")
    assert (whole.samples, outcome.samples) == (8, 7)


@pytest.mark.parametrize("seed", [None, 5])
@pytest.mark.parametrize("name", STRATEGIES)
def test_a_model_that_goes_away_for_good_is_an_error_where_nothing_was_whole(name: str, seed: int | None) -> None:
    spending, outcome = ask(name, ScriptedEngine(always(SEVEN), vanish_at=dict.fromkeys(range(1000), 9)), seed=seed)
    assert outcome is None
    assert {one.ending for one in spending.reservations} == {"lost"}


@pytest.mark.parametrize("seed", [None, 5])
@pytest.mark.parametrize("name", SEARCHES)
def test_a_search_goes_on_with_the_chains_it_has_left(name: str, seed: int | None) -> None:
    for call in range(8):
        spending, outcome = ask(name, ScriptedEngine(always(SEVEN, NINE), vanish_at={call: 3}), seed=seed)
        assert outcome is not None
        assert outcome.complete
        assert Counter(one.ending for one in spending.reservations)["lost"] == 1
        line = spending.line(spending.chosen)
        assert not [n for n in line if spending.reservations[n].ending == "lost"]


@dataclass
class Uneven(ScriptedEngine):
    """One chain begins late, another is lost, by their places in the order of calls."""

    slow: int = 0
    lost: int = 0
    begun: int = 0

    async def generate(self, prompt: Prompt, sampling: Sampling, transcript: Transcript) -> AsyncGenerator[Delta]:
        place, self.begun = self.begun, self.begun + 1
        await asyncio.sleep(place == self.slow)
        self.vanish_at = {self.calls: 5} if place == self.lost else {}
        async with aclosing(super().generate(prompt, sampling, transcript)) as stream:
            async for delta in stream:
                yield delta


def test_with_a_seed_it_does_not_matter_when_a_chain_was_lost() -> None:
    """The others want more than their shares, and what the lost one has left is theirs at its place in the order."""
    chain = Chain("so\n" * 5, "It is 7" + "." * 80)
    asked = [ask("best_of_n", Uneven(always(chain), slow=slow, lost=2), seed=5, budget=500) for slow in range(4)]
    seen = [outcome and (outcome.answer, outcome.spent, outcome.samples) for _, outcome in asked]
    assert seen[0] is not None
    assert seen == [seen[0]] * 4


class Breaks(ScriptedEngine):
    """Its stream ends in the middle without a word, as a connection may that was cut."""

    async def generate(self, prompt: Prompt, sampling: Sampling, transcript: Transcript) -> AsyncGenerator[Delta]:
        transcript.read(10, 0)
        transcript.think([ord("a")] * 3)
        self.produced += 3
        if sampling.seed == 1:
            transcript.end("aborted", Hidden("aaa"))
        return
        yield


@pytest.mark.parametrize("seed", [None, 1])
def test_a_stream_that_ends_without_an_end_is_lost(seed: int | None) -> None:
    """Whether the engine says nothing, or that it was asked to stop, which nobody did."""
    spending, outcome = ask("direct", Breaks(always(SEVEN)), seed=seed)
    assert outcome is None
    assert [(one.ending, one.tokens) for one in spending.reservations] == [("lost", 3)]
