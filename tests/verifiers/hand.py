"""Candidates made by hand, and runs for verifiers to judge them in."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from ponder.compute.budget import Budget, Spending
from ponder.compute.chains import Chains
from ponder.compute.engine import Delta, Engine, RewardModel, Sampling
from ponder.compute.lengths import Lengths
from ponder.compute.outcome import Notes
from ponder.compute.resources import Resources
from ponder.compute.run import Run, Task, Verifier
from ponder.compute.text import Candidate, Ending, Hidden, Message, Prompt, Score
from ponder.testing import Chain, ScriptedEngine, always

QUESTION = Prompt((Message("user", "What is three and four?"),))


def candidate(
    text: str = "",
    *,
    number: int = 0,
    thought: str = "",
    ids: Sequence[int] = (),
    likelihood: Sequence[float] = (),
    ending: Ending = "finished",
    prompt: Prompt = QUESTION,
) -> Candidate:
    return Candidate(
        number=number,
        prompt=prompt,
        ids=Hidden(tuple(ids)),
        thought=Hidden(thought),
        text=text,
        hidden=len(thought),
        visible=len(text),
        thinking=not text,
        ending=ending,
        likelihood=Hidden(tuple(likelihood)),
    )


async def deaf(_: Delta) -> None:
    """Nobody listens."""


def run_of(
    engine: Engine | None = None,
    rewards: RewardModel | None = None,
    thinking: int = 1000,
    tenant: str | None = None,
    prompt: Prompt = QUESTION,
) -> tuple[Run, Spending]:
    """A run with nothing written yet, and its spending."""
    engine = engine or ScriptedEngine(always(Chain("", "7")))
    spending = Spending(Budget(thinking, 100))
    resources = Resources(engine, Lengths(20, 40), rewards)
    chains = Chains(resources, spending, Sampling(thinking=0, answer=0, tenant=tenant), deaf)
    return Run(Task(prompt, "direct"), resources, chains, Notes()), spending


def judged(verifier: Verifier, candidates: Sequence[Candidate], run: Run | None = None) -> list[Score]:
    """The verifier's scores."""

    async def judge() -> list[Score]:
        return list(await verifier(run or run_of()[0], candidates))

    return asyncio.run(judge())


def values(verifier: Verifier, *texts: str) -> list[float]:
    """The values of its scores for these answers."""
    return [score.value for score in judged(verifier, [candidate(t, number=i) for i, t in enumerate(texts)])]
