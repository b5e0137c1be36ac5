"""Half-written chains are asked what they would answer now, while they go on: early evidence of where a vote will end.

Each is a call of its own over the prefix that the model has cached: the thought closed by force, and a short answer
(Fu et al. 2024, "Efficiently Serving LLM Reasoning Programs with Certaindex"; "MARS", arXiv 2606.12935). It is reserved
beforehand from what is free, so the budget holds; a probe that cannot be paid is not made.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from ponder.compute.budget import Reservation
from ponder.compute.chains import Chains
from ponder.compute.errors import Lost, OutOfQuota
from ponder.compute.groups import TaskGroup
from ponder.compute.slots import Share
from ponder.compute.text import Candidate

PURPOSE = "probe"
"""What the trace calls it."""


async def probed(
    chains: Chains, share: Share | None, beams: Sequence[Candidate], answer: int | None, calls: bool
) -> list[Candidate]:
    """What the beams would answer; see `Run.probe`. `share`: the request's, of the model's slots; a probe waits for
    none. `calls`: tools may be called."""
    if calls or chains.wishes.grammar is not None:
        return []
    usual = min(chains.estimates.current.answer, chains.spending.budget.answer)
    visible = max(1, usual if answer is None else answer)
    free = len(beams) if share is None else max(0, share.slots.free)

    async def one(reservation: Reservation, beam: Candidate) -> Candidate | None:
        try:
            return await chains.write(reservation, beam.prompt, beam, aside=True, once=True)
        except asyncio.CancelledError:
            reservation.close(forfeit=chains.ordered)
            raise
        except (Lost, OutOfQuota):
            return None
        finally:
            reservation.close()

    asked: list[asyncio.Task[Candidate | None]] = []
    async with TaskGroup() as tasks:
        for beam in beams:
            if len(asked) == free or visible > chains.spending.free:
                break
            if beam.thinking and beam.length and chains.room(beam.prompt, beam) >= visible:
                reservation = chains.reserve(PURPOSE, thinking=0, answer=visible, parent=beam.number, aside=True)
                asked.append(chains.begin(tasks, reservation, one(reservation, beam)))
    answers = (task.result() for task in asked)
    return [candidate for candidate in answers if candidate is not None]
