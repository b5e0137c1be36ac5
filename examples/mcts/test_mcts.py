"""The promises of a strategy, and a tree in which the right path is known."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import pytest
from ponder_mcts.search import Mcts

from ponder.compute.budget import Budget
from ponder.compute.run import Run
from ponder.compute.text import Candidate, Score
from ponder.testing import Case, Chain, Promise, ScriptedEngine, ScriptedRewards, Setting, always, strategy_promises


@pytest.mark.parametrize("promise", strategy_promises(Mcts), ids=str)
def test_it_keeps(promise: Promise) -> None:
    promise.check()


@dataclass(frozen=True)
class LowestStep:
    """Scores a chain by its worst step."""

    async def __call__(self, run: Run, candidates: Sequence[Candidate]) -> Sequence[Score]:
        return [Score(min(reward.steps, default=0.0), reward.steps) for reward in await run.reward(candidates)]


def test_it_follows_the_steps_its_reward_model_likes() -> None:
    bad = [Chain(f"bad {i}\nbad\nbad\n", "The answer is 9.") for i in range(3)]
    good = Chain("good\ngood\ngood\n", "The answer is 7.")
    rewards = ScriptedRewards(lambda line: 0.9 if line.startswith("good") else 0.1)
    engine = ScriptedEngine(always(*bad, good))
    case = Case(Setting(partial(Mcts, n=6, width=4), LowestStep), Budget(10_000, 100), engine, rewards=rewards)
    outcome = asyncio.run(case.run())
    case.check(outcome)
    assert outcome.answer.text == "The answer is 7."
