"""The real strategies over recorded samples, in virtual decode steps: each question several times, each time over its
samples in another order, which is the same for all setups.

Requests come one after the other, in an order that is the same for all setups, too, and all learn chain lengths from
those before.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError

from ponder.compute.budget import Budget, Spending
from ponder.compute.engine import Delta, Sampling
from ponder.compute.errors import PonderError
from ponder.compute.execute import execute
from ponder.compute.lengths import Lengths
from ponder.compute.plan import Plan
from ponder.compute.policy import BUILT_IN, Policy
from ponder.compute.resources import Resources
from ponder.compute.run import Selection, Strategy, Verifier, wants_likelihood
from ponder.compute.usage import Usage
from ponder.engines.replay import RecordedRewards, ReplayEngine
from ponder.engines.samples import Question
from ponder.engines.virtual_time import VirtualTimeLoop
from ponder.strategies import strategies
from ponder.verifiers import verifiers

AMPLE = 1 << 30
"""Tokens of a thinking budget that binds nowhere."""


class CannotReplay(Exception):
    """A setup or a pool that cannot be replayed; the message says why."""


@dataclass(frozen=True, slots=True)
class Setup:
    """A strategy with its parameters, as it was typed: `majority_vote:n=16:mode=rounds`."""

    name: str
    strategy: str = field(compare=False)
    parameters: dict[str, Any] = field(compare=False)

    @staticmethod
    def of(text: str) -> Setup:
        """Raises `ValueError` for a parameter without a value, and what `selection` does."""
        strategy, parameters = _parsed(text)
        setup = Setup(text, strategy, parameters)
        setup.selection()
        return setup

    def selection(self) -> Selection[Strategy]:
        """The strategy itself. Raises `ValueError` where there is none of this name or it takes no such parameters."""
        return Selection(self.strategy, _made("strategy", self.name, self.strategy, strategies(), self.parameters))


def verifier_of(text: str) -> Selection[Verifier]:
    """A verifier as it was typed, with parameters in the same way. Raises `ValueError`."""
    name, parameters = _parsed(text)
    return Selection(name, _made("verifier", text, name, verifiers(), parameters))


def _made(kind: str, text: str, name: str, table: dict[str, type[Any]], parameters: dict[str, Any]) -> Any:
    if name not in table:
        raise ValueError(f"{name} is no {kind}; there are {', '.join(sorted(table))}")
    try:
        return table[name](**parameters)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise ValueError(f"{text}: {where}: {first['msg']}" if where else f"{text}: {first['msg']}") from None
    except TypeError as error:
        raise ValueError(f"{text}: {error}") from None


def _parsed(text: str) -> tuple[str, dict[str, Any]]:
    """A name and its parameters."""
    name, *words = text.split(":")
    parameters: dict[str, Any] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals:
            raise ValueError(f"{text}: {word!r} is no parameter; write {name}:NAME=VALUE")
        try:
            parameters[key] = json.loads(value)
        except json.JSONDecodeError:
            parameters[key] = value
    return name, parameters


@dataclass(frozen=True, slots=True)
class Conditions:
    """What is the same for all setups that are held against one another. Counts are tokens."""

    cap: int | None = None
    """The thinking budget of a request; None: one that binds nowhere."""
    draws: int = 20
    """Orders of the samples of each question."""
    seed: int = 0
    """What these orders follow from."""
    seeded: bool = False
    """Every request carries a seed of its own."""
    answer_tokens: int = 400
    """Visible part of a sample of which that was not recorded."""
    prompt_tokens: int = 64
    """A question of which that was not recorded."""
    prior: tuple[int, int] = (3500, 14000)
    """p50 and p90 of a chain, as far as is known before the first."""
    verifier: str | None = None
    """As it is typed; None: the recorded process reward model where there is one, else agreement."""
    policy: Policy = BUILT_IN
    """What `auto` goes by."""


@dataclass(frozen=True, slots=True)
class Replayed:
    """One request: right or not, and what it cost. Counts are tokens."""

    right: bool
    hidden: int
    visible: int
    prompt: int
    verifier: int
    """Read by the reward model."""
    steps: float
    """Latency in decode steps."""
    samples: int
    agreement: float | None
    confidence: float | None
    degraded: bool = False
    """The fallback judged."""

    @property
    def tokens(self) -> int:
        """All that the model generated."""
        return self.hidden + self.visible

    @property
    def usage(self) -> Usage:
        """What is billed."""
        return Usage(prompt=self.prompt, hidden=self.hidden, visible=self.visible, verifier=self.verifier)


@dataclass(frozen=True, slots=True)
class Run:
    """What became of a setup: its requests by question, in the same order for each setup."""

    requests: list[list[Replayed]]
    p50: int
    p90: int
    """What was known of chain lengths at the end."""
    cpu_seconds: float
    """Of this machine, that it took."""


async def _deaf(_: Delta) -> None:
    return


def replay(
    questions: Sequence[Question], setup: Setup, conditions: Conditions, told: Callable[[], object] | None = None
) -> Run:
    """Every question `conditions.draws` times. `told` is called after each request. Raises `CannotReplay`."""
    engine = ReplayEngine(
        questions,
        typical_chain=conditions.prior,
        answer_tokens=conditions.answer_tokens,
        prompt_tokens=conditions.prompt_tokens,
        seed=conditions.seed,
    )
    scored = any(sample.steps for question in questions for sample in question.samples)
    rewards = RecordedRewards(engine) if scored else None
    resources = Resources(engine, Lengths(*conditions.prior), rewards, policy=conditions.policy)
    verifier = verifier_of(conditions.verifier or ("prm" if scored else "agreement"))
    fallback = verifier_of("agreement")
    strategy = setup.selection()
    likelihood = wants_likelihood(verifier, strategy)
    requests = [(q, draw) for draw in range(conditions.draws) for q in range(len(questions))]
    random.Random(conditions.seed).shuffle(requests)  # noqa: S311 (no secret)
    replayed: list[dict[int, Replayed]] = [{} for _ in questions]
    budget = Budget(conditions.cap or AMPLE, 4 * conditions.answer_tokens)

    async def one(question: int, draw: int) -> None:
        prompt = engine.ask(question, draw)
        seed = conditions.seed + draw * len(questions) + question + 1 if conditions.seeded else None
        plan = Plan(
            prompt=prompt,
            strategy=strategy,
            budget=budget,
            sampling=Sampling(0, 0, seed=seed, likelihood=likelihood),
            verifier=verifier,
            fallback=fallback,
            stream=False,
        )
        clock = asyncio.get_running_loop().time
        begun = clock()
        try:
            out = await execute(plan, resources, Spending(budget), _deaf)
        except PonderError as error:
            raise CannotReplay(f"{setup.name}, question {questions[question].name}: {error}") from error
        steps = clock() - begun
        replayed[question][draw] = Replayed(
            right=await engine.judge(prompt, out.answer.text),
            hidden=out.spent.hidden,
            visible=out.spent.visible,
            prompt=engine.length(prompt),
            verifier=out.spent.verifier,
            steps=steps,
            samples=out.samples,
            agreement=out.agreement,
            confidence=out.confidence,
            degraded=out.degraded,
        )
        engine.forget(prompt)

    async def all_of_them() -> None:
        for question, draw in requests:
            await one(question, draw)
            if told is not None:
                told()

    began = time.process_time()
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        runner.run(all_of_them())
    in_order = [[of[draw] for draw in range(conditions.draws)] for of in replayed]
    return Run(in_order, resources.lengths.p50, resources.lengths.p90, time.process_time() - began)
