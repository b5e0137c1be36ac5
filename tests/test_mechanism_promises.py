"""The promises of the strategies, over the real engine and every way to tell a thought from an answer."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any, cast

import pytest

from ponder.compute.budget import Budget
from ponder.engines.vllm import VllmEngine
from ponder.strategies import STRATEGIES
from ponder.testing import Case, ScriptedEngine, ScriptedRewards, Setting
from tests.engines.scripted_vllm import FAMILIES, Fate, Nature, ScriptedVllm

NATURES: dict[str, tuple[str, Fate, Fate | None]] = {
    **{family: (family, "closed", None) for family in FAMILIES},
    "interleaved": ("ids", "closed", "closed"),
    "interleaved text": ("text", "closed", "closed"),
    "messages of thought": ("channels", "closed", "closed"),
    "forgotten": ("channels", "forgotten", None),
}
SMALL: dict[str, dict[str, Any]] = {
    "beam_search": {"step_tokens": 12, "beams": 4, "width": 2},
    "dvts": {"step_tokens": 12, "beams": 4, "width": 2},
    "particle_filter": {"step_tokens": 12, "particles": 3},
}


class Counted(VllmEngine):
    """The real engine, which says as a scripted one does what its model has made."""

    @property
    def produced(self) -> int:
        return self.llm.made

    @property
    def running(self) -> int:
        return self.llm.running


def case(mechanism: str, strategy: str, budget: Budget, portions: tuple[int, ...]) -> Case:
    family, fate, second = NATURES[mechanism]
    llm = ScriptedVllm(FAMILIES[family], Nature(fate, second, letters=second is not None), portions=portions)
    engine = cast(ScriptedEngine, Counted(llm, llm.get_tokenizer(), llm.profile, "demo"))
    setting = Setting(partial(STRATEGIES[strategy], **SMALL.get(strategy, {})), name=strategy)
    return Case(setting, budget, engine, rewards=ScriptedRewards(lambda line: 0.5))


BUDGETS = (0, 3, 21, 89, 377, 1500)
PORTIONS = ((1,), (2, 3, 5), (1000,))
"""How many tokens the engine tells at a time."""


def kept(strategy: str, mechanism: str, budget: int, portions: tuple[int, ...]) -> None:
    one = case(mechanism, strategy, Budget(budget, 60), portions)
    one.check(asyncio.run(one.run()))


@pytest.mark.parametrize("mechanism", NATURES)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_budget_holds_and_there_is_an_answer(strategy: str, mechanism: str) -> None:
    """Under every budget; each in portions of one of the sizes, another for the next mechanism and strategy."""
    first = list(NATURES).index(mechanism) + list(STRATEGIES).index(strategy)
    for place, budget in enumerate(BUDGETS, first):
        kept(strategy, mechanism, budget, PORTIONS[place % 3])


@pytest.mark.soak
@pytest.mark.parametrize("mechanism", NATURES)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_budget_holds_in_portions_of_every_size(strategy: str, mechanism: str) -> None:
    for budget in BUDGETS:
        for portions in PORTIONS:
            kept(strategy, mechanism, budget, portions)
