"""Growing half-written chains by a step and judging them: what the searches share."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from ponder.compute.run import Run
from ponder.compute.text import Candidate, Score


@dataclass(frozen=True, slots=True)
class Scored:
    """A chain, finished or half-written, and what the verifier thinks of it so far."""

    candidate: Candidate
    value: float = 0.0
    place: tuple[int, ...] = ()
    """Which child it is of which of which: its place in the tree, whenever it came."""


async def child(run: Run, beam: Scored, number: int, tokens: int | None, lookahead: int = 0) -> Scored | None:
    """The beam's child of this number: one step of at most `tokens` longer (None: to its end), and scored. With
    `lookahead` it is judged by how it looks that many steps on. None where the budget has no step left while others are
    still being written."""
    written = await run.extend([beam.candidate], until=tokens)
    if not written:
        return None
    ahead = written
    for _ in range(lookahead):
        ahead = await run.extend(ahead, until=tokens) or ahead
    (score,) = await run.score(ahead)
    return Scored(written[0], score.value, (*beam.place, number))


async def grow(run: Run, beams: Sequence[Scored], n: int, tokens: int | None) -> list[Scored]:
    """`n` children of each beam, each scored as soon as it is written, while others still are; with a seed by `level`,
    as who was quicker must not show, and to their ends too, for which all share what is left."""
    if run.seed is not None or tokens is None:
        return await level(run, [(beam, n) for beam in beams], tokens)
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(child(run, beam, i, tokens)) for beam in beams for i in range(n)]
    return [scored for task in tasks if (scored := task.result()) is not None]


async def level(run: Run, race: Sequence[tuple[Scored, int]], tokens: int | None, lookahead: int = 0) -> list[Scored]:
    """So many children of each beam, written side by side and then scored together: what comes hangs on nothing but
    the chains. Fewer where the budget runs short."""
    parents = [(beam, number) for beam, n in race for number in range(n)]
    written = await run.extend([beam.candidate for beam, _ in parents], until=tokens)
    if not written:
        return []
    ahead = written
    for _ in range(lookahead):
        further = {candidate.parent: candidate for candidate in await run.extend(ahead, until=tokens)}
        ahead = [beam if beam.over else further.get(beam.number, beam) for beam in ahead]
    scores = await run.score(ahead)
    return [
        Scored(candidate, score.value, (*beam.place, number))
        for (beam, number), candidate, score in zip(parents, written, scores, strict=False)
    ]


def ranked(beams: Sequence[Scored]) -> list[Scored]:
    """The half-written beams, best first, without those that stand at the same tokens as another: they would be
    explored twice."""
    seen: dict[int, Scored] = {}
    for beam in sorted(beams, key=lambda beam: (-beam.value, beam.place)):
        if not beam.candidate.over:
            seen.setdefault(beam.candidate.same_place, beam)
    return list(seen.values())


async def elect(run: Run, finished: Sequence[Scored]) -> Candidate:
    """The weighted vote over finished chains; the verifier's single favourite would trust it too far."""
    in_order = sorted(finished, key=lambda beam: beam.place)
    return (await run.vote([b.candidate for b in in_order], [Score(b.value) for b in in_order])).leader
