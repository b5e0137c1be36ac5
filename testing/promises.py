"""The promises of a strategy as checks, under every budget and however it is cut short.

1. Hidden tokens stay within the thinking budget, visible ones within the answer's, and nothing stays reserved.
2. Tokens the engine produced equal tokens counted.
3. After an end of any kind the engine runs none of its streams.
4. No thought is found in what comes out: answer, stream, trace, log.
5. Cut short by budget, deadline or drain, a run still answers.
6. The same seed gives the same outcome.

A run keeps most of these for any strategy. A strategy can break the rest: it must answer, depend on nothing but its
seed, and let cancellation and the errors of the engine pass. The same is checked of a verifier, as strategies use it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

from ponder.compute.budget import Budget, Spending
from ponder.compute.engine import Delta, Sampling
from ponder.compute.errors import EngineError
from ponder.compute.execute import execute
from ponder.compute.lengths import Lengths
from ponder.compute.outcome import Outcome
from ponder.compute.plan import Plan
from ponder.compute.resources import Resources
from ponder.compute.run import Run, Selection, Strategy, Verifier
from ponder.compute.stop import StopSignal
from ponder.compute.text import Candidate, Message, Prompt, Score
from ponder.strategies import STRATEGIES
from ponder.testing.scripted import MARKER, Chain, JudgingEngine, ScriptedEngine, ScriptedRewards, always
from ponder.testing.virtual_time import in_virtual_time

ANSWERS = ("The answer is 7.", "The answer is 7.", "The answer is 9.", "I am not sure.", "The answer is 7.")
CHAINS = tuple(Chain(f"{MARKER} {i}\nthree and four\n{'and so on' * i}\n", a) for i, a in enumerate(ANSWERS))
"""What the scripted model of a check writes: chains of 30 to 70 tokens, most of which say 7."""

BUDGETS = (0, 1, 2, 3, 5, 8, 13, 21, 34, 55, 89, 144, 233, 377, 610, 987, 5000)
"""Thinking budgets in tokens, from none to plenty."""

ENOUGH = 700
"""A thinking budget, in tokens, that feeds about a dozen of the chains."""


@dataclass(frozen=True)
class ByLength:
    """A verifier whose score grows with the length of the answer. It asks the reward model about each candidate,
    too."""

    async def __call__(self, run: Run, candidates: Sequence[Candidate]) -> Sequence[Score]:
        await run.reward(candidates)
        return [Score(min(1.0, len(c.text) / 40)) for c in candidates]


@dataclass(frozen=True)
class Even:
    """A verifier that gives all candidates the same score: the fallback of a check."""

    async def __call__(self, run: Run, candidates: Sequence[Candidate]) -> Sequence[Score]:
        return [Score(0.5) for _ in candidates]


@dataclass(frozen=True)
class Setting:
    """A strategy and a verifier, as one request has them. Each run of a check makes both anew."""

    strategy: Callable[[], Strategy]
    """A class whose fields all have defaults, or `functools.partial(MyStrategy, n=4)`."""
    verifier: Callable[[], Verifier] = ByLength
    name: str = ""
    """Its name in an `AssertionError`; left out, that of the strategy's class."""
    asks_reward_model: bool | None = None
    """The verifier asks the reward model, so it cannot judge where that fails. None: not known."""

    def __str__(self) -> str:
        return self.name or _name(self.strategy)


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
        """`timeout` is in seconds of the loop's clock; None is no deadline."""
        self.engine = engine
        self.spending = Spending(budget)
        self.streamed: list[str] = []
        """The visible text as it was sent, piece by piece."""
        self.stop_signal = StopSignal()
        self.rewards = rewards or ScriptedRewards(lambda line: min(1.0, len(line) / 30))
        verifier = setting.verifier()
        self.plan = Plan(
            prompt=Prompt((Message("user", "What is three and four?"),)),
            strategy=Selection(str(setting), setting.strategy()),
            budget=budget,
            sampling=Sampling(
                thinking=0, answer=0, seed=1, likelihood=bool(getattr(verifier, "needs_likelihood", False))
            ),
            verifier=Selection(_name(setting.verifier), verifier),
            fallback=Selection("even", Even()),
            timeout=timeout,
        )

    async def on_delta(self, delta: Delta) -> None:
        self.streamed.append(delta.text)

    async def run(self) -> Outcome:
        """Runs the request to its end. Raises what `execute` raises."""
        card = self.engine.card
        resources = Resources(self.engine, Lengths(*card.typical_chain), self.rewards)
        return await execute(self.plan, resources, self.spending, self.on_delta, self.stop_signal)

    def check(self, outcome: Outcome | None) -> None:
        """Promises 1 to 4, whatever has happened; None for a run that ended in an error. Raises `AssertionError`."""
        spent, budget, kept = self.spending.spent, self.plan.budget, self.spending.reservations
        at_most("hidden tokens", spent.hidden, budget.thinking)
        _equal("tokens still reserved", self.spending.held, 0)
        require(not self.spending.overdrawn, "a call has used more than was reserved for it")
        _equal("tokens counted", self.spending.generated, self.engine.produced, "as many as the engine produced")
        _equal("streams of the engine still open", self.engine.running, 0)
        _equal("tokens counted for the verifier", self.spending.verifier, self.rewards.read, "what the model read")
        seen = f"{self.streamed} {kept!r} {spent!r} {[vars(one) for one in kept]}"
        require(MARKER not in seen, "a thought is in what was streamed or traced")
        if outcome is None:
            return
        require(outcome.spent == spent, "the outcome says other numbers than the spending")
        require(bool(outcome.answer.text), "the answer has no text")
        told = "".join(self.streamed) == outcome.answer.text
        require(told, "what was streamed is not the answer, once and in order")
        at_most("visible tokens", spent.visible, budget.answer)
        if budget.total is not None:
            at_most("tokens in all", spent.generated, budget.total)
        require(MARKER not in f"{outcome!r} {outcome}", "a thought is in the outcome")


@contextmanager
def promised(who: str, words: str | None) -> Generator[None]:
    """What is found broken inside is raised as a broken promise of `who`, with the promise in `words`."""
    try:
        yield
    except AssertionError as broken:
        promise = (words or "").strip().rstrip(".")
        raise AssertionError(f"{who} breaks a promise ({promise}): {broken}") from broken.__cause__


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
        Promise("a reward model that fails is replaced, and that is said", setting, _rewards_fail),
        Promise("the same seed gives the same outcome", setting, _same_seed),
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
    """Checks all promises of a strategy; takes about a second. Raises `AssertionError` for the first that is broken."""
    for promise in strategy_promises(strategy, verifier=verifier, name=name):
        promise.check()


def verifier_promises(verifier: Callable[[], Verifier], *, name: str = "") -> list[Promise]:
    """The promises of a verifier: it judges each candidate in [0, 1], and the strategies that use it keep theirs.

    `verifier` makes one, without arguments: a class, or a `functools.partial`. `name` stands in the `AssertionError`.
    """
    name = name or _name(verifier)
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
        case = Case(setting, Budget(ENOUGH, 50), JudgingEngine(always(*CHAINS), tail=3))
        async with asyncio.TaskGroup() as group:
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
        async with asyncio.TaskGroup() as group:
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


def _rewards_fail(setting: Setting) -> None:
    rewards = ScriptedRewards(lambda line: 1.0, fails=True)
    case = Case(setting, Budget(ENOUGH, 50), JudgingEngine(always(*CHAINS)), rewards=rewards)
    outcome = asyncio.run(case.run())
    case.check(outcome)
    if setting.asks_reward_model:
        asked = rewards.calls > 0
        require(outcome.degraded == asked, f"degraded is {outcome.degraded}, where the reward model was asked: {asked}")


def _same_seed(setting: Setting) -> None:
    def once() -> tuple[object, ...]:
        case = Case(setting, Budget(ENOUGH, 50), JudgingEngine(always(*CHAINS), seeded=True))
        out = asyncio.run(case.run())
        return out.answer, out.spent, out.complete, out.stopped_by

    first, again = once(), once()
    require(first == again, f"with seed 1 it came to {first}, and then to {again}")


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


def require(kept: bool, otherwise: str) -> None:
    """Raises `AssertionError(otherwise)` where something is not kept, also under `python -O`."""
    if not kept:
        raise AssertionError(otherwise)


def at_most(what: str, found: int, limit: int) -> None:
    """Raises `AssertionError` where there are more of something than allowed."""
    require(found <= limit, f"{found} {what}, where {limit} are allowed")


def _equal(what: str, found: int, wanted: int, why: str = "") -> None:
    require(found == wanted, f"{found} {what}, not {wanted}" + (f" ({why})" if why else ""))


def _name(made: Callable[[], object]) -> str:
    if isinstance(made, partial):
        return _name(made.func)  # pyright: ignore[reportUnknownMemberType, reportUnknownArgumentType]
    return getattr(made, "__name__", None) or type(made).__name__
