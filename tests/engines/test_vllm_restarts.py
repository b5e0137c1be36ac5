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
from ponder.compute.text import Message, Prompt
from ponder.engines import vllm
from ponder.engines.launch import EngineOptions, metrics_text
from ponder.engines.supervised import SupervisedEngine
from ponder.strategies import STRATEGIES

DEMO = Path(__file__).parents[2] / "models" / "demo"
SCHEMA = '{"type": "object", "properties": {"count": {"type": "integer"}, "why": {"type": "string", "maxLength": 40}}}'
FORMS: tuple[dict[str, Any], ...] = ({}, {"stream": True}, {"grammar": Grammar(SCHEMA)}, {"likelihood": True})


async def ask(engine: SupervisedEngine, number: int) -> tuple[Any, Spending]:
    """A request that the number decides, and what of its answer must be the same each time."""
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
    spending = Spending(budget, f"req_{number}")
    outcome: Outcome = await execute(plan, Resources(engine, Lengths(20, 40)), spending, on_delta)
    if plan.stream:
        assert "".join(told) == outcome.answer.text
    assert not spending.overdrawn
    assert outcome.spent.hidden <= budget.thinking
    return (outcome.answer.text, outcome.spent.hidden, outcome.spent.visible, outcome.stopped_by), spending


async def load(engine: SupervisedEngine, requests: int) -> list[tuple[Any, Spending]]:
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(ask(engine, number)) for number in range(requests)]
    return [task.result() for task in tasks]


async def campaign(signs: list[signal.Signals]) -> dict[str, float]:
    options = EngineOptions(dtype="float32", kv_cache_memory_bytes=1 << 28)
    async with AsyncExitStack() as stack:
        started = await vllm.start(str(DEMO), name="demo", profile=None, options=options)
        stack.push_async_callback(started.close)
        (engine,) = await stack.enter_async_context(vllm.supervised(started))
        expected = [seen for seen, _ in await load(engine, 24)]
        supervision, ways, resumed = engine.supervision, list[float](), 0
        for sign in signs:
            async with asyncio.TaskGroup() as group:
                loading = group.create_task(load(engine, 24))
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
