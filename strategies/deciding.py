"""The vote of one request of `auto`: which chains there are, how they stand, and whether more are worth drawing.

`auto.py` has the parameters and says why it is so. What is known at a moment, and what follows from it, is kept here: a
strategy itself is the same for all requests.
"""

from __future__ import annotations

from collections.abc import Sequence

from ponder.compute.policy import Pace, Policy
from ponder.compute.run import Arriving, Run
from ponder.compute.text import Candidate, Score
from ponder.compute.vote import Vote
from ponder.strategies.evidence import Evidence
from ponder.strategies.stopping import Standing, abreast, stops, wanting
from ponder.strategies.voting import elect

PROBES = 4
"""Of so many chains that are three to one, the verifier is asked."""


class Deciding:
    """To be asked once for its answer."""

    def __init__(self, run: Run, policy: Policy, pace: Pace, evidence: Evidence, *, frugal: bool) -> None:
        """`frugal`: tokens are saved rather than time, so a verifier is asked before more chains are drawn."""
        self._run, self._policy, self._pace, self._evidence, self._frugal = run, policy, pace, evidence, frugal
        self._finished: list[Candidate] = []
        self._scores: dict[int, Score] = {}
        """Those known, by number of the chain: each is asked for once."""
        self._vote: Vote | None = None
        self._standing: Standing | None = None
        self._dear = False
        """A verdict costs more than the chains that would settle the vote."""

    async def answer(self) -> Candidate:
        """Draws chains until no more are likely to change the answer, and chooses among them."""
        run, evidence = self._run, self._evidence
        async with run.sampling(self._policy.chains, at_once=self._at_once, sharing=self._sharing) as arriving:
            async for candidate in arriving.watched(evidence.every) if evidence.looks else arriving:
                if candidate is not None:
                    await self._count(candidate)
                    if evidence.prevailing(candidate) and await self._may_end(candidate):
                        return (await run.vote([candidate])).leader
                else:
                    self._look(arriving)
                if self._vote is not None and await self._is_over(arriving, self._vote, candidate):
                    break
        if self._vote is not None:
            await evidence.learn(self._vote, self._finished)
        return await self._chosen()

    # -- how many chains ----------------------------------------------------------------------------------------------

    def _at_once(self) -> int:
        standing = self._standing
        if standing is None:
            return 1 if self._evidence.alone else self._pace.first
        wanted = abreast(standing, self._policy, self._pace)
        asks = self._run.discerns and self._frugal and standing.ended < PROBES
        return min(wanted, PROBES - standing.ended) if asks else wanted

    def _sharing(self) -> int:
        return (self._pace.first if self._evidence.alone else self._at_once()) + self._evidence.probing

    # -- what is known ------------------------------------------------------------------------------------------------

    async def _count(self, candidate: Candidate) -> None:
        """One more chain has its vote."""
        self._finished = sorted([*self._finished, candidate], key=lambda candidate: candidate.number)
        scores = self._evidence.scores(self._finished)
        self._vote = await self._run.vote(self._finished, scores, shorter_first=True)

    def _look(self, arriving: Arriving) -> None:
        """Chains have grown: those without a hope end, and how soon to look again may have changed."""
        for hopeless in self._evidence.hopeless(arriving.running, self._policy.start):
            arriving.drop(hopeless)
        arriving.look_every(self._evidence.every)

    async def _stand(self, arriving: Arriving, vote: Vote, ended: int, *, looking: bool) -> Standing:
        """How the vote stands, with what half-written chains would answer where that is asked for; `looking`: they may
        be asked now."""
        policy, pace, evidence = self._policy, self._pace, self._evidence
        against = pace.doubt * sum(min(1.0, age) for age in arriving.ages())
        # While chains are asked, others end, and how many are to follow goes by what is known already.
        standing = self._standing = Standing.of(vote, ended, policy.chains, against)
        if evidence.probing and not stops(standing, policy):
            running = arriving.running
            if looking and stops(standing.foretold([float(len(running))], pace), policy):
                await evidence.ask(running)
            foretold = await evidence.foretold(vote, self._finished, running)
            standing = self._standing = standing.foretold(foretold, pace)
        return standing

    # -- whether it is over -------------------------------------------------------------------------------------------

    async def _is_over(self, arriving: Arriving, vote: Vote, candidate: Candidate | None) -> bool:
        """Whether no more chains are drawn, now that one has ended, or none and those that run were looked at."""
        run, policy, ended = self._run, self._policy, len(self._finished) + len(arriving.lost)
        standing = await self._stand(arriving, vote, ended, looking=candidate is None)
        if stops(standing, policy) or (ended >= policy.start and run.makes_do(ended, policy.chains)):
            return True
        if ended == PROBES and vote.counts == (3, 1):
            self._dear = run.judging_is_dearer(self._finished, wanting(standing, policy))
            if not self._dear and await self._is_sure():
                return True
        return candidate is not None and not vote.counts and await self._has_chosen(candidate)

    async def _may_end(self, candidate: Candidate) -> bool:
        """Whether a chain that would win any vote may end it: where the verifier decides, only if it passes."""
        if not self._run.exact:
            return True
        (score,) = await self._scored([candidate])
        return not self._run.exact or score.value == 1

    async def _is_sure(self) -> bool:
        """Whether the verifier, where one tells more than votes, is clearly for one of the answers."""
        if not self._run.discerns:
            return False
        weighted = await self._run.vote(self._finished, await self._scored(self._finished))
        return self._run.discerns and weighted.share >= self._policy.judged_share

    async def _has_chosen(self, candidate: Candidate) -> bool:
        """Whether there are enough of answers that cannot be compared. `candidate` came last."""
        run, policy = self._run, self._policy
        whole = sum(candidate.over for candidate in self._finished)
        if run.exact:
            (score,) = await self._scored([candidate])
            if run.exact:
                return score.value == 1
        return whole >= (policy.judged_chains if run.discerns else policy.start)

    # -- what it comes to ---------------------------------------------------------------------------------------------

    async def _chosen(self) -> Candidate:
        """The leader of the vote, or the verifier's choice where that may be another and is worth its price."""
        run, vote, finished = self._run, self._vote, self._finished
        settled = self._standing is not None and stops(self._standing, self._policy)
        spared = settled and (self._dear or run.judging_is_dearer(finished, len(finished)))
        if vote is None or len(vote.counts) == 1 or not run.discerns or len(finished) < 2 or spared:
            return (vote or await run.vote(finished)).leader
        return await elect(run, finished, await self._scored(finished))

    async def _scored(self, candidates: Sequence[Candidate]) -> list[Score]:
        """Their scores, those that are not known yet asked for together."""
        unscored = [candidate for candidate in candidates if candidate.number not in self._scores]
        found = await self._run.score(unscored) if unscored else ()
        self._scores |= zip((c.number for c in unscored), found, strict=True)
        return [self._scores[candidate.number] for candidate in candidates]
