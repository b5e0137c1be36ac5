"""Beam search over steps, guided by a process reward model (Snell et al. 2024, section 5.2; Yao et al. 2023)."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import ConfigDict, Field, model_validator
from pydantic.dataclasses import dataclass

from compute.run import Run
from compute.text import Candidate
from strategies.steps import Scored, distinct, elect, grow


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class BeamSearch:
    """Keeps the most promising half-written chains, step by step, and branches them."""

    judged: ClassVar[bool] = True

    beams: Annotated[int, Field(ge=1, le=32, description="Chains in the race at a time (N)")] = 4
    width: Annotated[int, Field(ge=1, le=32, description="Branches of each chain kept (M); N/M are kept a step")] = 2
    lookahead: Annotated[int, Field(ge=0, le=8, description="Steps written ahead before a chain is judged")] = 0
    step_tokens: Annotated[int, Field(ge=4, le=4096, description="Tokens of a step at most")] = 64
    steps: Annotated[int, Field(ge=1, le=512, description="Steps at most")] = 64

    @model_validator(mode="after")
    def wide_enough(self) -> BeamSearch:
        if self.beams < self.width:
            raise ValueError(f"beams ({self.beams}) must be at least width ({self.width}): N/M chains are kept a step")
        return self

    async def __call__(self, run: Run) -> Candidate:
        keep = self.beams // self.width
        race = await grow(run, [run.blank], self.beams, self.step_tokens, self.lookahead)
        finished: list[Scored] = []
        for _ in range(self.steps):
            finished += [beam for beam in race if beam.candidate.over]
            half = distinct([beam for beam in race if not beam.candidate.over])
            kept = sorted(half, key=lambda beam: -beam.value)[:keep]
            if finished:
                await elect(run, finished)
            elif kept:
                run.offer(kept[0].candidate)
            if not kept or len(finished) >= self.beams:
                break
            branches = max(1, (self.beams - len(finished)) // len(kept))
            race = await grow(
                run, [b.candidate for b in kept], min(self.width, branches), self.step_tokens, self.lookahead
            )
        return await elect(run, finished or race)
