"""Chooses by difficulty (compute-optimal scaling, Snell et al. 2024), read off how chains agree.

A few chains are drawn. While their vote is open, more are, and none once those to come would hardly change it: how far
the leader must be ahead sinks as the vote goes on. A chain that is slow to end counts against the leader, as the first
to end are the shortest. Of answers with equal votes, the one whose chains are shorter leads (Hassid et al. 2025, "Don't
Overthink it"). The numbers are the model's `Policy`; `docs/auto.md` says how they were found.

Of four chains that are three to one, the right answer is nearly always there: a verifier, where there is one that tells
more than votes do, is asked, and ends the vote where it is clearly for one of the two. It also chooses wherever the
vote ends and is not unanimous. Where answers cannot be compared, there is nothing to vote on: the verifier chooses
among a few, and one that decides ends it with the first that passes. Where the operator allows it and many calls wait
for the model, there are fewer chains.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, ClassVar, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from ponder.compute.policy import Policy
from ponder.compute.run import Run
from ponder.compute.text import Candidate, Score
from ponder.compute.vote import Vote
from ponder.strategies.evidence import By, Evidence
from ponder.strategies.stopping import Standing, abreast, stops, wanting
from ponder.strategies.voting import elect

PROBES = 4
"""Of so many chains that are three to one, the verifier is asked."""


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
        policy, evidence = self.policy(run), Evidence(run, self.evidence)
        n = policy.chains
        if not run.races(n):
            return await run.stream()
        pace = policy.latency if self.prefer == "latency" else policy.tokens
        finished: list[Candidate] = []
        scores: dict[int, Score] = {}
        standing: Standing | None = None
        vote: Vote | None = None
        dear = False

        def at_once() -> int:
            if standing is None:
                return 1 if evidence.alone else pace.first
            wanted = abreast(standing, policy, pace)
            asks = run.discerns and self.prefer == "tokens" and standing.ended < PROBES
            return min(wanted, PROBES - standing.ended) if asks else wanted

        def sharing() -> int:
            return (pace.first if evidence.alone else at_once()) + evidence.probing

        async with run.sampling(n, at_once=at_once, sharing=sharing) as arriving:
            async for candidate in arriving.watched(evidence.every) if evidence.looks else arriving:
                if candidate is not None:
                    finished = sorted([*finished, candidate], key=lambda candidate: candidate.number)
                    vote = await run.vote(finished, evidence.scores(finished), shorter_first=True)
                    if evidence.prevailing(candidate) and await self.may_end(run, candidate, scores):
                        return (await run.vote([candidate])).leader
                else:
                    for hopeless in evidence.hopeless(arriving.running, policy.start):
                        arriving.drop(hopeless)
                    arriving.look_every(evidence.every)
                    if vote is None:
                        continue
                ended = len(finished) + len(arriving.lost)
                against = pace.doubt * sum(min(1.0, age) for age in arriving.ages())
                standing = Standing.of(vote, ended, n, against)
                if evidence.probing and not stops(standing, policy):
                    running = arriving.running
                    if candidate is None and stops(standing.foretold([float(len(running))], pace), policy):
                        await evidence.ask(running)
                    standing = standing.foretold(await evidence.foretold(vote, finished, running), pace)
                if stops(standing, policy) or (ended >= policy.start and run.makes_do(ended, n)):
                    break
                if ended == PROBES and vote.counts == (3, 1):
                    dear = run.judging_is_dearer(finished, wanting(standing, policy))
                    if not dear and await self.is_sure(run, finished, scores, policy):
                        break
                if candidate is None or vote.counts:
                    continue
                if await self.has_chosen(run, candidate, finished, scores, policy):
                    break
        if vote is not None:
            await evidence.learn(vote, finished)
        settled = standing is not None and stops(standing, policy)
        spared = settled and (dear or run.judging_is_dearer(finished, len(finished)))
        if vote is None or len(vote.counts) == 1 or not run.discerns or len(finished) < 2 or spared:
            return (vote or await run.vote(finished)).leader
        return await elect(run, finished, await self.scored(run, finished, scores))

    def policy(self, run: Run) -> Policy:
        """The numbers this request goes by."""
        policy = run.policy
        if self.confidence is not None:
            policy = replace(policy, lead=self.confidence, slope=0.0)
        elif run.discerns:
            policy = replace(policy, lead=policy.judged_lead, slope=policy.judged_slope)
        return replace(policy, chains=max(policy.chains, self.n)).with_at_most(self.n) if self.n else policy

    async def scored(self, run: Run, finished: Sequence[Candidate], scores: dict[int, Score]) -> list[Score]:
        """Their scores, each asked for once: `scores`, by number of the chain, has those known and is added to."""
        unscored = [candidate for candidate in finished if candidate.number not in scores]
        scores |= zip((c.number for c in unscored), await run.score(unscored) if unscored else (), strict=True)
        return [scores[candidate.number] for candidate in finished]

    async def may_end(self, run: Run, candidate: Candidate, scores: dict[int, Score]) -> bool:
        """Whether a chain that would win any vote may end it: where the verifier decides, only if it passes."""
        if not run.exact:
            return True
        (score,) = await self.scored(run, [candidate], scores)
        return not run.exact or score.value == 1

    async def is_sure(self, run: Run, finished: Sequence[Candidate], scores: dict[int, Score], policy: Policy) -> bool:
        """Whether the verifier, where one tells more than votes, is clearly for one of the answers."""
        if not run.discerns:
            return False
        weighted = await run.vote(finished, await self.scored(run, finished, scores))
        return run.discerns and weighted.share >= policy.judged_share

    async def has_chosen(
        self, run: Run, candidate: Candidate, finished: Sequence[Candidate], scores: dict[int, Score], policy: Policy
    ) -> bool:
        """Whether there are enough of answers that cannot be compared. `candidate` came last; `scores`, by number of
        the chain, are added to."""
        whole = sum(candidate.over for candidate in finished)
        if run.exact:
            (score,) = await self.scored(run, [candidate], scores)
            if run.exact:
                return score.value == 1
        return whole >= (policy.judged_chains if run.discerns else policy.start)
