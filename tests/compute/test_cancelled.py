"""Who is cancelled stays cancelled, whatever errors come of it: no strategy makes the best of them for nobody."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import pytest

from ponder.compute.budget import Budget, Spending
from ponder.compute.engine import Delta, Sampling
from ponder.compute.errors import EngineError, Lost
from ponder.compute.execute import execute
from ponder.compute.lengths import Lengths
from ponder.compute.plan import Plan
from ponder.compute.resources import Resources
from ponder.compute.run import Selection
from ponder.compute.text import Message, Prompt
from ponder.compute.transcript import Transcript
from ponder.strategies import STRATEGIES
from ponder.testing import Chain, ScriptedEngine, ScriptedRewards, always, in_virtual_time
from ponder.verifiers import VERIFIERS

SEVEN, NINE = Chain("three and four\nmake it\n" * 3, "It is 7."), Chain("four and five\nmake it\n" * 3, "It is 9.")


@dataclass
class FailsWhenStopped(ScriptedEngine):
    """Takes a second to stop a call, and fails over it."""

    error: type[Exception] = Lost
    stopping: list[float] = field(default_factory=list[float])
    """When each call was told to stop."""

    async def make(self, transcript: Transcript) -> None:
        try:
            await super().make(transcript)
        except asyncio.CancelledError:
            self.stopping.append(asyncio.get_running_loop().time())
            await asyncio.sleep(1.0)
            raise self.error("it was stopped") from None


@dataclass
class _Cancelled:
    ended_as_cancelled: bool
    calls: int
    """That were begun after the cancellation."""
    after: float
    """Seconds from it to the end."""


def cancelled(strategy: str, engine: ScriptedEngine, at: float) -> _Cancelled | None:
    """What became of a run that was cancelled so many seconds after its beginning; None where it had ended before."""

    async def on_delta(_: Delta) -> None: ...

    plan = Plan(
        Prompt((Message("user", "What is three and four?"),)),
        Selection(strategy, STRATEGIES[strategy]()),
        Budget(3000, 100),
        Sampling(0, 0),
        Selection("prm", VERIFIERS["prm"]()),
        Selection("agreement", VERIFIERS["agreement"]()),
    )
    spending = Spending(plan.budget)
    resources = Resources(engine, Lengths(20, 40), ScriptedRewards(lambda line: 0.5))

    async def go() -> _Cancelled | None:
        loop = asyncio.get_running_loop()
        task = asyncio.create_task(execute(plan, resources, spending, on_delta))
        await asyncio.wait([task], timeout=at)
        if task.done():
            return None
        calls, since = engine.calls, loop.time()
        task.cancel()
        await asyncio.wait([task])
        return _Cancelled(task.cancelled(), engine.calls - calls, loop.time() - since)

    found = in_virtual_time(go())
    assert engine.running == 0
    assert spending.held == 0
    assert spending.generated == engine.produced
    return found


@pytest.mark.parametrize("error", [Lost, EngineError, ValueError])
@pytest.mark.parametrize("strategy", sorted(STRATEGIES))
def test_errors_over_a_cancellation_do_not_hide_it(strategy: str, error: type[Exception]) -> None:
    asked = 0
    for at in (0.55, 3.05, 9.05, 12.15, 18.05):
        engine = FailsWhenStopped(always(SEVEN, NINE), delay=0.1, error=error)
        found = cancelled(strategy, engine, at)
        if found is not None:
            asked += 1
            assert found.ended_as_cancelled
            assert found.calls == 0
            assert found.after < 1.5
    assert asked >= 2


@pytest.mark.parametrize("strategy", sorted(STRATEGIES))
def test_a_cancellation_that_comes_as_others_are_stopped_over_an_error_is_not_forgotten(strategy: str) -> None:
    """The engine fails, and while the other chains are being stopped for that the caller goes, too."""
    engine = FailsWhenStopped(always(SEVEN, NINE), delay=0.1, fail_at=0)
    fails = len(SEVEN.thought) // 2 * engine.delay
    found = cancelled(strategy, engine, fails + 0.5)
    if engine.stopping:
        assert found is not None
        assert found.ended_as_cancelled
        assert found.calls == 0
