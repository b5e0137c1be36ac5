"""What every strategy keeps without knowing it, under every budget and every way of being cut short."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass

import pytest

from compute.budget import Budget, Ledger, Lengths
from compute.engine import Delta, Sampling
from compute.errors import EngineError
from compute.run import Leash, Means, Named, Outcome, Plan, Run, execute
from compute.text import Candidate, Message, Prompt, Score
from strategies import strategies
from tests.fakes import MARKER, Chain, ScriptedEngine, ScriptedRewards, always

ANSWERS = ("The answer is 7.", "The answer is 7.", "The answer is 9.", "I am not sure.", "The answer is 7.")
CHAINS = [Chain(f"{MARKER} {i}\nthree and four\n{'and so on' * i}\n", a) for i, a in enumerate(ANSWERS)]
BUDGETS = [0, 1, 2, 3, 5, 8, 13, 21, 34, 55, 89, 144, 233, 377, 610, 987, 5000]


STRATEGIES = strategies()


@dataclass(frozen=True)
class ByLength:
    """A verifier that likes long answers, and asks the model and the reward model about each."""

    async def __call__(self, run: Run, candidates: Sequence[Candidate]) -> Sequence[Score]:
        await run.reward(candidates)
        return [Score(min(1.0, len(c.text) / 40)) for c in candidates]


@dataclass(frozen=True)
class Even:
    async def __call__(self, run: Run, candidates: Sequence[Candidate]) -> Sequence[Score]:
        return [Score(0.5) for _ in candidates]


class Case:
    """One request of one strategy on a scripted engine, and all that can be seen of it from outside."""

    def __init__(
        self,
        strategy: str,
        budget: Budget,
        engine: ScriptedEngine,
        *,
        timeout: float | None = None,
        rewards: ScriptedRewards | None = None,
    ) -> None:
        self.engine = engine
        self.ledger = Ledger(budget)
        self.heard: list[str] = []
        self.leash = Leash()
        self.rewards = rewards or ScriptedRewards(lambda line: min(1.0, len(line) / 30))
        self.plan = Plan(
            prompt=Prompt((Message("user", "What is three and four?"),)),
            strategy=Named(strategy, STRATEGIES[strategy]()),
            budget=budget,
            sampling=Sampling(thinking=0, answer=0, seed=1),
            verifier=Named("by_length", ByLength()),
            fallback=Named("even", Even()),
            timeout=timeout,
        )

    async def hear(self, delta: Delta) -> None:
        self.heard.append(delta.text)

    async def run(self) -> Outcome:
        card = self.engine.card
        means = Means(self.engine, Lengths(*card.typical_chain), self.rewards)
        return await execute(self.plan, means, self.ledger, self.hear, self.leash)

    def check(self, outcome: Outcome | None) -> None:
        """Promises 1 to 4, whatever has happened."""
        spent, thinking = self.ledger.spent, self.plan.budget.thinking
        assert spent.hidden <= thinking
        assert self.ledger.held == 0
        assert not self.ledger.overdrawn
        assert self.ledger.generated == self.engine.produced
        assert self.engine.running == 0
        assert self.ledger.verifier == self.rewards.read
        if outcome is not None:
            assert outcome.spent == spent
            assert outcome.answer.text
            assert "".join(self.heard) == outcome.answer.text
            assert spent.visible <= self.plan.budget.answer
            if self.plan.budget.total is not None:
                assert spent.generated <= self.plan.budget.total
            assert MARKER not in f"{outcome!r} {outcome}"
        assert MARKER not in f"{self.heard} {self.ledger.holds!r} {spent!r} {[vars(h) for h in self.ledger.holds]}"


@pytest.fixture(params=sorted(STRATEGIES))
def strategy(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.mark.parametrize("thinking", BUDGETS)
def test_the_budget_holds_and_there_is_an_answer(strategy: str, thinking: int) -> None:
    for answer, total in ((100, None), (3, None), (100, thinking + 2)):
        engine = ScriptedEngine(always(*CHAINS))
        case = Case(strategy, Budget(thinking, answer, total), engine)
        case.check(asyncio.run(case.run()))


@pytest.mark.parametrize("thinking", [0, 20, 200, 2000])
def test_a_model_that_never_stops_is_held_too(strategy: str, thinking: int) -> None:
    engine = ScriptedEngine(always(Chain(MARKER * 1000, "seven" * 1000), Chain("", "7" * 5000)))
    case = Case(strategy, Budget(thinking, 50), engine)
    outcome = asyncio.run(case.run())
    case.check(outcome)
    assert not outcome.complete


def test_cancelled_at_any_moment_nothing_runs_on_and_every_token_is_counted(strategy: str) -> None:
    async def cancelled_after(turns: int) -> bool:
        case = Case(strategy, Budget(700, 50), ScriptedEngine(always(*CHAINS), tail=3))
        task = asyncio.create_task(case.run())
        for _ in range(turns):
            await asyncio.sleep(0)
            if task.done():
                break
        finished = task.done()
        task.cancel()
        results = await asyncio.gather(task, return_exceptions=True)
        case.check(results[0] if isinstance(results[0], Outcome) else None)
        return finished

    async def until_it_is_done() -> int:
        turns = 0
        while not await cancelled_after(turns):
            turns = turns * 5 // 4 + 1
        return turns

    assert asyncio.run(until_it_is_done()) > 10


@pytest.mark.parametrize("reason", ["deadline", "draining"])
def test_cut_short_it_answers_with_its_best_so_far(strategy: str, reason: str) -> None:
    slow = [Chain(chain.thought.replace("\n", " ") * 200, chain.answer) for chain in CHAINS]

    async def cut(script: list[Chain]) -> Outcome:
        engine = ScriptedEngine(always(*script), delay=0.002, tail=2)
        case = Case(strategy, Budget(500_000, 50), engine, timeout=2.5 if reason == "deadline" else 60)
        if reason == "draining":
            asyncio.get_running_loop().call_later(0.2, case.leash.pull, "draining")
        outcome = await case.run()
        case.check(outcome)
        return outcome

    nothing_yet = asyncio.run(cut(slow))
    assert nothing_yet.stopped_by == reason
    assert nothing_yet.complete
    one_so_far = asyncio.run(cut([CHAINS[0], *slow]))
    assert one_so_far.complete


def test_an_engine_that_fails_at_any_call_ends_in_an_answer_or_one_error(
    strategy: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    whole = Case(strategy, Budget(700, 50), ScriptedEngine(always(*CHAINS)))
    asyncio.run(whole.run())
    for call in range(whole.engine.calls):
        case = Case(strategy, Budget(700, 50), ScriptedEngine(always(*CHAINS), fail_at=call, tail=1))
        try:
            outcome = asyncio.run(case.run())
        except EngineError:
            outcome = None
        case.check(outcome)
        if outcome is not None:
            assert outcome.complete
    assert MARKER not in caplog.text


def test_a_reward_model_that_fails_is_replaced_and_said_so(strategy: str) -> None:
    rewards = ScriptedRewards(lambda line: 1.0, fails=True)
    case = Case(strategy, Budget(700, 50), ScriptedEngine(always(*CHAINS)), rewards=rewards)
    outcome = asyncio.run(case.run())
    case.check(outcome)
    assert outcome.degraded == (rewards.calls > 0)


def test_the_same_seed_gives_the_same_outcome(strategy: str) -> None:
    def outcome() -> tuple[object, ...]:
        case = Case(strategy, Budget(700, 50), ScriptedEngine(always(*CHAINS), seeded=True))
        out = asyncio.run(case.run())
        return out.answer, out.spent, out.complete, out.stopped_by

    assert outcome() == outcome()
