"""short-m@k (Hassid et al. 2025, "Don't Overthink it"): of k chains side by side the m that think shortest vote.

Short thoughts are right more often than long ones of the same question, and nobody waits for the long ones. What is
short is told by tokens, not by the clock: a chain is waited for as long as it may still be among the m.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from ponder.compute.run import Run
from ponder.compute.text import Candidate


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class ShortMAtK:
    """Chains side by side; those that think shortest vote, and the others are stopped."""

    n: Annotated[int, Field(ge=1, le=256, description="Chains side by side (k)")] = 8
    m: Annotated[int, Field(ge=1, le=256, description="Of these, those that vote: the shortest")] = 3
    every: Annotated[
        int, Field(ge=16, le=65_536, description="Tokens of a chain between two looks at who may still be short")
    ] = 128

    async def __call__(self, run: Run) -> Candidate:
        chains = run.chains(self.n)
        if chains == 1:
            return await run.stream()
        m = min(self.m, chains)
        found = await (side_by_side if run.seed is None else in_step)(run, chains, m, self.every)
        whole = [candidate for candidate in found if candidate.over] or found
        # The shortest stands first, so that it has the casting vote.
        return (await run.vote(whole[:m])).leader


async def side_by_side(run: Run, chains: int, m: int, every: int) -> list[Candidate]:
    """The chains that have finished when no other can be among the `m` shortest, shortest first."""
    found: list[Candidate] = []
    async with run.sampling(chains) as arriving:
        async for candidate in arriving.watched(every):
            if candidate is not None:
                found = sorted([*found, candidate], key=lambda one: (_thought(one), one.number))
                run.offer(found[0])
            whole = [one for one in found if one.over]
            if len(whole) < m or len(arriving.begun) < chains:
                continue
            if all(_thought(one) >= _thought(whole[m - 1]) for one in arriving.running):
                break
    return found


async def in_step(run: Run, chains: int, m: int, every: int) -> list[Candidate]:
    """The same with a seed, for which no chain can be looked at while it is written: all are written to the same
    length, and then further."""
    share = run.free // chains
    thought: dict[int | None, int] = {}
    """Tokens of each chain so far, those of the calls that it continues included."""
    found: list[Candidate] = []
    half = [run.blank] * chains
    length = 0
    while half and sum(one.over for one in found) < m:
        length += every
        last = length >= share
        grown = await run.extend(half, until=None if last else every, steps=False)
        if not grown:
            break
        for one in grown:
            thought[one.number] = thought.get(one.parent, 0) + _thought(one)
        done = [one for one in grown if one.over or last]
        found += sorted(done, key=lambda one: (thought[one.number], one.number))
        if found:
            run.offer(found[0])
        half = [one for one in grown if not (one.over or last)]
    return found or half


def _thought(candidate: Candidate) -> int:
    """Tokens of its thought, those of its answer where the model does not think."""
    return candidate.hidden or candidate.visible
