"""Judges by a process reward model (Lightman et al. 2023; Uesato et al. 2022): a score for each step of the chain."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Annotated, ClassVar, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from ponder.compute.errors import EngineError
from ponder.compute.run import Run
from ponder.compute.text import Candidate, Score

AGGREGATIONS: dict[str, Callable[[Sequence[float]], float]] = {
    "last": lambda steps: steps[-1],
    "min": min,
    "product": math.prod,
    "mean": lambda steps: sum(steps) / len(steps),
}


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Prm:
    """The step scores of the process reward model, made one."""

    needs_likelihood: ClassVar[bool] = False
    reads: ClassVar[bool] = True

    aggregation: Annotated[
        Literal["last", "min", "product", "mean"] | None,
        Field(description="How many step scores become one; the reward model's own way when left out"),
    ] = None

    async def __call__(self, run: Run, candidates: Sequence[Candidate]) -> Sequence[Score]:
        """0 for a chain without a step. Raises `EngineError` without a reward model, or over a score that is none."""
        rewards = await run.reward(candidates)
        model = run.reward_model
        if model is None:
            raise EngineError("no process reward model is configured for this model")
        aggregate = AGGREGATIONS[self.aggregation] if self.aggregation else model.aggregate
        scores: list[Score] = []
        for reward in rewards:
            value = aggregate(reward.steps) if reward.steps else 0.0
            if not 0 <= value <= 1:
                raise EngineError(f"reward model {model.name} gave a score of {value}, outside 0 to 1")
            scores.append(Score(value, reward.steps, reward.truncated))
        return scores
