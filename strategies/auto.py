"""Chooses by difficulty (compute-optimal scaling, Snell et al. 2024), read off the agreement of a few first chains.

What more chains are worth after four, on AIME with public reasoning models: unanimous, nothing; three to one, a
verifier is worth more than votes, as the right answer is nearly always there; a wider split, many more votes, in rounds
of as many as could settle it. A split that persists to the last goes to the verifier too. Where the operator allows it
and many calls wait for the model, there are fewer rounds.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from ponder.compute.run import Run
from ponder.compute.text import Candidate
from ponder.strategies.voting import drawn, elect, settled, votes_to_settle


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Auto:
    """Probes how hard the question is and spends accordingly: one chain, a vote, or a verifier."""

    judged: ClassVar[bool] = True

    n: Annotated[int, Field(ge=4, le=256, description="Chains at most")] = 16
    probes: Annotated[int, Field(ge=2, le=16, description="Chains that tell how hard the question is")] = 4
    confidence: Annotated[
        float, Field(ge=0.5, le=1, description="Stop voting when the leader is ahead with this probability")
    ] = 0.8

    async def __call__(self, run: Run) -> Candidate:
        probes = min(self.probes, self.n)
        if run.chains(probes) < 2:
            return await run.stream()
        candidates, begun = await drawn(run, probes)
        vote = await run.vote(candidates)
        if vote.unanimous:
            return vote.leader
        if len(vote.counts) == 2 and vote.counts[1] == 1:
            return await elect(run, candidates, await run.score(candidates))
        while begun < self.n and not run.makes_do(begun, self.n):
            found, more = await drawn(run, votes_to_settle(vote, self.n - begun, self.confidence))
            candidates, begun = [*candidates, *found], begun + more
            vote = await run.vote(candidates)
            if settled(vote, self.n - begun, self.confidence):
                return vote.leader
        return await elect(run, candidates, await run.score(candidates))
