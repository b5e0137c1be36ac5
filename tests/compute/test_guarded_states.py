"""What a strategy or verifier of anybody's may do wrong, in any order: the budget holds and one answer is given."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from math import inf, nan
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ponder.compute.budget import Budget, Spending
from ponder.compute.engine import Delta, Sampling
from ponder.compute.errors import EngineError, PonderError
from ponder.compute.execute import execute
from ponder.compute.lengths import Lengths
from ponder.compute.outcome import Outcome
from ponder.compute.plan import Plan
from ponder.compute.resources import Resources
from ponder.compute.run import Run, Selection
from ponder.compute.stop import StopSignal
from ponder.compute.text import Candidate, Message, Prompt, Score
from ponder.testing import Chain, ScriptedEngine, always

PROMPT = Prompt((Message("user", "How many?"),))
OTHER = PROMPT.then(Message("user", "Sure?"))


@dataclass
class Ran:
    """One run and what came of it."""

    engine: ScriptedEngine
    spending: Spending
    streamed: str
    outcome: Outcome | None
    error: BaseException | None


@dataclass(frozen=True)
class Given:
    """A strategy made of a function."""

    what: Callable[[Run], Awaitable[Any]]

    async def __call__(self, run: Run) -> Candidate:
        return await self.what(run)


@dataclass(frozen=True)
class Gives:
    """A verifier that gives this score."""

    value: float
    steps: tuple[float, ...] = ()

    async def __call__(self, run: Run, candidates: Sequence[Candidate]) -> Sequence[Score]:
        return [Score(self.value, self.steps) for _ in candidates]


def ran(
    strategy: Callable[[Run], Awaitable[Any]],
    engine: ScriptedEngine | None = None,
    budget: Budget | None = None,
    verifier: object = None,
    *,
    timeout: float | None = None,
    stop_signal: StopSignal | None = None,
    **sampling: Any,
) -> Ran:
    engine = engine or ScriptedEngine(always(Chain("so " * 10, "seven " * 8), Chain("or " * 20, "nine")))
    budget = budget or Budget(400, 100)
    streamed: list[str] = []

    async def hear(delta: Delta) -> None:
        streamed.append(delta.text)

    plan = Plan(
        PROMPT,
        Selection("given", Given(strategy)),
        budget,
        Sampling(0, 0, **sampling),
        verifier=Selection("judge", verifier or Gives(0.5)),  # pyright: ignore[reportArgumentType]
        fallback=Selection("even", Gives(0.5)),
        timeout=timeout,
    )
    spending = Spending(budget)
    outcome = error = None
    try:
        outcome = asyncio.run(execute(plan, Resources(engine, Lengths(20, 40, 10)), spending, hear, stop_signal))
    except Exception as failed:  # noqa: BLE001 - the tests say which is right
        error = failed
    assert spending.spent.hidden <= budget.thinking
    assert spending.held == 0
    assert not spending.overdrawn
    assert spending.generated == engine.produced
    assert engine.running == 0
    if outcome is not None:
        assert "".join(streamed) == outcome.answer.text
    return Ran(engine, spending, "".join(streamed), outcome, error)


# -- speaking ends the verbs ------------------------------------------------------------------------------------------


def test_what_was_spoken_is_the_answer_whatever_a_strategy_returns() -> None:
    async def returns_another(run: Run) -> Candidate:
        (sampled,) = await run.sample(1)
        await run.stream()
        return sampled

    engine = ScriptedEngine(always(Chain("so " * 20, "seven " * 3), Chain("or " * 10, "nine " * 8)))
    done = ran(returns_another, engine, Budget(100, 100))
    assert done.outcome is not None
    assert done.outcome.answer.text.startswith("nine")
    assert done.outcome.spent.hidden <= 100


@pytest.mark.parametrize("verb", ["sample", "extend", "ask", "score", "stream"])
def test_speaking_is_the_last_verb(verb: str) -> None:
    async def goes_on(run: Run) -> Candidate:
        streamed = await run.stream()
        match verb:
            case "sample":
                await run.sample(2)
            case "extend":
                await run.extend([run.blank], 2)
            case "ask":
                await run.ask(OTHER, "critique")
            case "score":
                await run.score([streamed])
            case _:
                await run.stream()
        return streamed

    done = ran(goes_on)
    assert isinstance(done.error, RuntimeError)
    assert "last verb" in str(done.error)


def test_nobody_speaks_while_others_are_written() -> None:
    async def both(run: Run) -> Candidate:
        async with asyncio.TaskGroup() as group:
            group.create_task(run.sample(3))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            await run.stream()
        raise AssertionError

    done = ran(both, budget=Budget(2000, 100))
    assert isinstance(done.error, RuntimeError)
    assert "while other chains" in str(done.error)


@pytest.mark.parametrize("returned", ["blank", "aside", "nothing", "of another run"])
def test_a_strategy_that_returns_no_chain_of_its_run_is_at_fault(returned: str) -> None:
    strays: list[Candidate] = []

    async def keeps(run: Run) -> Candidate:
        strays.extend(await run.sample(3))
        return strays[-1]

    async def returns(run: Run) -> object:
        match returned:
            case "blank":
                return run.blank
            case "aside":
                return await run.ask(OTHER, "critique")
            case "nothing":
                return None
            case _:
                return strays[-1]

    ran(keeps, budget=Budget(3000, 100))
    assert isinstance(ran(returns).error, TypeError)


Verb = Callable[[Run, list[Candidate]], Awaitable[None]]


async def _sample(run: Run, known: list[Candidate]) -> None:
    known += await run.sample(2)


async def _leave(run: Run, known: list[Candidate]) -> None:
    async with run.sampling(3) as arriving:
        async for candidate in arriving:
            known.append(candidate)
            break


async def _step(run: Run, known: list[Candidate]) -> None:
    known += await run.extend([*known[-1:], run.blank], 2, until=12)


async def _end(run: Run, known: list[Candidate]) -> None:
    known += await run.extend(known[-2:] or [run.blank])


async def _ask(run: Run, known: list[Candidate]) -> None:
    await run.ask(OTHER, "critique", thinking=5, answer=4)


async def _judge(run: Run, known: list[Candidate]) -> None:
    if known:
        await run.score(known)


async def _vote(run: Run, known: list[Candidate]) -> None:
    if known:
        await run.vote([*known, known[0]])


async def _offer(run: Run, known: list[Candidate]) -> None:
    if known:
        run.offer(known[-1])


async def _stream(run: Run, known: list[Candidate]) -> None:
    known.append(await run.stream())


VERBS: dict[str, Verb] = {
    "sample": _sample,
    "leave": _leave,
    "step": _step,
    "end": _end,
    "ask": _ask,
    "score": _judge,
    "vote": _vote,
    "offer": _offer,
    "stream": _stream,
}


@settings(max_examples=300)
@given(
    verbs=st.lists(st.sampled_from(sorted(VERBS)), min_size=1, max_size=6),
    thinking=st.integers(0, 400),
    answer=st.integers(1, 60),
    pick=st.integers(0, 20),
    seed=st.sampled_from([None, 5]),
    temperature=st.sampled_from([0.0, 1.0]),
)
def test_every_order_of_verbs_keeps_the_bound_and_tells_one_answer(
    verbs: list[str], thinking: int, answer: int, pick: int, seed: int | None, temperature: float
) -> None:
    async def walks(run: Run) -> object:
        known: list[Candidate] = []
        for verb in verbs:
            await VERBS[verb](run, known)
        return known[pick % len(known)] if known else None

    engine = ScriptedEngine(always(Chain("so\n" * 10, "seven " * 8), Chain("or\n" * 30, "nine"), Chain("", "7")))
    done = ran(walks, engine, Budget(thinking, answer), seed=seed, temperature=temperature)
    if done.outcome is None:
        assert isinstance(done.error, RuntimeError | TypeError | PonderError)
    else:
        assert done.outcome.spent.visible <= answer


# -- scores -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "steps"), [(nan, ()), (inf, ()), (-0.1, ()), (1.5, ()), (0.5, (0.5, nan)), (0.5, (2.0,))]
)
def test_a_score_that_is_no_number_between_0_and_1_is_refused_where_it_comes_from(
    value: float, steps: tuple[float, ...]
) -> None:
    async def scored(run: Run) -> Candidate:
        candidates = await run.sample(2)
        scores = await run.score(candidates)
        assert [score.value for score in scores] == [0.5, 0.5]
        return candidates[0]

    done = ran(scored, verifier=Gives(value, steps))
    assert done.outcome is not None
    assert done.outcome.degraded
    assert done.outcome.verifier == "even"


@dataclass(frozen=True)
class FailsInParallel:
    """A verifier that asks about all candidates at once, and whose service is away."""

    async def __call__(self, run: Run, candidates: Sequence[Candidate]) -> Sequence[Score]:
        async def asked() -> None:
            await asyncio.sleep(0)
            raise EngineError("the service is away")

        async with asyncio.TaskGroup() as asking:
            for _ in candidates:
                asking.create_task(asked())
        return []


def test_a_run_whose_verifier_failed_can_still_be_stopped() -> None:
    stop_signal = StopSignal()

    async def goes_on(run: Run) -> Candidate:
        await run.score(await run.sample(2))
        stop_signal.set()
        return (await run.sample(2))[0]

    done = ran(goes_on, verifier=FailsInParallel(), stop_signal=stop_signal)
    assert done.outcome is not None
    assert (done.outcome.stopped_by, done.outcome.degraded) == ("draining", True)


# -- time -------------------------------------------------------------------------------------------------------------


def test_a_plug_ins_own_timeout_is_not_the_deadline() -> None:
    async def gives_up(run: Run) -> Candidate:
        await run.sample(2)
        raise TimeoutError("some service of a plug-in's")

    done = ran(gives_up, timeout=60)
    assert isinstance(done.error, TimeoutError)


def test_a_leash_may_be_pulled_while_the_time_is_just_up() -> None:
    async def pulled() -> tuple[str | None, bool]:
        stop_signal = StopSignal()
        loop = asyncio.get_running_loop()
        try:
            async with stop_signal.scope(loop.time()):
                try:
                    await asyncio.Event().wait()
                finally:
                    # The time is up and the block is being left: a drain begins now.
                    stop_signal.set("draining")
        except TimeoutError:
            pass
        return stop_signal.reason, stop_signal.expired

    assert asyncio.run(pulled()) == ("draining", True)


def test_the_longest_half_written_chain_is_measured_whole() -> None:
    """One that was continued has most of its tokens from before."""

    async def cut_short(run: Run) -> Candidate:
        (long,) = await run.extend([run.blank], until=60)
        await run.extend([long], until=8)
        await run.extend([run.blank], until=12)
        raise TimeoutError

    engine = ScriptedEngine(always(Chain("long" * 40, "7")))
    stop_signal = StopSignal()

    async def pulls(run: Run) -> Candidate:
        try:
            return await cut_short(run)
        except TimeoutError:
            stop_signal.set("draining")
            await asyncio.Event().wait()
            raise

    done = ran(pulls, engine, Budget(400, 50), stop_signal=stop_signal)
    chosen = done.spending.line(done.spending.chosen)
    assert {0, 1} <= chosen
    assert 2 not in chosen


# -- votes ------------------------------------------------------------------------------------------------------------


def test_copies_of_one_chain_are_one_voter() -> None:
    async def copies(run: Run) -> Candidate:
        nine, *sevens = await run.sample(3)
        vote = await run.vote([nine, nine, nine, *sevens])
        assert sorted(vote.counts) == [1, 2]
        return vote.leader

    engine = ScriptedEngine(always(Chain("so", "The answer is 9."), Chain("or", "The answer is 7.")))
    chains = [Chain("so", "The answer is 9."), Chain("or", "The answer is 7."), Chain("and", "The answer is 7.")]
    engine.script = always(*chains)
    done = ran(copies, engine, Budget(3000, 100))
    assert done.outcome is not None
    assert "7" in done.outcome.answer.text


def test_a_chain_that_went_in_circles_joins_a_group_and_founds_none() -> None:
    async def votes(run: Run) -> Candidate:
        chains = await run.sample(4)
        circled = [replace(c, circled="9" in c.text or c is chains[0]) for c in chains]
        vote = await run.vote(circled)
        assert vote.counts == (2,)
        assert vote.candidates == 4
        return vote.leader

    texts = ["The answer is 7.", "The answer is 9.", "The answer is 7.", "The answer is 9."]
    done = ran(votes, ScriptedEngine(always(*(Chain("so", text) for text in texts))), Budget(4000, 100))
    assert done.outcome is not None
    assert "7" in done.outcome.answer.text
