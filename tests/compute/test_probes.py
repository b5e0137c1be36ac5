"""A strategy looks at its chains while they are written, and asks them what they would answer now."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest

from ponder.compute.budget import Budget, Spending
from ponder.compute.engine import Delta, Grammar, Sampling
from ponder.compute.execute import execute
from ponder.compute.lengths import Lengths
from ponder.compute.outcome import Outcome
from ponder.compute.plan import Plan
from ponder.compute.resources import Resources
from ponder.compute.run import ReadCalls, Run, Selection, Strategy
from ponder.compute.slots import Slots
from ponder.compute.text import Candidate, Message, Prompt
from ponder.testing import Chain, Promise, ScriptedEngine, always, in_virtual_time
from ponder.testing.case import CHAINS, Case, Setting
from ponder.testing.promises import promises
from ponder.testing.scripted import JudgingEngine

PROMPT = Prompt((Message("user", "How many?"),))
LONG = Chain("a" * 100, "The answer is 7.")
ANSWER = len(LONG.answer)


@dataclass
class Asked:
    """One request and what came of it."""

    outcome: Outcome
    spending: Spending
    engine: ScriptedEngine

    def of(self, purpose: str) -> list[tuple[int | None, int]]:
        """(parent, tokens) of the calls for this purpose."""
        return [(one.parent, one.tokens) for one in self.spending.reservations if one.purpose == purpose]


def ask(
    strategy: Strategy,
    engine: ScriptedEngine | None = None,
    budget: Budget = Budget(6000, 100),  # noqa: B008 (frozen)
    *,
    called: ReadCalls | None = None,
    slots: Slots | None = None,
    **sampling: Any,
) -> Asked:
    engine = engine or ScriptedEngine(always(LONG), delay=1.0)

    async def deaf(_: Delta) -> None:
        return

    plan = Plan(PROMPT, Selection("watching", strategy), budget, Sampling(0, 0, **sampling), called=called)
    spending = Spending(budget)
    resources = Resources(engine, known(), writing=None if slots is None else slots.share("them"))
    outcome = in_virtual_time(execute(plan, resources, spending, deaf))
    assert spending.generated == engine.produced
    assert not spending.held
    assert not spending.overdrawn
    assert engine.running == 0
    return Asked(outcome, spending, engine)


def known() -> Lengths:
    """Of a model whose chains were seen."""
    lengths = Lengths(100, 150, ANSWER)
    for _ in range(64):
        lengths.saw(101 + ANSWER, ANSWER)
    return lengths


class Watching:
    """A strategy that looks at its chains, two side by side of six, every so many tokens, and does what it is told to.
    Two are enough."""

    def __init__(self, every: int, look: Callable[[Run, Sequence[Candidate]], Any]) -> None:
        self.every, self.look = every, look

    async def __call__(self, run: Run) -> Candidate:
        finished: list[Candidate] = []
        async with run.sampling(6, at_once=lambda: 2 - len(finished), sharing=lambda: 6) as arriving:
            async for one in arriving.watched(self.every):
                if one is not None:
                    finished.append(one)
                elif (found := await self.look(run, arriving.running)) is not None:
                    finished.append(found)
        return (await run.vote(finished)).leader


def lengths(seen: list[tuple[int, ...]]) -> Callable[[Run, Sequence[Candidate]], Any]:
    async def look(_: Run, running: Sequence[Candidate]) -> None:
        seen.append(tuple(one.tokens for one in running))

    return look


def test_running_chains_are_looked_at_whenever_they_have_grown_by_so_many_tokens() -> None:
    seen: list[tuple[int, ...]] = []
    ask(Watching(30, lengths(seen)))
    assert seen == [(30, 30), (60, 60), (90, 90)]


def test_a_look_tells_which_chain_it_is_and_how_likely_its_tokens_were() -> None:
    likely: list[tuple[int, int]] = []

    async def look(_: Run, running: Sequence[Candidate]) -> None:
        likely.extend((one.number, len(one.likelihood.unseal())) for one in running)

    ask(Watching(40, look), likelihood=True)
    assert likely == [(0, 40), (1, 40), (0, 80), (1, 80)]


def test_looks_that_come_while_the_strategy_is_busy_are_one() -> None:
    seen: list[tuple[int, ...]] = []

    async def look(_: Run, running: Sequence[Candidate]) -> None:
        seen.append(tuple(one.tokens for one in running))
        await asyncio.sleep(75.5)

    ask(Watching(10, look))
    assert seen == [(10, 10), (85, 85)]


def test_with_a_seed_nobody_looks() -> None:
    seen: list[tuple[int, ...]] = []
    asked = ask(Watching(10, lengths(seen)), seed=1)
    assert not seen
    assert asked.outcome.samples == 2


def test_a_running_chain_that_is_dropped_leaves_its_tokens_and_its_place_to_another() -> None:
    class Dropping:
        async def __call__(self, run: Run) -> Candidate:
            finished: list[Candidate] = []
            async with run.sampling(3, at_once=lambda: 2) as arriving:
                async for one in arriving.watched(20):
                    if one is not None:
                        finished.append(one)
                    elif not arriving.lost:
                        free = run.free
                        arriving.drop(arriving.running[0])
                        await asyncio.sleep(0.5)
                        assert run.free > free
                assert arriving.lost == {0}
                assert list(arriving.begun) == [0, 1, 2]
            assert [one.number for one in finished] == [1, 2]
            return (await run.vote(finished)).leader

    asked = ask(Dropping())
    assert asked.of("sample") == [(None, 20), (None, 101 + ANSWER), (None, 101 + ANSWER)]
    assert asked.outcome.stopped_by == "finished"


def test_a_chain_that_is_dropped_twice_is_lost_once() -> None:
    class Dropping:
        async def __call__(self, run: Run) -> Candidate:
            finished: list[Candidate] = []
            async with run.sampling(3) as arriving:
                async for one in arriving.watched(20):
                    if one is not None:
                        finished.append(one)
                    elif not arriving.lost:
                        first = arriving.running[0]
                        arriving.drop(first)
                        arriving.drop(first)
            assert [one.number for one in finished] == [1, 2]
            return (await run.vote(finished)).leader

    assert ask(Dropping()).outcome.samples == 2


def test_where_all_chains_are_dropped_nothing_arrives() -> None:
    class Dropping:
        async def __call__(self, run: Run) -> Candidate:
            async with run.sampling(2) as arriving:
                async for one in arriving.watched(20):
                    assert one is None
                    for chain in arriving.running:
                        arriving.drop(chain)
            return await run.stream()

    assert ask(Dropping()).outcome.answer.text == LONG.answer


async def probe_all(run: Run, running: Sequence[Candidate]) -> None:
    found = await run.probe(running)
    assert all(one.text == LONG.answer and one.forced and one.complete for one in found)


def test_a_probe_says_what_a_chain_would_answer_now_and_the_chain_goes_on() -> None:
    asked = ask(Watching(60, probe_all))
    assert asked.of("probe") == [(0, ANSWER), (1, ANSWER)]
    assert asked.of("sample") == [(None, 101 + ANSWER)] * 2
    assert asked.outcome.answer.text == LONG.answer
    assert asked.outcome.samples == 2
    assert asked.outcome.spent.hidden == 2 * 101 + 3 * ANSWER


def test_a_probe_does_not_make_its_chain_wait() -> None:
    async def took(look: Callable[[Run, Sequence[Candidate]], Any]) -> float:
        loop = asyncio.get_running_loop()
        begun = loop.time()
        engine = ScriptedEngine(always(LONG), delay=1.0)
        plan = Plan(PROMPT, Selection("watching", Watching(30, look)), Budget(6000, 100), Sampling(0, 0))

        async def deaf(_: Delta) -> None:
            return

        await execute(plan, Resources(engine, known()), Spending(plan.budget), deaf)
        return loop.time() - begun

    assert in_virtual_time(took(probe_all)) == in_virtual_time(took(lengths([]))) == 101 + ANSWER


def test_a_probe_that_cannot_be_paid_is_not_made() -> None:
    for left, probes in ((0, 0), (ANSWER - 1, 0), (ANSWER, 1), (2 * ANSWER - 1, 1), (2 * ANSWER, 2)):

        async def look(run: Run, running: Sequence[Candidate], left: int = left, probes: int = probes) -> None:
            spare = run.free - left
            with run._spending.reserve("ballast", thinking=spare, answer=0):  # pyright: ignore[reportPrivateUsage]
                assert len(await run.probe(running)) == probes

        asked = ask(Watching(60, look))
        assert len(asked.of("probe")) == probes, left


def test_a_probe_waits_for_no_slot_of_the_model() -> None:
    asked = ask(Watching(60, probe_all), slots=Slots(2, 100.0))
    assert not asked.of("probe")
    assert asked.outcome.samples == 2
    asked = ask(Watching(60, probe_all), slots=Slots(3, 100.0))
    assert asked.of("probe") == [(0, ANSWER)]


def test_what_shapes_the_answer_is_not_probed() -> None:
    def called(text: str, complete: bool) -> None:
        return

    for asked in (ask(Watching(60, probe_all), grammar=Grammar()), ask(Watching(60, probe_all), called=called)):
        assert not asked.of("probe")
        assert asked.outcome.samples == 2


def test_an_answer_that_has_begun_is_not_probed() -> None:
    asked = ask(Watching(105, probe_all))
    assert not asked.of("probe")


def test_a_probe_is_no_answer_and_has_no_vote() -> None:
    async def votes(run: Run, running: Sequence[Candidate]) -> None:
        found = await run.probe(running)
        run.offer(found[0])
        with pytest.raises(ValueError, match="no vote"):
            await run.vote([*found])
        assert await run.groups([*found]) == [0, 0]

    asked = ask(Watching(60, votes))
    assert asked.outcome.samples == 2
    assert asked.outcome.agreement == 1.0

    class Winning:
        async def __call__(self, run: Run) -> Candidate:
            (beam,) = await run.extend([run.blank], until=20)
            (found,) = await run.probe([beam])
            return found

    with pytest.raises(TypeError, match="no candidate of its run"):
        ask(Winning())


def test_probes_of_beams_repeat_with_their_seed() -> None:
    def script(prompt: Prompt, thought: str, call: int) -> Chain:
        return Chain(thought + "b" * 40, f"The answer is {call % 97}.")

    async def searching(run: Run) -> Candidate:
        beams = await run.extend([run.blank], 3, until=20)
        found = await run.probe(beams)
        assert len(found) == 3
        told.append([one.text for one in found])
        return (await run.extend(beams[:1]))[0]

    class Search:
        async def __call__(self, run: Run) -> Candidate:
            return await searching(run)

    told: list[list[str]] = []
    for _ in range(2):
        ask(Search(), ScriptedEngine(script, delay=1.0, seeded=True), Budget(3000, 100), seed=5)
    assert told[0] == told[1]
    assert len(set(told[0])) > 1


@dataclass(frozen=True)
class Probing:
    """Looks at its chains, asks them, and stops where all that are asked agree with the first that has finished."""

    n: int = 12
    abreast: int = 3
    every: int = 9

    async def __call__(self, run: Run) -> Candidate:
        if run.chains(2) < 2:
            return await run.stream()
        finished: list[Candidate] = []
        async with run.sampling(self.n, at_once=lambda: self.abreast, sharing=lambda: self.n) as arriving:
            async for one in arriving.watched(self.every):
                if one is not None:
                    finished.append(one)
                found = await run.probe(arriving.running)
                groups = await run.groups([*finished, *found])
                if len(finished) > 2 and found and set(groups) == {0}:
                    break
        return (await run.vote(finished)).leader


@pytest.mark.parametrize("promise", promises(Setting(Probing, seed=None)), ids=str)
def test_a_strategy_that_probes_keeps(promise: Promise) -> None:
    promise.check()


def test_the_strategy_of_the_promises_does_probe() -> None:
    case = Case(Setting(Probing, seed=None), Budget(700, 50), JudgingEngine(always(*CHAINS)))
    asyncio.run(case.run())
    assert sum(one.purpose == "probe" for one in case.spending.reservations) > 2
