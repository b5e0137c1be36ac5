"""What every strategy keeps without knowing it, under every budget and every way of being cut short."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

import pytest

from ponder.compute.budget import Budget, Spending
from ponder.compute.engine import Delta, Sampling
from ponder.compute.errors import EngineError
from ponder.compute.execute import execute
from ponder.compute.lengths import Lengths
from ponder.compute.outcome import Outcome
from ponder.compute.plan import Plan
from ponder.compute.resources import Resources
from ponder.compute.run import Run, Selection
from ponder.compute.stop import StopSignal
from ponder.compute.text import Candidate, Hidden, Message, Prompt, Score, TokenLogprob
from ponder.compute.transcript import Transcript
from ponder.engines.virtual_time import VirtualTimeLoop
from ponder.strategies import strategies
from ponder.verifiers import verifiers
from tests.fakes import MARKER, Chain, ScriptedEngine, ScriptedRewards, always, question

ANSWERS = ("The answer is 7.", "The answer is 7.", "The answer is 9.", "I am not sure.", "The answer is 7.")
CHAINS = [Chain(f"{MARKER} {i}\nthree and four\n{'and so on' * i}\n", a) for i, a in enumerate(ANSWERS)]
BUDGETS = [0, 1, 2, 3, 5, 8, 13, 21, 34, 55, 89, 144, 233, 377, 610, 987, 5000]


STRATEGIES = strategies()


@dataclass(frozen=True)
class Setting:
    """A strategy as a request names it."""

    strategy: str
    parameters: dict[str, Any] = field(default_factory=dict[str, Any])
    verifier: str = "by_length"


SETTINGS = {
    **{name: Setting(name) for name in STRATEGIES},
    "majority_vote in rounds": Setting("majority_vote", {"mode": "rounds", "first": 2, "n": 9}),
    "majority_vote, certain": Setting("majority_vote", {"confidence": 1, "n": 5}),
    "best_of_n argmax": Setting("best_of_n", {"select": "argmax", "n": 5}),
    "revision of three chains": Setting("revision", {"chains": 3, "rounds": 2}),
    "beam_search ahead": Setting("beam_search", {"lookahead": 2, "beams": 6, "width": 3, "step_tokens": 9}),
    "dvts of three": Setting("dvts", {"beams": 6, "width": 2, "step_tokens": 24}),
    "particle_filter, always resampled": Setting("particle_filter", {"threshold": 1, "step_tokens": 24}),
    "auto of two probes": Setting("auto", {"probes": 2, "n": 32, "confidence": 1}),
    **{
        f"{name} by {verifier}": Setting(name, {}, verifier)
        for name in ("best_of_n", "beam_search")
        for verifier in ("judge", "confidence", "agreement", "prm")
    },
    "revision by judge": Setting("revision", {"chains": 2}, "judge"),
    "auto by prm": Setting("auto", {}, "prm"),
    "particle_filter by confidence": Setting("particle_filter", {}, "confidence"),
}


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


VERIFIERS: dict[str, Any] = {**verifiers(), "by_length": ByLength}


class Opinionated(ScriptedEngine):
    """Judges too: likes short answers, in the one token it is asked for."""

    async def generate(self, prompt: Prompt, sampling: Sampling, transcript: Transcript) -> AsyncGenerator[Delta]:
        if sampling.logprobs is None:
            async with aclosing(super().generate(prompt, sampling, transcript)) as stream:
                async for delta in stream:
                    yield delta
            return
        call = self.calls
        self.calls += 1
        transcript.read(self.length(prompt), 0)
        transcript.close_thought()
        try:
            await asyncio.sleep(self.delay)
            if self.fail_at == call:
                raise EngineError(f"the engine died over {MARKER}")
            self.produced += 1
            no = TokenLogprob("No", b"No", -len(question(prompt)) / 1000)
            transcript.say([ord("y")], "Yes", tokens=[TokenLogprob("Yes", b"Yes", -0.5, (no,))])
            yield Delta("Yes")
        finally:
            transcript.end("length", Hidden(""))


class Case:
    """One request of one strategy on a scripted engine, and all that can be seen of it from outside."""

    def __init__(
        self,
        setting: Setting,
        budget: Budget,
        engine: ScriptedEngine,
        *,
        timeout: float | None = None,
        rewards: ScriptedRewards | None = None,
    ) -> None:
        self.engine = engine
        self.spending = Spending(budget)
        self.streamed: list[str] = []
        self.stop_signal = StopSignal()
        self.rewards = rewards or ScriptedRewards(lambda line: min(1.0, len(line) / 30))
        self.plan = Plan(
            prompt=Prompt((Message("user", "What is three and four?"),)),
            strategy=Selection(setting.strategy, STRATEGIES[setting.strategy](**setting.parameters)),
            budget=budget,
            sampling=Sampling(thinking=0, answer=0, seed=1, likelihood=setting.verifier == "confidence"),
            verifier=Selection(setting.verifier, VERIFIERS[setting.verifier]()),
            fallback=Selection("even", Even()),
            timeout=timeout,
        )

    async def hear(self, delta: Delta) -> None:
        self.streamed.append(delta.text)

    async def run(self) -> Outcome:
        card = self.engine.card
        resources = Resources(self.engine, Lengths(*card.typical_chain), self.rewards)
        return await execute(self.plan, resources, self.spending, self.hear, self.stop_signal)

    def check(self, outcome: Outcome | None) -> None:
        """Promises 1 to 4, whatever has happened."""
        spent, thinking = self.spending.spent, self.plan.budget.thinking
        assert spent.hidden <= thinking
        assert self.spending.held == 0
        assert not self.spending.overdrawn
        assert self.spending.generated == self.engine.produced
        assert self.engine.running == 0
        assert self.spending.verifier == self.rewards.read
        if outcome is not None:
            assert outcome.spent == spent
            assert outcome.answer.text
            assert "".join(self.streamed) == outcome.answer.text
            assert spent.visible <= self.plan.budget.answer
            if self.plan.budget.total is not None:
                assert spent.generated <= self.plan.budget.total
            assert MARKER not in f"{outcome!r} {outcome}"
        kept = self.spending.reservations
        assert MARKER not in f"{self.streamed} {kept!r} {spent!r} {[vars(one) for one in kept]}"


@pytest.fixture(params=SETTINGS)
def setting(request: pytest.FixtureRequest) -> Setting:
    return SETTINGS[request.param]


@pytest.mark.parametrize("thinking", BUDGETS)
def test_the_budget_holds_and_there_is_an_answer(setting: Setting, thinking: int) -> None:
    for answer, total in ((100, None), (3, None), (100, thinking + 2)):
        engine = Opinionated(always(*CHAINS))
        case = Case(setting, Budget(thinking, answer, total), engine)
        case.check(asyncio.run(case.run()))


@pytest.mark.parametrize("thinking", [0, 20, 200, 2000])
def test_a_model_that_never_stops_is_held_too(setting: Setting, thinking: int) -> None:
    engine = Opinionated(always(Chain(MARKER * 1000, "seven" * 1000), Chain("", "7" * 5000)))
    case = Case(setting, Budget(thinking, 50), engine)
    outcome = asyncio.run(case.run())
    case.check(outcome)
    assert not outcome.complete


def test_cancelled_at_any_moment_nothing_runs_on_and_every_token_is_counted(setting: Setting) -> None:
    async def cancelled_after(turns: int) -> bool:
        case = Case(setting, Budget(700, 50), Opinionated(always(*CHAINS), tail=3))
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
def test_cut_short_it_answers_with_its_best_so_far(setting: Setting, reason: str) -> None:
    slow = [Chain(chain.thought.replace("\n", " ") * 200, chain.answer) for chain in CHAINS]

    async def cut(script: list[Chain]) -> Outcome:
        engine = Opinionated(always(*script), delay=0.01, tail=2)
        case = Case(setting, Budget(500_000, 50), engine, timeout=10 if reason == "deadline" else 600)
        if reason == "draining":
            asyncio.get_running_loop().call_later(2, case.stop_signal.set, "draining")
        outcome = await case.run()
        case.check(outcome)
        return outcome

    async def both() -> tuple[Outcome, Outcome]:
        async with asyncio.TaskGroup() as group:
            tasks = group.create_task(cut(slow)), group.create_task(cut([CHAINS[0], *slow]))
        return tasks[0].result(), tasks[1].result()

    # A busy machine is as fast as an idle one there.
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        nothing_yet, one_so_far = runner.run(both())
    assert nothing_yet.stopped_by == reason
    assert nothing_yet.complete
    assert one_so_far.complete


def test_an_engine_that_fails_at_any_call_ends_in_an_answer_or_one_error(
    setting: Setting, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    whole = Case(setting, Budget(700, 50), Opinionated(always(*CHAINS)))
    asyncio.run(whole.run())
    for call in range(whole.engine.calls):
        case = Case(setting, Budget(700, 50), Opinionated(always(*CHAINS), fail_at=call, tail=1))
        try:
            outcome = asyncio.run(case.run())
        except EngineError:
            outcome = None
        case.check(outcome)
        if outcome is not None:
            assert outcome.complete
    assert MARKER not in caplog.text


def test_a_reward_model_that_fails_is_replaced_and_said_so(setting: Setting) -> None:
    rewards = ScriptedRewards(lambda line: 1.0, fails=True)
    case = Case(setting, Budget(700, 50), Opinionated(always(*CHAINS)), rewards=rewards)
    outcome = asyncio.run(case.run())
    case.check(outcome)
    if setting.verifier in ("by_length", "prm"):
        assert outcome.degraded == (rewards.calls > 0)


def test_the_same_seed_gives_the_same_outcome(setting: Setting) -> None:
    def outcome() -> tuple[object, ...]:
        case = Case(setting, Budget(700, 50), Opinionated(always(*CHAINS), seeded=True))
        out = asyncio.run(case.run())
        return out.answer, out.spent, out.complete, out.stopped_by

    assert outcome() == outcome()
