"""`auto` weighs what a reward model would read against the chains it would spare, by what both cost."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest

from ponder.compute.budget import Budget, Spending
from ponder.compute.engine import Sampling
from ponder.compute.execute import execute
from ponder.compute.lengths import Lengths
from ponder.compute.outcome import Outcome
from ponder.compute.plan import Plan
from ponder.compute.price import Price
from ponder.compute.resources import Resources
from ponder.compute.run import Run, Selection, Verifier
from ponder.compute.text import Candidate, Message, Prompt, Score
from ponder.strategies.auto import Auto
from ponder.testing import Chain, ScriptedEngine, always
from ponder.verifiers.agreement import Agreement
from tests.strategies.test_choices import deaf

SPLIT = ("7", "9", "7", "7", *["7"] * 28)


@dataclass(frozen=True)
class Reads:
    """A verifier that likes nines, and reads what it judges."""

    reads: ClassVar[bool] = True

    async def __call__(self, run: Run, candidates: Sequence[Candidate]) -> Sequence[Score]:
        return [Score(0.99 if "9" in c.text else 0.01) for c in candidates]


@dataclass(frozen=True)
class Runs(Reads):
    """The same, by a program: it reads nothing that is paid for."""

    reads: ClassVar[bool] = False


def outcome(price: Price | None, *, question: str = "How many?", verifier: Any = None, seed: int | None = 1) -> Outcome:
    chains = [Chain("so " * 30, f"It is {answer}.") for answer in SPLIT]
    engine = ScriptedEngine(always(*chains))
    prompt = Prompt((Message("user", question),))
    given: Selection[Verifier] = Selection("given", verifier or Reads())
    even: Selection[Verifier] = Selection("agreement", Agreement())
    plan = Plan(prompt, Selection("auto", Auto()), Budget(100_000, 100), Sampling(0, 0, seed=seed), given, even)
    resources = Resources(engine, Lengths(20, 40), price=price)
    return asyncio.run(execute(plan, resources, Spending(plan.budget), deaf))


def price(*, cached: int = 10, thinking: int = 100, verifier: int = 10) -> Price:
    return Price("1", 10 * cached, cached, thinking, thinking, verifier)


@pytest.mark.parametrize("known", [None, price(verifier=1), price(verifier=0)], ids=["unknown", "cheap", "free"])
def test_a_reward_model_that_costs_less_than_votes_is_asked_at_three_to_one(known: Price | None) -> None:
    out = outcome(known)
    assert (out.samples, out.answer.text, out.verifier) == (4, "It is 9.", "given")


def test_one_that_costs_more_is_spared_and_the_vote_goes_on_to_its_end() -> None:
    out = outcome(price(verifier=1000))
    assert out.samples > 4
    assert (out.answer.text, out.verifier, out.score) == ("It is 7.", None, None)


def test_a_long_prompt_makes_a_reward_model_dear_which_reads_it_with_each_chain() -> None:
    """With the same prices."""
    prices = price(cached=1, thinking=100, verifier=20)
    assert outcome(prices).samples == 4
    long = outcome(prices, question="How many? " * 400)
    assert long.samples > 4
    assert long.score is None
    # Where each chain reads it for as much, too, it is not: four readings are fewer than the chains wanted.
    assert outcome(price(cached=200, thinking=100, verifier=20), question="How many? " * 400).samples == 4


def test_a_verifier_that_reads_nothing_costs_nothing_that_is_known() -> None:
    assert outcome(price(verifier=1000), verifier=Runs()).samples == 4


def test_prices_of_a_chain_and_of_a_reading() -> None:
    prices = Price("1", prompt=9, cached=2, thinking=5, answer=7, verifier=3)
    assert prices.chain(100, 40) == 100 * 2 + 40 * 5
    assert prices.judging(100, [40, 60]) == (140 + 160) * 3
    assert prices.judging(100, []) == 0
