"""Calls that draw from the quota of a key: some tokens at a time, never more than there are, and an honest end."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from ponder.compute.budget import Budget, Spending
from ponder.compute.engine import Delta, Sampling
from ponder.compute.errors import Unaffordable
from ponder.compute.execute import execute
from ponder.compute.lengths import Lengths
from ponder.compute.outcome import Outcome
from ponder.compute.plan import Plan
from ponder.compute.resources import Resources
from ponder.compute.run import Selection
from ponder.compute.text import Message, Prompt
from ponder.server.registry import Registry
from ponder.testing import Chain, ScriptedEngine, always, in_virtual_time

LONG = Chain("thought " * 40, "The answer is 42.")
"""321 hidden tokens, the one that ends the thought among them, and 17 visible ones."""


@dataclass
class Drawer:
    """A quota of so many tokens, of which a call draws `step` at a time."""

    left: int
    step: int = 50
    drawn: int = 0
    taken: list[int] = field(default_factory=list[int])
    readable: int = 0
    """Tokens that it pays a reward model for."""
    reads: list[int] = field(default_factory=list[int])

    async def draw(self, most: int) -> int:
        tokens = min(most, self.step, self.left)
        self.left -= tokens
        self.drawn += tokens
        return tokens

    def give(self, drawn: int, made: int) -> None:
        self.drawn -= drawn
        self.left += drawn - made

    def take(self, tokens: int) -> bool:
        self.taken.append(tokens)
        if tokens > self.left:
            return False
        self.left -= tokens
        return True

    async def hold(self, tokens: int) -> bool:
        self.reads.append(tokens)
        return sum(self.reads) <= self.readable

    def release(self, tokens: int) -> None:
        pass

    def read(self, tokens: int) -> None:
        pass


@dataclass
class Ran:
    outcome: Outcome
    spending: Spending
    engine: ScriptedEngine
    text: str


def ran(
    quota: Drawer | None,
    strategy: str = "direct",
    chains: Sequence[Chain] = (LONG,),
    budget: int = 1000,
    total: int | None = None,
    **more: Any,
) -> Ran:
    engine = ScriptedEngine(always(*chains), **more)
    spending = Spending(Budget(budget, 200, total))
    spending.quota = quota
    registry = Registry()
    plan = Plan(
        Prompt((Message("user", "What is six times seven?"),)),
        registry.strategies[strategy].made({}, "strategy", 64),
        spending.budget,
        Sampling(thinking=0, answer=0),
        Selection("agreement", registry.verifiers["agreement"].made({}, "verifier", 1).call),
    )
    told: list[str] = []

    async def on_delta(delta: Delta) -> None:
        told.append(delta.text)

    resources = Resources(engine, Lengths(*engine.card.typical_chain))
    outcome = in_virtual_time(execute(plan, resources, spending, on_delta))
    assert spending.held == 0
    assert engine.produced == spending.spent.generated
    if quota is not None:
        assert quota.drawn == 0
    return Ran(outcome, spending, engine, "".join(told))


def test_a_thought_that_is_drawn_piece_by_piece_is_the_same_thought() -> None:
    plain, drawn = ran(None), ran(Drawer(10_000))
    assert (drawn.outcome.answer, drawn.outcome.complete) == (plain.outcome.answer, True)
    assert drawn.outcome.thought.unseal() == plain.outcome.thought.unseal()
    assert drawn.outcome.spent.hidden == plain.outcome.spent.hidden == 321
    assert drawn.outcome.stopped_by == "finished"
    assert (plain.engine.calls, drawn.engine.calls) == (1, 7)
    assert drawn.text == plain.text == LONG.answer
    assert len(drawn.spending.reservations) == 1


def test_what_is_left_of_a_quota_is_thought_and_then_answered() -> None:
    for left in (1, 49, 50, 120, 320):
        quota = Drawer(left)
        found = ran(quota)
        assert found.outcome.spent.hidden == left
        assert found.outcome.answer.text == LONG.answer
        assert found.outcome.stopped_by == "quota"
        assert quota.left == 0
    found = ran(Drawer(0))
    assert (found.outcome.spent.hidden, found.outcome.stopped_by) == (0, "quota")
    assert found.outcome.answer.text == LONG.answer


def test_a_budget_that_ends_first_is_not_the_quotas_end() -> None:
    found = ran(Drawer(10_000), budget=130)
    assert (found.outcome.spent.hidden, found.outcome.stopped_by) == (130, "budget")
    assert found.outcome.answer.text == LONG.answer


@pytest.mark.parametrize("strategy", sorted(Registry().strategies))
@pytest.mark.parametrize("step", [7, 60])
def test_no_strategy_makes_more_than_the_quota_has_and_all_answer(strategy: str, step: int) -> None:
    chains = [Chain("step one\nstep two\n" * n, f"It is {n % 3}.") for n in (2, 3, 5, 8)]
    whole = ran(None, strategy, chains, budget=2000).outcome.spent.hidden
    for left in (0, 5, 40, 150, whole // 2, whole - 1):
        quota = Drawer(left, step)
        found = ran(quota, strategy, chains, budget=2000)
        assert found.outcome.spent.hidden <= left
        assert found.outcome.answer.text
        assert found.spending.out_of_quota or left >= 40
        if found.spending.out_of_quota:
            # A draw may be refused in the moment in which the chains that are there suffice.
            sufficed = ("early_agreement",) if strategy == "short_m_at_k" else ()
            assert found.outcome.stopped_by in ("quota", *sufficed), left


def test_a_limit_of_all_tokens_counts_what_was_drawn_before_once() -> None:
    found = ran(Drawer(10_000), total=400)
    assert (found.outcome.spent.hidden, found.outcome.stopped_by) == (321, "finished")
    assert len(found.spending.reservations) == 1


def test_a_step_that_has_reached_its_limit_draws_no_more() -> None:
    """However little a draw brings: it would ask again for ever."""
    found = ran(Drawer(10_000, 20), "beam_search", [Chain("thought " * 40, f"The answer is {n}.") for n in range(4)])
    assert found.outcome.complete
    assert found.outcome.spent.hidden <= 1000


def test_a_chain_without_tokens_leaves_the_others_alone() -> None:
    """The first chains of a race have drawn what there is: the last finds nothing, and is no candidate."""
    chains = [Chain("short", "It is 4.")] * 2 + [Chain("much longer " * 50, "It is 5.")]
    found = ran(Drawer(40, step=20), "majority_vote", chains)
    assert found.outcome.answer.text == "It is 4."
    assert found.outcome.stopped_by == "quota"
    assert found.outcome.spent.hidden <= 40


def test_an_answer_that_loses_its_certainty_counts() -> None:
    spending = Spending(Budget(100, 50))
    spending.quota = quota = Drawer(30)
    with spending.reserve("sample", thinking=10, answer=50, bound=True) as reservation:
        reservation.spend(hidden=5, visible=20)
    spending.unbind()
    assert (quota.taken, quota.left) == ([20], 10)


def test_what_a_reward_model_is_to_read_is_held_from_the_quota_and_nothing_follows_what_it_does_not_pay_for() -> None:
    async def go() -> None:
        spending, quota = Spending(Budget(1000, 50)), Drawer(1000, readable=500)
        spending.quota = quota
        async with spending.reading(300):
            spending.read_for_verifier(300, 0)
        assert spending.free == 1000
        with pytest.raises(Unaffordable, match="takes 201 tokens and the quota"):
            async with spending.reading(201):
                raise AssertionError("it was begun")
        assert quota.reads == [300, 201]
        assert (spending.free, spending.out_of_quota) == (0, True)

    asyncio.run(go())
