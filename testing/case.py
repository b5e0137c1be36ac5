"""One request of a strategy on a scripted engine, and what must be true of it however it ended."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from ponder.compute.budget import Budget, Spending
from ponder.compute.engine import Delta, Sampling
from ponder.compute.execute import execute
from ponder.compute.lengths import Lengths
from ponder.compute.outcome import Outcome
from ponder.compute.plan import Plan
from ponder.compute.resources import Resources
from ponder.compute.run import Run, Selection, Strategy, Verifier, wants_likelihood
from ponder.compute.stop import StopSignal
from ponder.compute.text import Candidate, Message, Prompt, Score
from ponder.testing.require import at_most, equal, require
from ponder.testing.scripted import MARKER, Chain, ScriptedEngine, ScriptedRewards

ANSWERS = ("The answer is 7.", "The answer is 7.", "The answer is 9.", "I am not sure.", "The answer is 7.")
CHAINS = tuple(Chain(f"{MARKER} {i}\nthree and four\n{'and so on' * i}\n", a) for i, a in enumerate(ANSWERS))
"""What the scripted model of a check writes: chains of 30 to 70 tokens, most of which say 7."""


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
    seed: int | None = 1
    """Of the requests. Without one a strategy may look at half-written chains, which it may not with a seed."""

    def __str__(self) -> str:
        return self.name or name_of(self.strategy)


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
        strategy: Selection[Strategy] = Selection(str(setting), setting.strategy())
        verifier: Selection[Verifier] = Selection(name_of(setting.verifier), setting.verifier())
        likely = wants_likelihood(strategy, verifier)
        self.plan = Plan(
            prompt=Prompt((Message("user", "What is three and four?"),)),
            strategy=strategy,
            budget=budget,
            sampling=Sampling(thinking=0, answer=0, seed=setting.seed, likelihood=likely),
            verifier=verifier,
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
        if (cost := budget.cost) is not None:
            at_most("units of money", self.spending.cost, cost.amount + budget.answer * cost.visible)
        equal("tokens still reserved", self.spending.held, 0)
        require(not self.spending.overdrawn, "a call has used more than was reserved for it")
        equal("tokens counted", self.spending.generated, self.engine.produced, "as many as the engine produced")
        equal("streams of the engine still open", self.engine.running, 0)
        equal("tokens counted for the verifier", self.spending.verifier, self.rewards.read, "what the model read")
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


def name_of(made: Callable[[], object]) -> str:
    """The name of what a maker makes."""
    if isinstance(made, partial):
        return name_of(made.func)  # pyright: ignore[reportUnknownMemberType, reportUnknownArgumentType]
    return getattr(made, "__name__", None) or type(made).__name__
