"""Judges by how likely the model found its own tokens: no second model is read, no token is spent.

A step is scored by its least likely token: there the model guessed, or made a slip. A chain is scored by the product of
its steps. For long chains the least likely window of tokens says more (DeepConf, Fu et al. 2025, with the likelihood of
the drawn tokens in place of that of the likeliest ones).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Annotated, ClassVar, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from ponder.compute.errors import EngineError
from ponder.compute.likelihood import lowest_mean
from ponder.compute.run import Run
from ponder.compute.text import Candidate, Score

LEAST = -690.0
"""The lowest log-probability whose exponential is above 0: scores are compared, so none may become 0."""


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Confidence:
    """The model's own likelihood of the chain, step by step."""

    needs_likelihood: ClassVar[bool] = True

    by: Annotated[
        Literal["product", "min", "lowest_window"],
        Field(
            description="Product over steps of the lowest token probability in each; the lowest of all; "
            "the geometric mean of token probabilities in the least likely window"
        ),
    ] = "product"
    window: Annotated[
        int, Field(ge=4, le=4096, description="Tokens of a window, and of a step where the model marks none")
    ] = 32

    async def __call__(self, run: Run, candidates: Sequence[Candidate]) -> Sequence[Score]:
        """0 for a chain without a token. Raises `EngineError` where chains were drawn without their likelihood."""
        return [self.judge(candidate, run.step_ids) for candidate in candidates]

    def judge(self, candidate: Candidate, ends: frozenset[int]) -> Score:
        """The score of one chain; `ends` are the tokens that end a step."""
        ids, likelihood = candidate.ids.unseal(), candidate.likelihood.unseal()
        if not ids:
            return Score(0.0)
        if not likelihood:
            raise EngineError("confidence needs the likelihood of each token, and the chains were drawn without it")
        # Tokens that were put in before the model made its first have no likelihood of their own.
        likelihood = (0.0,) * (len(ids) - len(likelihood)) + likelihood
        if self.by == "lowest_window":
            return Score(_probability(lowest_mean(likelihood, self.window)))
        lowest = [min(likelihood[begin:end]) for begin, end in _steps(ids, ends, self.window)]
        value = sum(lowest) if self.by == "product" else min(lowest)
        return Score(_probability(value), tuple(_probability(step) for step in lowest))


def _steps(ids: Sequence[int], ends: frozenset[int], window: int) -> Iterator[tuple[int, int]]:
    """(begin, end) of each step; of each window where no token ends a step."""
    stops = [i + 1 for i, token in enumerate(ids) if token in ends] or list(range(window, len(ids), window))
    begin = 0
    for end in [*stops, len(ids)]:
        if end > begin:
            yield begin, end
            begin = end


def _probability(logarithm: float) -> float:
    return math.exp(min(0.0, max(LEAST, logarithm)))
