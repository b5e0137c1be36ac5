"""Growing half-written chains by a step and judging them: what the searches share."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from compute.run import Run
from compute.text import Candidate, Score


@dataclass(frozen=True, slots=True)
class Scored:
    """A chain, finished or half-written, and what the verifier thinks of it so far."""

    candidate: Candidate
    value: float


async def grow(run: Run, beams: Sequence[Candidate], n: int, tokens: int, lookahead: int = 0) -> list[Scored]:
    """`n` children of each beam, one step of at most `tokens` longer, scored. Each beam's children are scored as soon
    as they are written, while others still are. With `lookahead` a child is judged by how it looks that many steps
    on."""

    async def children(beam: Candidate) -> list[Scored]:
        written = await run.extend([beam], n, until=tokens)
        ahead = written
        for _ in range(lookahead):
            ahead = await run.extend(ahead, until=tokens)
        scores = await run.score(ahead)
        return [Scored(candidate, score.value) for candidate, score in zip(written, scores, strict=True)]

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(children(beam)) for beam in beams]
    return [child for task in tasks for child in task.result()]


def distinct(beams: Sequence[Scored]) -> list[Scored]:
    """The beams without those that stand at the same tokens as an earlier one: they would be explored twice."""
    seen: dict[object, Scored] = {}
    for beam in beams:
        seen.setdefault((beam.candidate.same_place, beam.candidate.over), beam)
    return list(seen.values())


async def elect(run: Run, finished: Sequence[Scored]) -> Candidate:
    """The weighted vote over finished chains; the verifier's single favourite would trust it too far."""
    return (await run.vote([b.candidate for b in finished], [Score(b.value) for b in finished])).leader
