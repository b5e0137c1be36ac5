"""Every strategy and verifier on chains of a real model's shape, from the first request on: there is a vote, the choice
is right, and the promises hold."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import pytest

from ponder.compute.budget import Budget, Spending
from ponder.compute.engine import Delta, Grammar, Sampling
from ponder.compute.execute import execute
from ponder.compute.lengths import Lengths
from ponder.compute.outcome import Outcome
from ponder.compute.plan import Plan
from ponder.compute.resources import Resources
from ponder.compute.run import Selection
from ponder.compute.text import Message, Prompt
from ponder.strategies import STRATEGIES
from ponder.testing import ScriptedRewards
from ponder.verifiers import VERIFIERS
from tests.engines.real_shape import SOUND, Habits, RealShape, engine

PROMPT = Prompt((Message("user", "How many?"),))
SETTINGS: dict[str, dict[str, Any]] = {
    "majority_vote": {"n": 8},
    "best_of_n": {"n": 8},
    "auto": {"n": 8},
    "revision": {"chains": 3, "rounds": 1},
    "beam_search": {"beams": 4, "width": 2, "step_tokens": 1024},
    "dvts": {"beams": 4, "width": 2, "step_tokens": 1024},
    "particle_filter": {"particles": 4, "step_tokens": 1024},
}
SEARCHES = ("beam_search", "dvts", "particle_filter")
"""They choose among half-written chains, of which only the reward model knows anything here."""
JUDGES: dict[str, dict[str, Any]] = {
    "agreement": {},
    "confidence": {},
    "judge": {},
    "prm": {},
    "rules": {"number": 7},
}


@dataclass
class Asked:
    """One request over the real engine class, and what came of it."""

    llm: RealShape
    outcome: Outcome
    spending: Spending
    streamed: str


def ask(
    strategy: str,
    llm: RealShape,
    *,
    verifier: str = "agreement",
    budget: int = 120_000,
    answer: int = 6000,
    lengths: Lengths | None = None,
    parameters: dict[str, Any] | None = None,
    **sampling: Any,
) -> Asked:
    """From a fresh start: nothing is known of the model but its profile."""
    model = engine(llm)
    chosen = STRATEGIES[strategy](**SETTINGS.get(strategy, {}) | (parameters or {}))
    judge = VERIFIERS[verifier](**JUDGES[verifier])
    plan = Plan(
        PROMPT,
        Selection(strategy, chosen),
        Budget(budget, answer),
        Sampling(0, 0, likelihood=verifier == "confidence", **sampling),
        Selection(verifier, judge),
        Selection("agreement", VERIFIERS["agreement"]()),
        stream=False,
    )
    rewards = ScriptedRewards(lambda line: 0.9 if SOUND in line else 0.3)
    spending = Spending(plan.budget)
    streamed: list[str] = []

    async def hear(delta: Delta) -> None:
        streamed.append(delta.text)

    resources = Resources(model, lengths or Lengths(*model.card.typical_chain), rewards)
    outcome = asyncio.run(execute(plan, resources, spending, hear))
    asked = Asked(llm, outcome, spending, "".join(streamed))
    assert outcome.spent.hidden <= budget
    assert not spending.overdrawn
    assert spending.held == 0
    assert spending.generated == llm.made
    assert llm.running == 0
    assert asked.streamed == outcome.answer.text
    assert SOUND not in outcome.answer.text
    return asked


def right(asked: Asked) -> bool:
    return asked.outcome.complete and "\\boxed{7}" in asked.outcome.answer.text


def most(number: int) -> bool:
    """Of eight chains five are right, the first among the wrong."""
    return number % 8 in (1, 2, 4, 5, 7)


@pytest.mark.parametrize("verifier", JUDGES)
@pytest.mark.parametrize("strategy", SETTINGS)
def test_answers_of_a_real_model_vote_from_the_first_request_on(strategy: str, verifier: str) -> None:
    asked = ask(strategy, RealShape(Habits(answer=142, sure=most)), verifier=verifier)
    assert asked.outcome.complete
    assert right(asked) or (strategy in SEARCHES and verifier != "prm"), asked.outcome
    assert not asked.outcome.ungrouped
    assert asked.outcome.agreement is not None
    assert not asked.outcome.degraded


@pytest.mark.parametrize("tokens", [8, 150, 600, 4000])
@pytest.mark.parametrize("strategy", SETTINGS)
def test_answers_of_every_length_vote_from_the_first_request_on(strategy: str, tokens: int) -> None:
    asked = ask(strategy, RealShape(Habits(answer=tokens, sure=most)), verifier="prm", budget=150_000)
    assert right(asked), asked.outcome
    assert asked.outcome.agreement is not None
    if strategy in ("best_of_n", "revision"):
        judged = [reservation for reservation in asked.spending.reservations if reservation.score is not None]
        assert judged
        assert all(reservation.ending == "finished" for reservation in judged)


@pytest.mark.parametrize("tokens", [150, 600, 4000])
def test_an_exact_verifier_finds_the_one_right_answer_however_long(tokens: int) -> None:
    llm = RealShape(Habits(answer=tokens, sure=lambda number: number == 5))
    assert right(ask("best_of_n", llm, verifier="rules", budget=150_000))


def test_chains_whose_answers_do_not_fit_their_share_go_on_with_what_others_leave() -> None:
    llm = RealShape(Habits(answer=1200, sure=most))
    asked = ask("majority_vote", llm, lengths=Lengths(1500, 2500, 40), budget=40_000, parameters={"confidence": 1})
    assert right(asked)
    assert sum(reservation.answer_group is not None for reservation in asked.spending.reservations) > 2


@pytest.mark.parametrize("strategy", SETTINGS)
def test_a_seeded_answer_never_depends_on_what_others_asked_before(strategy: str) -> None:
    def answered(lengths: Lengths, portion: int) -> tuple[object, ...]:
        llm = RealShape(Habits(answer=300, p=0.5), portion=portion)
        asked = ask(strategy, llm, seed=5, budget=20_000, lengths=lengths, verifier="prm")
        out = asked.outcome
        return out.answer, out.spent.hidden, out.spent.visible, out.samples, out.stopped_by, out.agreement, out.score

    fresh = answered(Lengths(3500, 14000), 48)
    used = Lengths(3500, 14000)
    for i in range(500):
        used.saw(100 + i, 30)
    assert answered(used, 48) == fresh
    # How fast the engine is beside others must not show either.
    assert answered(Lengths(3500, 14000), 7) == fresh


@pytest.mark.parametrize("strategy", ["majority_vote", "best_of_n", "auto"])
def test_json_answers_vote_and_are_whole(strategy: str) -> None:
    llm = RealShape(Habits(answer=400, sure=most))
    out = ask(strategy, llm, grammar=Grammar("{}")).outcome
    assert out.complete
    assert out.answer.text.endswith('"answer": 7}')
    assert out.answer.text.count('"case"') == 1
    assert out.agreement is not None


def test_at_temperature_0_one_chain_is_drawn_and_said_so() -> None:
    for strategy in SETTINGS:
        asked = ask(strategy, RealShape(Habits(sure=lambda number: True)), temperature=0.0, parameters={})
        assert (
            len(
                {
                    reservation.number
                    for reservation in asked.spending.reservations
                    if reservation.purpose in ("sample", "stream")
                }
            )
            <= 2
        )
        assert asked.outcome.alike
        assert right(asked)
