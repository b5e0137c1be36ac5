"""Beam search over steps, guided by a process reward model (Snell et al. 2024, section 5.2; Yao et al. 2023)."""

from __future__ import annotations

import asyncio
from typing import Annotated, ClassVar

from pydantic import ConfigDict, Field, model_validator
from pydantic.dataclasses import dataclass

from ponder.compute.groups import TaskGroup
from ponder.compute.run import Run
from ponder.compute.text import Candidate
from ponder.strategies.steps import KeptSteps, Scored, StepTokens, child, elect, level, offer_best, ranked


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class BeamSearch:
    """Keeps the most promising half-written chains, step by step, and branches them."""

    judged: ClassVar[bool] = True

    beams: Annotated[int, Field(ge=1, le=32, description="Chains in the race at a time (N)")] = 4
    width: Annotated[
        int, Field(ge=1, le=32, description="Branches of a chain kept, at least (M); N/M are kept at most")
    ] = 2
    lookahead: Annotated[int, Field(ge=0, le=8, description="Steps written ahead before a chain is judged")] = 0
    step_tokens: StepTokens = 64
    steps: KeptSteps = 64

    @model_validator(mode="after")
    def wide_enough(self) -> BeamSearch:
        if self.beams < self.width:
            raise ValueError(f"beams ({self.beams}) must be at least width ({self.width}): N/M chains are kept a step")
        return self

    async def __call__(self, run: Run) -> Candidate:
        beams = run.chains(self.beams)
        if beams == 1:
            return await run.stream()
        finished: list[Scored] = []
        latest: list[Scored] = []
        race = [(Scored(run.blank), beams)]
        """The chains that go on, and how many branches each has."""
        begun: dict[tuple[int, ...], list[asyncio.Task[Scored | None]]] = {}
        """Branches under way before their step began, by the chain they continue."""
        async with TaskGroup() as group:

            def branch(beam: Scored, n: int, first: int = 0) -> list[asyncio.Task[Scored | None]]:
                children = [child(run, beam, i, self.step_tokens, self.lookahead) for i in range(first, n)]
                return [group.create_task(growing) for growing in children]

            async def grown(left: int) -> list[Scored]:
                """The next step of all, each scored while others are still written."""
                nonlocal begun
                growing = [
                    task
                    for beam, n in race
                    for early in (begun.get(beam.place, []),)
                    for task in (*early, *branch(beam, n, len(early)))
                ]
                begun = {}
                scored: list[Scored] = []
                for awaited, arriving in zip(reversed(range(len(growing))), asyncio.as_completed(growing), strict=True):
                    if (beam := await arriving) is not None:
                        scored.append(beam)
                    room = beams - len(finished) - sum(beam.candidate.over for beam in scored)
                    # A beam that is among the best whatever the awaited scores are need not wait for them.
                    for certain in ranked(scored)[: max(0, room // self.width - awaited)]:
                        if left and awaited and certain.place not in begun:
                            begun[certain.place] = branch(certain, self.width)
                return scored

            for left in reversed(range(self.steps)):
                if run.seed is None:
                    scored = await grown(left)
                else:
                    scored = await level(run, race, self.step_tokens, self.lookahead)
                latest = scored or latest
                finished += [beam for beam in scored if beam.candidate.over]
                half = ranked(scored)
                await offer_best(run, finished, half)
                room = beams - len(finished)
                kept = half[: max(1, room // self.width)] if room else []
                if not left and kept:
                    finished += await level(run, [(beam, 1) for beam in kept], None)
                    break
                # Where beams are alike, fewer than N/M are kept, and each of them branches the more.
                race = [(beam, room // len(kept) + (i < room % len(kept))) for i, beam in enumerate(kept)]
                if not race:
                    break
        return await elect(run, finished or latest)
