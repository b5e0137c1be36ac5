"""The promises of every strategy over HTTP: under budgets, costs and every way of being cut short, as in process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, cast

import pytest

from ponder.compute.budget import Budget
from ponder.compute.cost import CostLimit
from ponder.compute.errors import EngineError
from ponder.compute.outcome import Outcome
from ponder.strategies import STRATEGIES
from ponder.testing import Case, ScriptedEngine, ScriptedRewards, Setting
from tests.engines.scripted_server import ScriptedServer, replica
from tests.engines.scripted_vllm import FAMILIES, Nature, ScriptedVllm
from tests.test_mechanism_promises import NATURES, SMALL, Counted

ENOUGH = 400
Asking = Callable[..., Case]


@asynccontextmanager
async def over_http(strategy: str, pace: float = 0.0) -> AsyncGenerator[tuple[Asking, ScriptedServer]]:
    """What makes a request of a strategy on a server, whose counts begin with it; and the server."""
    llm = ScriptedVllm(FAMILIES["ids"], Nature(), portions=(2, 3, 5))
    server = ScriptedServer(llm, scale_out=True, pace=lambda asked: pace)
    async with replica(server) as engine:
        yield partial(asked, strategy, engine), server


def asked(strategy: str, engine: Any, budget: Budget, **more: Any) -> Case:
    engine.llm.made = 0
    setting = Setting(partial(STRATEGIES[strategy], **SMALL.get(strategy, {})), name=strategy)
    more.setdefault("rewards", ScriptedRewards(lambda line: 0.5))
    return Case(setting, budget, cast(ScriptedEngine, engine), **more)


async def made(case: Case, tokens: int, running: asyncio.Task[Outcome]) -> None:
    """Returns when its engine has made so many, or it is done."""
    while case.engine.produced < tokens and not running.done():  # noqa: ASYNC110 (a server tells nobody)
        await asyncio.sleep(0.001)


of_each = pytest.mark.parametrize("strategy", STRATEGIES)


@of_each
def test_it_costs_no_more_than_it_may_and_a_reward_model_that_fails_is_replaced(strategy: str) -> None:
    async def go() -> None:
        async with over_http(strategy) as (ask, _):
            for cost in (CostLimit(4, 1, 3, 360), CostLimit(1, 5, 1, 3000, judging=900)):
                case = ask(Budget(ENOUGH, 50, cost=cost))
                case.check(await case.run())
            rewards = ScriptedRewards(lambda line: 1.0, fails=True)
            case = ask(Budget(ENOUGH, 50), rewards=rewards)
            outcome = await case.run()
            case.check(outcome)
            assert outcome.degraded == (rewards.calls > 0)

    asyncio.run(go())


@of_each
def test_the_same_seed_gives_the_answer_of_the_model_in_this_process(strategy: str) -> None:
    def told(outcome: Outcome) -> tuple[Any, ...]:
        return outcome.answer, outcome.spent, outcome.complete, outcome.stopped_by

    async def go() -> None:
        async with over_http(strategy) as (ask, _):
            found = [told(await ask(Budget(ENOUGH, 50)).run()) for _ in range(2)]
        llm = ScriptedVllm(FAMILIES["ids"], Nature(), portions=(2, 3, 5))
        near = Counted(llm, llm.get_tokenizer(), llm.profile, "demo")
        wanted = told(await asked(strategy, near, Budget(ENOUGH, 50)).run())
        assert found[0] == found[1]
        assert (found[0][0], *found[0][2:]) == (wanted[0], *wanted[2:])

    asyncio.run(go())


@of_each
def test_cancelled_at_any_moment_nothing_runs_on_and_every_token_is_counted(strategy: str) -> None:
    async def go() -> None:
        async with over_http(strategy, 0.002) as (ask, _):
            for tokens in (0, 1, 30, 120):
                case = ask(Budget(ENOUGH, 50))
                task = asyncio.create_task(case.run())
                await made(case, tokens, task)
                task.cancel()
                await asyncio.wait([task])
                case.check(None if task.cancelled() else task.result())

    asyncio.run(go())


@pytest.mark.parametrize("reason", ["deadline", "draining"])
def test_cut_short_each_strategy_answers_with_its_best(reason: str) -> None:
    """All at once, as each takes its time."""

    async def cut(strategy: str) -> None:
        async with over_http(strategy, 0.01) as (ask, _):
            case = ask(Budget(100_000, 50), timeout=2.0 if reason == "deadline" else 60.0)
            if reason == "draining":
                asyncio.get_running_loop().call_later(0.2, case.stop_signal.set, "draining")
            outcome = await case.run()
            case.check(outcome)
            assert outcome.complete, strategy

    async def all_of_them() -> None:
        async with asyncio.TaskGroup() as group:
            for strategy in STRATEGIES:
                group.create_task(cut(strategy))

    asyncio.run(all_of_them())


@of_each
def test_a_server_that_vanishes_leaves_an_answer_or_an_error_and_no_token_is_made_up(strategy: str) -> None:
    async def go() -> None:
        for tokens in (1, 60):
            async with over_http(strategy, 0.002) as (ask, server):
                case = ask(Budget(ENOUGH, 50))
                task = asyncio.create_task(case.run())
                await made(case, tokens, task)
                server.vanish()
                await asyncio.wait([task])
                if (error := task.exception()) is None:
                    assert task.result().complete
                else:
                    assert isinstance(error, EngineError)
                assert case.spending.held == 0
                assert case.spending.spent.hidden <= ENOUGH
                # What the server had made and nobody saw is not billed.
                assert case.spending.generated <= server.llm.made

    asyncio.run(go())


@pytest.mark.soak
@pytest.mark.parametrize("mechanism", NATURES)
@of_each
def test_the_budget_holds_with_every_way_to_think(strategy: str, mechanism: str) -> None:
    async def go() -> None:
        family, fate, second = NATURES[mechanism]
        for portions in ((1,), (2, 3, 5), (1000,)):
            llm = ScriptedVllm(FAMILIES[family], Nature(fate, second, letters=second is not None), portions=portions)
            async with replica(ScriptedServer(llm, scale_out=True)) as engine:
                for budget in (0, 3, 21, 89, 377, 1500):
                    case = asked(strategy, engine, Budget(budget, 60))
                    case.check(await case.run())

    asyncio.run(go())
