"""Diverse verifier tree search: independent subtrees, each greedy (Beeching, Tunstall, Rush 2024)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar

from pydantic import ConfigDict, Field, model_validator
from pydantic.dataclasses import dataclass

from ponder.compute.groups import TaskGroup
from ponder.compute.run import Run
from ponder.compute.text import Candidate
from ponder.strategies.steps import Scored, StepTokens, elect, grow


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Dvts:
    """Beam search in independent subtrees, so that one early favourite cannot crowd out the rest."""

    judged: ClassVar[bool] = True

    beams: Annotated[int, Field(ge=1, le=32, description="Chains in the race at a time (N)")] = 4
    width: Annotated[int, Field(ge=1, le=32, description="Branches looked at in each subtree (M); there are N/M")] = 2
    step_tokens: StepTokens = 64
    steps: Annotated[
        int, Field(ge=1, le=512, description="Steps at most; each subtree's best is then written to its end")
    ] = 64

    @model_validator(mode="after")
    def wide_enough(self) -> Dvts:
        if self.beams < self.width:
            raise ValueError(f"beams ({self.beams}) must be at least width ({self.width}): there are N/M subtrees")
        return self

    async def __call__(self, run: Run) -> Candidate:
        beams = run.chains(self.beams)
        if beams == 1:
            return await run.stream()
        trees = max(1, beams // self.width)
        leaves: list[Scored] = []

        async def subtree(tree: int) -> None:
            best = Scored(run.blank, place=(tree,))
            for _ in range(self.steps):
                children = await grow(run, [best], min(self.width, beams), self.step_tokens)
                if not children:
                    break
                best = max(children, key=lambda beam: beam.value)
                if best.candidate.over:
                    break
                if not leaves:
                    run.offer(best.candidate)
            if best.candidate.number >= 0:
                leaves.append(best)
                await elect(run, leaves)

        if run.seed is not None:
            return await self.in_step(run, trees, min(self.width, beams))
        async with TaskGroup() as group:
            for tree in range(trees):
                group.create_task(subtree(tree))
        return await self.ended(run, leaves)

    async def ended(self, run: Run, leaves: Sequence[Scored]) -> Candidate:
        """The choice among the best chain of each subtree; half-written ones are first written to their ends."""
        half = [leaf for leaf in leaves if not leaf.candidate.over]
        over = [leaf for leaf in leaves if leaf.candidate.over]
        return await elect(run, [*over, *(await grow(run, half, 1, None) if half else [])] or leaves)

    async def in_step(self, run: Run, trees: int, width: int) -> Candidate:
        """All subtrees a step at a time: with a seed, a quicker subtree must not take tokens from a slower one."""
        best = {tree: Scored(run.blank, place=(tree,)) for tree in range(trees)}
        for _ in range(self.steps):
            growing = [beam for beam in best.values() if not beam.candidate.over]
            children = await grow(run, growing, width, self.step_tokens) if growing else []
            if not children:
                break
            for tree in {child.place[0] for child in children}:
                best[tree] = max((c for c in children if c.place[0] == tree), key=lambda beam: beam.value)
            await elect(run, list(best.values()))
        return await self.ended(run, [beam for beam in best.values() if beam.candidate.number >= 0])
