"""Diverse verifier tree search: independent subtrees, each greedy (Beeching, Tunstall, Rush 2024)."""

from __future__ import annotations

import asyncio
from typing import Annotated, ClassVar

from pydantic import ConfigDict, Field, model_validator
from pydantic.dataclasses import dataclass

from compute.run import Run
from compute.text import Candidate
from strategies.steps import Scored, elect, grow


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Dvts:
    """Beam search in independent subtrees, so that one early favourite cannot crowd out the rest."""

    judged: ClassVar[bool] = True

    beams: Annotated[int, Field(ge=1, le=32, description="Chains in the race at a time (N)")] = 4
    width: Annotated[int, Field(ge=1, le=32, description="Branches looked at in each subtree (M); there are N/M")] = 2
    step_tokens: Annotated[int, Field(ge=4, le=4096, description="Tokens of a step at most")] = 64
    steps: Annotated[int, Field(ge=1, le=512, description="Steps at most")] = 64

    @model_validator(mode="after")
    def wide_enough(self) -> Dvts:
        if self.beams < self.width:
            raise ValueError(f"beams ({self.beams}) must be at least width ({self.width}): there are N/M subtrees")
        return self

    async def __call__(self, run: Run) -> Candidate:
        leaves: list[Scored] = []

        async def subtree() -> None:
            best = Scored(run.blank, 0.0)
            for _ in range(self.steps):
                best = max(await grow(run, [best.candidate], self.width, self.step_tokens), key=lambda beam: beam.value)
                if best.candidate.over:
                    break
                if not leaves:
                    run.offer(best.candidate)
            leaves.append(best)
            await elect(run, leaves)

        async with asyncio.TaskGroup() as group:
            for _ in range(self.beams // self.width):
                group.create_task(subtree())
        return await elect(run, leaves)
