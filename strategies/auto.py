"""Chooses by difficulty (compute-optimal scaling, Snell et al. 2024), read off how chains agree.

A few chains are drawn. While their vote is open, more are, and none once those to come would hardly change it: how far
the leader must be ahead sinks as the vote goes on. A chain that is slow to end counts against the leader, as the first
to end are the shortest. Of answers with equal votes, the one whose chains are shorter leads (Hassid et al. 2025, "Don't
Overthink it"). The numbers are the model's `Policy`; `docs/auto.md` says how they were found. The course of one
request is in `deciding.py`.

Of four chains that are three to one, the right answer is nearly always there: a verifier, where there is one that tells
more than votes do, is asked, and ends the vote where it is clearly for one of the two. It also chooses wherever the
vote ends and is not unanimous. Where answers cannot be compared, there is nothing to vote on: the verifier chooses
among a few, and one that decides ends it with the first that passes. Where the operator allows it and many calls wait
for the model, there are fewer chains.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, ClassVar, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from ponder.compute.policy import Policy
from ponder.compute.run import Run
from ponder.compute.text import Candidate
from ponder.strategies.deciding import Deciding
from ponder.strategies.evidence import By, Evidence


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Auto:
    """Draws chains for as long as they are likely to change the answer: one, a few, or a long vote."""

    judged: ClassVar[bool] = True

    n: Annotated[
        int | None, Field(ge=1, le=256, description="Chains at most; left out: as the model's policy says")
    ] = None
    prefer: Annotated[
        Literal["tokens", "latency"],
        Field(description="What to save: tokens, by few chains side by side, or time, by many"),
    ] = "tokens"
    confidence: Annotated[
        float | None,
        Field(
            ge=0.5,
            le=1,
            description="Stop when the leader is ahead with this probability; 1: when nobody can catch up; left out: "
            "as the model's policy says",
        ),
    ] = None

    evidence: Annotated[
        By,
        Field(
            description="What counts beside votes: how likely the model found its chains, what half-written ones "
            "would answer, or both"
        ),
    ] = "likelihood"

    @property
    def needs_likelihood(self) -> bool:
        """Its chains are drawn with their likelihood."""
        return self.evidence in ("likelihood", "all")

    async def __call__(self, run: Run) -> Candidate:
        policy = self.policy(run)
        if not run.races(policy.chains):
            return await run.stream()
        frugal = self.prefer == "tokens"
        pace = policy.tokens if frugal else policy.latency
        return await Deciding(run, policy, pace, Evidence(run, self.evidence), frugal=frugal).answer()

    def policy(self, run: Run) -> Policy:
        """The numbers this request goes by."""
        policy = run.policy
        if self.confidence is not None:
            policy = replace(policy, lead=self.confidence, slope=0.0)
        elif run.discerns:
            policy = replace(policy, lead=policy.judged_lead, slope=policy.judged_slope)
        return replace(policy, chains=max(policy.chains, self.n)).with_at_most(self.n) if self.n else policy
