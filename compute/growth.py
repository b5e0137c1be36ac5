"""Half-written chains are continued, many at once: each by a step or to its end, as far as the budget feeds them.

With a seed they settle in the order they were begun, so that the result can be repeated.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from ponder.compute.budget import Reservation
from ponder.compute.chains import Chains
from ponder.compute.errors import Exhausted, Lost, OutOfQuota
from ponder.compute.groups import TaskGroup
from ponder.compute.outcome import Notes
from ponder.compute.text import Candidate

LEAST_STEP = 8
"""Hidden tokens without which a continuation is not begun, as long as there is another use for them."""


async def grow(
    chains: Chains, notes: Notes, beams: Sequence[Candidate], n: int, until: int | None, *, steps: bool
) -> list[Candidate]:
    """`n` continuations of each beam, in the order of the beams; see `Run.extend`. Chains that were lost are left out;
    raises `Lost` where the run has no other left."""
    card, spending = chains.card, chains.spending
    wanted = n * sum(not beam.over for beam in beams)
    spending.unbind()
    fed = min(wanted, spending.free // (2 * min(LEAST_STEP, until or LEAST_STEP)))
    if fed < wanted:
        notes.short = True
        if not fed and not spending.busy:
            if spending.free < 2:
                raise Exhausted(f"{wanted} continuations asked for, {spending.free} thinking tokens left")
            fed = 1
    thinking, answer = chains.shares(spending.free // max(1, fed))
    step, unclosed = None, until is not None and not steps
    if until is not None:
        step = card.step if steps else None
        thinking, answer = (min(thinking, until), answer) if thinking else (0, min(answer, until))

    async def one(
        reservation: Reservation, beam: Candidate, before: asyncio.Event | None, done: asyncio.Event
    ) -> Candidate | Lost:
        try:
            begun = beam if beam.number >= 0 else None
            settled = await chains.write_or_lose(reservation, beam.prompt, begun, until=step, unclosed=unclosed)
            if before is not None:
                await before.wait()
            if isinstance(settled, Candidate) and (step is None or card.thinks):
                settled = await chains.go_on(reservation, settled)
        except asyncio.CancelledError:
            reservation.close(forfeit=chains.ordered)
            raise
        except Lost as lost:
            return lost
        finally:
            reservation.close()
            done.set()
        if isinstance(settled, Candidate) and settled.over:
            chains.drafts.ended(settled)
        return settled

    written: list[Candidate | asyncio.Task[Candidate | Lost]] = []
    before: asyncio.Event | None = None
    async with TaskGroup() as tasks:
        for beam in beams:
            if beam.over:
                written.append(beam)
                continue
            for _ in range(min(n, fed)):
                fed -= 1
                parent = beam.number if beam.number >= 0 else None
                reservation = chains.reserve("extend", thinking=thinking, answer=answer, parent=parent)
                done = asyncio.Event()
                written.append(chains.begin(tasks, reservation, one(reservation, beam, before, done)))
                before = done if chains.ordered else None
    settled = [c.result() if isinstance(c, asyncio.Task) else c for c in written]
    grown = [c for c in settled if isinstance(c, Candidate)]
    lost = next((c for c in settled if isinstance(c, Lost)), None)
    if lost is not None and not grown and spending.out_of_quota:
        raise OutOfQuota("the quota has no tokens for a continuation")
    if lost is not None and not grown and not spending.busy and chains.drafts.all_lost:
        raise lost
    return grown
