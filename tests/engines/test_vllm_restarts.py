"""The real engine is killed in the middle: at temperature 0, in float32, the answers are those of one that was not."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
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
from ponder.compute.text import Candidate, Hidden, Message, Prompt
from ponder.engines import vllm
from ponder.engines.launch import EngineOptions, metrics_text
from ponder.engines.reward_vllm import start_reward, supervised_reward
from ponder.engines.supervised import SupervisedEngine, SupervisedRewardModel
from ponder.strategies import STRATEGIES

DEMO = Path(__file__).parents[2] / "models" / "demo"
PRM = DEMO.with_name("demo-prm")
QUESTION = Prompt((Message("user", "Tom has 12 apples. Tom gets 7 more. How many apples does Tom have now?"),))
SCHEMA = '{"type": "object", "properties": {"count": {"type": "integer"}, "why": {"type": "string", "maxLength": 40}}}'
FORMS: tuple[dict[str, Any], ...] = ({}, {"stream": True}, {"grammar": Grammar(SCHEMA)}, {"likelihood": True})


async def ask(engine: SupervisedEngine, number: int, among: str) -> tuple[Any, Spending]:
    """A request that the number decides, one of its own among others, and what of its answer must be the same each
    time."""
    form = FORMS[number % len(FORMS)]
    told: list[str] = []

    async def on_delta(delta: Delta) -> None:
        told.append(delta.text)

    wishes = {name: value for name, value in form.items() if name != "stream"}
    prompt = Prompt(
        (Message("user", f"Tom has {10 + number} apples. Tom gets 7 more. How many apples does Tom have?"),)
    )
    sampling = replace(Sampling(0, 0, temperature=0.0, seed=number), **wishes)
    budget, stream = Budget(300, 80), bool(form.get("stream"))
    plan = Plan(prompt, Selection("direct", STRATEGIES["direct"]()), budget, sampling, stream=stream)
    spending = Spending(budget, f"req_{among}_{number}")
    outcome: Outcome = await execute(plan, Resources(engine, Lengths(20, 40)), spending, on_delta)
    if plan.stream:
        assert "".join(told) == outcome.answer.text
    assert not spending.overdrawn
    assert outcome.spent.hidden <= budget.thinking
    return (outcome.answer.text, outcome.spent.hidden, outcome.spent.visible, outcome.stopped_by), spending


async def load(engine: SupervisedEngine, requests: int, among: str) -> list[tuple[Any, Spending]]:
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(ask(engine, number, among)) for number in range(requests)]
    return [task.result() for task in tasks]


async def campaign(signs: list[signal.Signals]) -> dict[str, float]:
    options = EngineOptions(dtype="float32", kv_cache_memory_bytes=1 << 28)
    async with AsyncExitStack() as stack:
        started = await vllm.start(str(DEMO), name="demo", profile=None, options=options)
        stack.push_async_callback(started.close)
        (engine,) = await stack.enter_async_context(vllm.supervised(started))
        expected = [seen for seen, _ in await load(engine, 24, "undisturbed")]
        supervision, ways, resumed = engine.supervision, list[float](), 0
        for number, sign in enumerate(signs):
            async with asyncio.TaskGroup() as group:
                loading = group.create_task(load(engine, 24, f"round{number}"))
                await asyncio.sleep(0.15)
                began = asyncio.get_running_loop().time()
                os.kill(supervision.process.pids[0], sign)
                answers = await loading
            ways.append(asyncio.get_running_loop().time() - began - supervision.took)
            assert [seen for seen, _ in answers] == expected
            kept = [one for _, spending in answers for one in spending.reservations]
            resumed += sum(one.resumed for one in kept)
        assert (supervision.state, supervision.restarts) == ("up", len(signs))
        assert b"vllm:generation_tokens_total" in metrics_text()
        return {"resumed": resumed, "longest_way_back_beyond_a_start": max(ways)}


def test_an_engine_that_is_killed_changes_no_answer() -> None:
    told = asyncio.run(campaign([signal.SIGKILL]))
    assert told["resumed"]


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_an_engine_that_is_killed_and_stopped_many_times_changes_no_answer(
    record_property: Callable[[str, object], None],
) -> None:
    for name, value in asyncio.run(campaign([signal.SIGKILL, signal.SIGSTOP] * 5)).items():
        record_property(name, value)


# -- a reward model ---------------------------------------------------------------------------------------------------


def chain(number: int, steps: int) -> Candidate:
    """A thought of so many steps, which the number decides."""
    lines = [f"{number + step} + {step} = {number + 2 * step}" for step in range(1, steps + 1)]
    thought = "".join(line + "\n" for line in lines)
    return Candidate(number, QUESTION, Hidden(()), Hidden(thought), "", 0, 0, True, "step")


async def judged(model: SupervisedRewardModel, tenant: str) -> list[float]:
    """Scores of 24 calls at the same time, each of two chains of some steps; of other tenants nothing is remembered."""
    told: list[int] = []

    async def one(number: int) -> list[float]:
        chains = [chain(number, 8 + number % 5), chain(number + 100, 6)]
        rewards = await model.reward(QUESTION, chains, read=lambda tokens, _: told.append(tokens), tenant=tenant)
        return [score for reward in rewards for score in reward.steps]

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one(number)) for number in range(24)]
    assert sum(told) > 0
    return [score for task in tasks for score in task.result()]


async def judging(signs: list[signal.Signals]) -> dict[str, float]:
    options = EngineOptions(dtype="float32", kv_cache_memory_bytes=1 << 27)
    async with AsyncExitStack() as stack:
        started = await start_reward(str(PRM), name="judge", profile=None, options=options)
        stack.push_async_callback(started.close)
        model = await stack.enter_async_context(supervised_reward(started))
        supervision, ways, struck = model.supervision, list[float](), 0
        expected = await judged(model, "undisturbed")
        for number, sign in enumerate(signs):
            async with asyncio.TaskGroup() as group:
                loading = group.create_task(judged(model, f"round {number}"))
                await asyncio.sleep(0.02)
                struck += not loading.done()
                began = asyncio.get_running_loop().time()
                os.kill(supervision.process.pids[0], sign)
                assert await loading == pytest.approx(expected, abs=1e-3)
            # The last of them may have been judged before the blow.
            while supervision.restarts <= number or supervision.state != "up":  # noqa: ASYNC110
                await asyncio.sleep(0.05)
            ways.append(asyncio.get_running_loop().time() - began - supervision.took)
        assert (supervision.state, supervision.restarts) == ("up", len(signs))
        return {"struck_while_judging": struck, "longest_way_back_beyond_a_start": max(ways)}


def test_a_reward_model_that_is_killed_changes_no_verdict() -> None:
    asyncio.run(judging([signal.SIGKILL]))


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_a_reward_model_that_is_killed_and_stopped_many_times_changes_no_verdict(
    record_property: Callable[[str, object], None],
) -> None:
    for name, value in asyncio.run(judging([signal.SIGKILL, signal.SIGSTOP] * 5)).items():
        record_property(name, value)
