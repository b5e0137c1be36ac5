"""Growing half-written chains by a step and judging them: what the searches share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from ponder.compute.groups import TaskGroup
from ponder.compute.run import Run
from ponder.compute.text import Candidate, Score

StepTokens = Annotated[int, Field(ge=4, le=4096, description="Tokens of a step at most")]
"""The parameter that all searches have."""
KeptSteps = Annotated[int, Field(ge=1, le=512, description="Steps at most; chains kept are then written to their ends")]
"""That of those which keep chains from step to step."""


@dataclass(frozen=True, slots=True)
class Scored:
    """A chain, finished or half-written, and what the verifier thinks of it so far."""

    candidate: Candidate
    value: float = 0.0
    place: tuple[int, ...] = ()
    """Child indices on the path from the root; independent of the order in which children finished."""


async def child(run: Run, beam: Scored, number: int, tokens: int | None, lookahead: int = 0) -> Scored | None:
    """Child `number` of the beam: one step of at most `tokens` longer (None: to its end), and scored. With `lookahead`
    the score is that of the chain so many steps later. None where the budget has no step left while other chains are
    being written."""
    written = await run.extend([beam.candidate], until=tokens)
    if not written:
        return None
    ahead = written
    for _ in range(lookahead):
        ahead = await run.extend(ahead, until=tokens) or ahead
    (score,) = await run.score(ahead)
    return Scored(written[0], score.value, (*beam.place, number))


async def grow(run: Run, beams: Sequence[Scored], n: int, tokens: int | None) -> list[Scored]:
    """`n` children of each beam; see `spread`."""
    return await spread(run, [(beam, n) for beam in beams], tokens)


async def spread(run: Run, race: Sequence[tuple[Scored, int]], tokens: int | None) -> list[Scored]:
    """So many children of each beam, each scored as soon as it is written, while others are still being written.

    With a seed it is done by `level`, because the result must not depend on which chain was quicker; also where the
    chains go to their ends, because all share what is left.
    """
    if run.seed is not None or tokens is None:
        return await level(run, race, tokens)
    async with TaskGroup() as group:
        tasks = [group.create_task(child(run, beam, i, tokens)) for beam, n in race for i in range(n)]
    return [scored for task in tasks if (scored := task.result()) is not None]


async def level(run: Run, race: Sequence[tuple[Scored, int]], tokens: int | None, lookahead: int = 0) -> list[Scored]:
    """So many children of each beam, written side by side and then scored together, so that the result depends on the
    chains alone. Fewer where the budget runs short."""
    parents = [(beam, number) for beam, n in race for number in range(n)]
    written = await run.extend([beam.candidate for beam, _ in parents], until=tokens)
    if not written:
        return []
    ahead = written
    for _ in range(lookahead):
        further = {candidate.parent: candidate for candidate in await run.extend(ahead, until=tokens)}
        ahead = [beam if beam.over else further.get(beam.number, beam) for beam in ahead]
    scores = await run.score(ahead)
    places = iter(parents)
    scored: list[Scored] = []
    for candidate, score in zip(written, scores, strict=True):
        # A child that was lost has left a gap.
        beam, number = next((beam, number) for beam, number in places if _continues(candidate, beam.candidate))
        scored.append(Scored(candidate, score.value, (*beam.place, number)))
    return scored


def _continues(candidate: Candidate, beam: Candidate) -> bool:
    """It is a child of the beam, or the beam itself, which is over."""
    return candidate is beam or candidate.parent == (beam.number if beam.number >= 0 else None)


def ranked(beams: Sequence[Scored]) -> list[Scored]:
    """The half-written beams, best first. Of beams with the same tokens one is kept: the others would be explored
    twice."""
    seen: dict[int, Scored] = {}
    for beam in sorted(beams, key=lambda beam: (-beam.value, beam.place)):
        if not beam.candidate.over:
            seen.setdefault(beam.candidate.same_place, beam)
    return list(seen.values())


async def elect(run: Run, finished: Sequence[Scored]) -> Candidate:
    """The leader of the weighted vote over finished chains. The chain with the highest score alone would rely too much
    on the verifier."""
    in_order = sorted(finished, key=lambda beam: beam.place)
    return (await run.vote([b.candidate for b in in_order], [Score(b.value) for b in in_order])).leader


async def offer_best(run: Run, finished: Sequence[Scored], half: Sequence[Scored]) -> None:
    """Makes the best so far the answer of a request that is cut short here: of finished chains the leader of their
    vote, else the first of the half-written ones, which are `ranked`."""
    if finished:
        await elect(run, finished)
    elif half:
        run.offer(half[0].candidate)
