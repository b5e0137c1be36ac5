"""Majority voting, or self-consistency (Wang et al. 2022), with early stopping (Aggarwal et al. 2023)."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from ponder.compute.run import Run
from ponder.compute.text import Candidate
from ponder.compute.vote import Vote
from ponder.strategies.voting import drawn, elect, fair_sample, settled, votes_to_settle


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class MajorityVote:
    """Many chains; the answer most of them agree on. Stops when the vote is settled."""

    n: Annotated[int, Field(ge=1, le=256, description="Chains at most")] = 16
    mode: Annotated[
        Literal["parallel", "rounds"],
        Field(
            description="Chains side by side, a new one when those under way cannot settle the vote any more (faster), "
            "or rounds that double in size"
        ),
    ] = "parallel"
    first: Annotated[
        int | None,
        Field(ge=1, le=256, description="Chains to start with; left out: half of n side by side, 4 in rounds"),
    ] = None
    confidence: Annotated[
        float,
        Field(ge=0.5, le=1, description="Stop when the leader is ahead with this probability; 1: when it is certain"),
    ] = 0.9

    unanswered: Annotated[
        Literal["first", "verifier"],
        Field(
            description="Who is right where no chain holds an answer that can be compared, as in prose: the first "
            "chain, or the one that the verifier likes best"
        ),
    ] = "first"

    @property
    def judged(self) -> bool:
        """It may ask the verifier."""
        return self.unanswered == "verifier"

    async def __call__(self, run: Run) -> Candidate:
        return await (self.in_parallel(run) if self.mode == "parallel" else self.in_rounds(run))

    async def in_parallel(self, run: Run) -> Candidate:
        finished: list[Candidate] = []
        vote: Vote | None = None

        def at_once() -> int:
            if vote is None:
                return self.first or (self.n + 1) // 2
            return votes_to_settle(vote, self.n - len(finished) - len(arriving.lost), self.confidence)

        async with run.sampling(self.n, at_once=at_once) as arriving:
            async for candidate in arriving:
                finished = sorted([*finished, candidate], key=lambda candidate: candidate.number)
                vote = await run.vote(finished)
                begun = arriving.begun
                fair = fair_sample(vote, finished, begun, self.n - len(begun), self.confidence, arriving.lost)
                if fair:
                    return (await run.vote([c for c in finished if c.number in begun[:fair]])).leader
        return await self.settle(run, finished, await run.vote(finished))

    async def in_rounds(self, run: Run) -> Candidate:
        candidates, begun = await drawn(run, min(self.first or 4, self.n))
        vote = await run.vote(candidates)
        while begun < self.n and not settled(vote, self.n - begun, self.confidence):
            found, more = await drawn(run, min(begun, self.n - begun))
            if not more:
                break
            candidates, begun = [*candidates, *found], begun + more
            vote = await run.vote(candidates)
        return await self.settle(run, candidates, vote)

    async def settle(self, run: Run, candidates: list[Candidate], vote: Vote) -> Candidate:
        """The leader of the vote; where there was none to vote on, whoever `unanswered` says."""
        if vote.counts or not self.judged or len(candidates) < 2:
            return vote.leader
        return await elect(run, candidates, await run.score(candidates))
