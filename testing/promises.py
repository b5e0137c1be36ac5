"""The promises of a strategy as checks, under every budget and however it is cut short.

1. Hidden tokens stay within the thinking budget, visible ones within the answer's, and nothing stays reserved.
2. Tokens the engine produced equal tokens counted.
3. After an end of any kind the engine runs none of its streams.
4. No thought is found in what comes out: answer, stream, trace, log.
5. Cut short by budget, deadline or drain, a run still answers.
6. The same seed gives the same outcome.
7. A chain whose end was not seen, because its model went away, is no answer and has no vote; the others go on.
8. A summary of the thought is paid from the budget, is no passage of it, and changes nothing of a seeded answer.
9. Where the request says what it may cost, it costs no more, whatever the prices are and however it ends.

A run keeps most of these for any strategy. A strategy can break the rest: it must answer, depend on nothing but its
seed, and let cancellation and the errors of the engine pass. The same is checked of a verifier, as strategies use it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial

from ponder.compute.budget import Budget
from ponder.compute.cost import CostLimit
from ponder.compute.errors import EngineError, Lost
from ponder.compute.groups import TaskGroup
from ponder.compute.outcome import Outcome
from ponder.compute.run import Run, Strategy, Verifier
from ponder.compute.text import Candidate, Prompt, Score
from ponder.strategies import STRATEGIES
from ponder.testing.case import CHAINS, ByLength, Case, Setting, name_of
from ponder.testing.require import promised, require
from ponder.testing.scripted import MARKER, Chain, JudgingEngine, ScriptedRewards, always, question
from ponder.testing.virtual_time import in_virtual_time

BUDGETS = (0, 1, 2, 3, 5, 8, 13, 21, 34, 55, 89, 144, 233, 377, 610, 987, 5000)
"""Thinking budgets in tokens, from none to plenty."""

CHAIN_PURPOSES = ("sample", "stream", "extend", "answer")
"""Of calls that answer the caller; the others are a verifier's."""

PRICES = ((4, 1, 3), (1, 5, 1), (0, 2, 7))
"""Of a hidden token, a visible one and one that a reward model reads."""

AMOUNTS = (3, 90, 600)
"""What a request may cost beside its answer, in the price of its dearest token."""

ENOUGH = 700
"""A thinking budget, in tokens, that feeds about a dozen of the chains."""


@dataclass(frozen=True)
class Promise:
    """One promise of one setting, to be checked by itself."""

    name: str
    """What is promised, in words."""
    setting: Setting
    holds: Callable[[Setting], None] = field(repr=False)

    def __str__(self) -> str:
        return self.name

    def check(self) -> None:
        """Raises `AssertionError`, which says what was promised, by whom, and what came instead."""
        with promised(str(self.setting), self.name):
            try:
                self.holds(self.setting)
            except AssertionError:
                raise
            except Exception as failed:
                raise AssertionError(f"it raised {failed!r}") from failed


def promises(setting: Setting) -> list[Promise]:
    """All promises of a setting, each a check of its own."""
    found = [
        Promise(f"the budget holds and there is an answer, thinking_budget {n}", setting, partial(_budget, thinking=n))
        for n in BUDGETS
    ]
    found += [
        Promise(f"a model that never stops is held, thinking_budget {n}", setting, partial(_endless, thinking=n))
        for n in (0, 20, 200, 2000)
    ]
    found += [
        Promise("cancelled at any moment, nothing runs on and every token is counted", setting, _cancelled),
        Promise("cut short by the deadline, it answers with its best", setting, partial(_cut, reason="deadline")),
        Promise("cut short by a drain, it answers with its best", setting, partial(_cut, reason="draining")),
        Promise("an engine that fails at any call ends in an answer or one error", setting, _engine_fails),
        Promise("a chain that is lost is no answer and has no vote, and the others go on", setting, _lost),
        Promise("a reward model that fails is replaced, and that is said", setting, _rewards_fail),
        Promise("it costs no more than it may", setting, _cost),
        Promise("it costs no more than it may, where a model fails or goes away", setting, _cost_of_failures),
        Promise("the same seed gives the same outcome", setting, _same_seed),
        Promise("a summary is paid, tells no thought and changes no answer", setting, _summary),
    ]
    return found


def strategy_promises(
    strategy: Callable[[], Strategy], *, verifier: Callable[[], Verifier] = ByLength, name: str = ""
) -> list[Promise]:
    """The promises of a strategy, for `pytest.mark.parametrize("promise", strategy_promises(Mine), ids=str)`.

    `strategy` and `verifier` make one, without arguments: a class, or a `functools.partial`. `name` stands in the
    `AssertionError`.
    """
    return promises(Setting(strategy, verifier, name))


def check_strategy(
    strategy: Callable[[], Strategy], *, verifier: Callable[[], Verifier] = ByLength, name: str = ""
) -> None:
    """Checks all promises of a strategy; takes about two seconds. Raises `AssertionError` for the first one broken."""
    for promise in strategy_promises(strategy, verifier=verifier, name=name):
        promise.check()


def verifier_promises(verifier: Callable[[], Verifier], *, name: str = "") -> list[Promise]:
    """The promises of a verifier: it judges each candidate in [0, 1], and the strategies that use it keep theirs.

    `verifier` makes one, without arguments: a class, or a `functools.partial`. `name` stands in the `AssertionError`.
    """
    name = name or name_of(verifier)
    settings = [Setting(STRATEGIES[by], verifier, f"{by} with {name}") for by in ("best_of_n", "beam_search")]
    return [
        Promise("it judges each candidate", Setting(_Asking, verifier, name), _judges),
        *(
            Promise(f"{by}: {promise}", promise.setting, promise.holds)
            for by, setting in zip(("best_of_n", "beam_search"), settings, strict=True)
            for promise in promises(setting)
        ),
    ]


def check_verifier(verifier: Callable[[], Verifier], *, name: str = "") -> None:
    """Checks all promises of a verifier; takes about two seconds. Raises `AssertionError` for the first one broken."""
    for promise in verifier_promises(verifier, name=name):
        promise.check()


# -- the checks -------------------------------------------------------------------------------------------------------


def _budget(setting: Setting, thinking: int) -> None:
    for answer, total in ((100, None), (3, None), (100, thinking + 2)):
        case = Case(setting, Budget(thinking, answer, total), JudgingEngine(always(*CHAINS)))
        case.check(asyncio.run(case.run()))


def _endless(setting: Setting, thinking: int) -> None:
    engine = JudgingEngine(always(Chain(MARKER * 1000, "seven" * 1000), Chain("", "7" * 5000)))
    case = Case(setting, Budget(thinking, 50), engine)
    outcome = asyncio.run(case.run())
    case.check(outcome)
    require(not outcome.complete, "an answer that was cut is said to be complete")


def _cancelled(setting: Setting) -> None:
    async def cancelled_after(turns: int) -> bool:
        budget = Budget(ENOUGH, 50, cost=CostLimit(1, 1, 1, ENOUGH))
        case = Case(setting, budget, JudgingEngine(always(*CHAINS), tail=3))
        async with TaskGroup() as group:
            task = group.create_task(case.run())
            for _ in range(turns):
                await asyncio.sleep(0)
                if task.done():
                    break
            finished = task.done()
            task.cancel()
        case.check(None if task.cancelled() else task.result())
        return finished

    async def until_it_is_done() -> int:
        turns = 0
        while not await cancelled_after(turns):
            turns = turns * 5 // 4 + 1
        return turns

    turns = asyncio.run(until_it_is_done())
    require(turns > 10, f"it was done after {turns} turns of the loop: no model writes a chain in so few")


def _cut(setting: Setting, reason: str) -> None:
    slow = [Chain(chain.thought.replace("\n", " ") * 200, chain.answer) for chain in CHAINS]

    async def cut(script: list[Chain]) -> Outcome:
        engine = JudgingEngine(always(*script), delay=0.01, tail=2)
        case = Case(setting, Budget(500_000, 50), engine, timeout=10 if reason == "deadline" else 600)
        if reason == "draining":
            asyncio.get_running_loop().call_later(2, case.stop_signal.set, "draining")
        outcome = await case.run()
        case.check(outcome)
        return outcome

    async def both() -> tuple[Outcome, Outcome]:
        async with TaskGroup() as group:
            tasks = group.create_task(cut(slow)), group.create_task(cut([CHAINS[0], *slow]))
        return tasks[0].result(), tasks[1].result()

    nothing_yet, one_so_far = in_virtual_time(both())
    stopped = nothing_yet.stopped_by
    require(stopped == reason, f"stopped_by is {stopped!r}, where it was stopped by {reason!r}")
    require(nothing_yet.complete, "cut short within its first chain, its answer is not complete")
    require(one_so_far.complete, "cut short with a whole chain at hand, its answer is not complete")


def _engine_fails(setting: Setting) -> None:
    whole = Case(setting, Budget(ENOUGH, 50), JudgingEngine(always(*CHAINS)))
    logged = _Logged()
    root, level = logging.getLogger(), logging.getLogger().level
    root.addHandler(logged)
    root.setLevel(logging.DEBUG)
    try:
        asyncio.run(whole.run())
        for call in range(whole.engine.calls):
            case = Case(setting, Budget(ENOUGH, 50), JudgingEngine(always(*CHAINS), fail_at=call, tail=1))
            try:
                outcome = asyncio.run(case.run())
            except EngineError:
                outcome = None
            case.check(outcome)
            if outcome is not None:
                require(outcome.complete, f"the engine failed at call {call}, and half an answer was given")
    finally:
        root.setLevel(level)
        root.removeHandler(logged)
    require(not logged.thought, "a thought was logged")


def _lost(setting: Setting) -> None:
    whole = Case(setting, Budget(ENOUGH, 50), JudgingEngine(always(*CHAINS)))
    asyncio.run(whole.run())
    for call in range(whole.engine.calls):
        # The model goes away in one call; in this and all that follow.
        for vanish_at in ({call: 10 * (call % 3)}, dict.fromkeys(range(call, call + 1000), 10)):
            case = Case(setting, Budget(ENOUGH, 50), JudgingEngine(always(*CHAINS), vanish_at=vanish_at))
            try:
                outcome = asyncio.run(case.run())
            except Lost:
                outcome = None
            case.check(outcome)
            chains = [one for one in case.spending.reservations if one.purpose in CHAIN_PURPOSES]
            require(all(one.answer_group is None for one in chains if one.ending == "lost"), "a lost chain has voted")
            if outcome is None:
                finished = [one for one in chains if one.ending in ("finished", "stop")]
                # Behind text of one chain the caller cannot be given another.
                require(
                    not finished or bool(case.streamed),
                    f"the model went away at call {call}, and a whole chain was not given",
                )
            else:
                require(outcome.complete, f"the model went away at call {call}, and half an answer was given")


def _rewards_fail(setting: Setting) -> None:
    rewards = ScriptedRewards(lambda line: 1.0, fails=True)
    case = Case(setting, Budget(ENOUGH, 50), JudgingEngine(always(*CHAINS)), rewards=rewards)
    outcome = asyncio.run(case.run())
    case.check(outcome)
    if setting.asks_reward_model:
        asked = rewards.calls > 0
        require(outcome.degraded == asked, f"degraded is {outcome.degraded}, where the reward model was asked: {asked}")


def _cost(setting: Setting) -> None:
    for cost in _costs():
        case = Case(setting, Budget(ENOUGH, 50, cost=cost), JudgingEngine(always(*CHAINS)))
        case.check(asyncio.run(case.run()))
        engine = JudgingEngine(always(Chain(MARKER * 1000, "seven" * 1000), Chain("", "7" * 5000)))
        case = Case(setting, Budget(ENOUGH, 50, cost=cost), engine)
        outcome = asyncio.run(case.run())
        case.check(outcome)
        require(not outcome.complete, "an answer that was cut is said to be complete")


def _cost_of_failures(setting: Setting) -> None:
    for cost in _costs()[1::3]:
        budget = Budget(ENOUGH, 50, cost=cost)
        whole = Case(setting, budget, JudgingEngine(always(*CHAINS)))
        asyncio.run(whole.run())
        for call in {0, 1, whole.engine.calls - 1}:
            for failing in (
                JudgingEngine(always(*CHAINS), fail_at=call, tail=1),
                JudgingEngine(always(*CHAINS), vanish_at={call: 10 * (call % 3)}, tail=2),
            ):
                case = Case(setting, budget, failing)
                try:
                    outcome = asyncio.run(case.run())
                except EngineError:
                    outcome = None
                case.check(outcome)


def _costs() -> list[CostLimit]:
    return [
        CostLimit(hidden, visible, verifier, amount * max(hidden, visible), judging=amount * bool(verifier) // 3)
        for hidden, visible, verifier in PRICES
        for amount in AMOUNTS
    ]


def _same_seed(setting: Setting) -> None:
    def once(cost: CostLimit | None) -> tuple[object, ...]:
        case = Case(
            replace(setting, seed=setting.seed or 1),
            Budget(ENOUGH, 50, cost=cost),
            JudgingEngine(always(*CHAINS), seeded=True),
        )
        out = asyncio.run(case.run())
        return out.answer, out.spent, out.complete, out.stopped_by

    for cost in (None, CostLimit(4, 5, 1, 1500), CostLimit(4, 5, 3, 2500, judging=800)):
        first, again = once(cost), once(cost)
        require(first == again, f"with seed 1 it came to {first}, and then to {again}")


def _summary(setting: Setting) -> None:
    """Of a model that copies its thought where it is asked for a summary of it."""
    chains = always(*CHAINS)

    def script(prompt: Prompt, thought: str, call: int) -> Chain:
        asked = question(prompt)
        return Chain("", asked) if "<reasoning " in asked else chains(prompt, thought, call)

    def once(thinking: int, *, wanted: bool, seed: int | None = 1) -> Outcome:
        case = Case(setting, Budget(thinking, 50), JudgingEngine(script, seeded=True))
        length = "detailed" if wanted else None
        case.plan = replace(case.plan, summary=length, sampling=replace(case.plan.sampling, seed=seed))
        outcome = asyncio.run(case.run())
        case.check(outcome)
        said = outcome.summary is not None
        require(said == wanted, f"of a summary something is said: {said}, where one was wanted: {wanted}")
        return outcome

    for thinking in BUDGETS[::4]:
        plain, asked = once(thinking, wanted=False), once(thinking, wanted=True)
        same = (plain.answer, plain.stopped_by) == (asked.answer, asked.stopped_by)
        require(same, f"with seed 1 and a summary it came to {asked}, and without to {plain}")
        once(thinking, wanted=True, seed=None)


def _judges(setting: Setting) -> None:
    """Candidates that are whole, empty, long, and not in ASCII."""
    odd = (Chain("", "7"), Chain("short\n", ""), Chain("long\n" * 200, "It is ≈7. " * 30), Chain("é\n\n", "同"))
    case = Case(setting, Budget(5000, 500), JudgingEngine(always(*odd, *CHAINS)))
    asking = case.plan.strategy.call
    outcome = asyncio.run(case.run())
    case.check(outcome)
    require(not outcome.degraded, f"{setting} failed to judge, and the fallback did in its place")
    scores: list[Score] = getattr(asking, "scores", [])
    require(bool(scores), "no candidate was judged")
    for score in scores:
        require(all(0 <= one <= 1 for one in (score.value, *score.steps)), f"a score lies outside of [0, 1]: {score}")


@dataclass
class _Asking:
    """A strategy that has nine chains judged, and answers with the first."""

    scores: list[Score] = field(default_factory=list[Score])

    async def __call__(self, run: Run) -> Candidate:
        candidates = await run.sample(9)
        self.scores.extend(await run.score(candidates))
        return next(candidate for candidate in candidates if candidate.text)


# -- what they are made of --------------------------------------------------------------------------------------------


class _Logged(logging.Handler):
    """Whether a thought was logged."""

    thought = False

    def emit(self, record: logging.LogRecord) -> None:
        self.thought = self.thought or MARKER in self.format(record)
