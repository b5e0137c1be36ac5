"""Evidence beside votes: what the likelihood of chains, and what they would answer half-way, are worth in a vote.

Nothing here has a threshold tuned to a model. Likelihood counts by its rank among the chains of one question, to a
power that follows from how well it told answers apart lately (`ponder.compute.likelihood`). Half-written chains are
asked what they would answer ("MARS", arXiv 2606.12935), and count for it as far as such answers have held lately. Both
begin at nothing: a model of which nothing is known votes as if there were neither.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from typing import Literal

from ponder.compute.likelihood import LEAST_WINDOW, power
from ponder.compute.run import Run
from ponder.compute.text import Candidate, Score
from ponder.compute.vote import Vote

By = Literal["votes", "likelihood", "probes", "all"]

LEAST_VOTE = 0.5
"""A chain that would have less of a vote than this is not worth its end."""

LEAST_WEIGHT = 1e-100
"""No vote weighs less: it breaks a tie, and nobody divides by 0."""


def weights(lowest: Sequence[float | None], auc: float) -> list[float]:
    """By how much each chain votes, in (0, 1], the likeliest most: the power of its rank, counted from 1, of equals
    their mean rank. `lowest`: its least likely window; None where that is not known, and then all vote alike. `auc`:
    how well it tells answers apart."""
    known = [value for value in lowest if value is not None]
    by = power(auc)
    if by == 0 or len(known) < len(lowest):
        return [1.0] * len(lowest)
    order = sorted(known)
    ranks = [(bisect_left(order, value) + bisect_right(order, value) + 1) / 2 for value in known]
    return [max(LEAST_WEIGHT, (rank / len(order)) ** by) for rank in ranks]


def hopeless_below(lowest: Sequence[float], auc: float) -> float | None:
    """A chain whose least likely window is below this would have less than `LEAST_VOTE`, where all have 1 on average;
    None where no chain is. `lowest`: the least likely windows of the chains so far, those dropped included: else each
    that is dropped would raise the bar for those to come."""
    by = power(auc)
    below = int((LEAST_VOTE / (by + 1)) ** (1 / by) * len(lowest) + 1e-9) if by else 0
    return sorted(lowest)[below] if below else None


def told_apart(vote: Vote, lowest: Sequence[float | None]) -> float | None:
    """How often a chain of the answer that most chains gave has a likelier least likely window than one that gave
    another or none; equals count half. None where no answer has the most, all gave it, or likelihoods are not known."""
    most = max(vote.counts, default=0)
    if vote.counts.count(most) != 1 or None in lowest:
        return None
    leader = vote.counts.index(most)
    values = [value for value in lowest if value is not None]
    inside = [value for value, answer in zip(values, vote.votes, strict=True) if answer == leader]
    others = sorted(value for value, answer in zip(values, vote.votes, strict=True) if answer != leader)
    if not others:
        return None
    beaten = sum((bisect_left(others, value) + bisect_right(others, value)) / 2 for value in inside)
    return beaten / (len(inside) * len(others))


class Evidence:
    """What one request knows of its chains beside the answers they came to."""

    def __init__(self, run: Run, by: By) -> None:
        self._run = run
        self.likely = by in ("likelihood", "all")
        self.probing = by in ("probes", "all") and run.seed is None
        self.alone = self.likely and run.seed is None
        """The first chain is being written by itself, as long as it may prevail: then there is nothing to vote on."""
        self._alone_for = 0
        """How many tokens the first chain had when it was looked at last."""
        self._window, self._auc = run.window, run.auc
        self._lowest: dict[int, float | None] = {}
        """The least likely windows of the chains that ended or were dropped, by number."""
        self._asked: dict[int, tuple[int, Candidate]] = {}
        """What chains would have answered when they were asked last, and how far they were then, by their number."""

    @property
    def looks(self) -> bool:
        """It looks at half-written chains."""
        return self.alone or self.likely or self.probing

    @property
    def every(self) -> int:
        """Tokens between two looks: few as long as the first chain is by itself, for the others wait for it. They grow
        with it, as each look reads it from its beginning."""
        return max(LEAST_WINDOW, self._alone_for // 4) if self.alone else self._window

    # -- likelihood ---------------------------------------------------------------------------------------------------

    def scores(self, finished: Sequence[Candidate]) -> list[Score] | None:
        """By how much each chain votes; None where all vote alike."""
        if not self.likely:
            return None
        self.alone = False
        for chain in finished:
            if chain.number not in self._lowest:
                certainty = chain.certainty(self._window)
                self._lowest[chain.number] = None if certainty is None else certainty.lowest
        return [Score(value) for value in weights([self._lowest[c.number] for c in finished], self._auc)]

    def prevailing(self, chain: Candidate) -> bool:
        """The answer of this chain is known to have the majority of a vote of any size."""
        return self.likely and chain.complete and self._run.prevails(chain)

    def hopeless(self, running: Sequence[Candidate], least: int) -> list[Candidate]:
        """The running chains whose end is not worth its tokens, where at least so many have ended: so unlikely that
        they would hardly vote. Each is told once."""
        if not self.likely:
            return []
        if self.alone:
            self.alone = any(self._run.prevails(chain) for chain in running)
            self._alone_for = max((chain.length for chain in running), default=0)
            self.likely = all(chain.certainty(self._window) for chain in running if chain.length)
        known = [value for value in self._lowest.values() if value is not None]
        below = hopeless_below(known, self._auc) if len(known) >= least else None
        if below is None:
            return []
        found: list[Candidate] = []
        for chain in running:
            certainty = chain.certainty(self._window) if chain.length >= self._window else None
            if certainty is not None and certainty.lowest < below and chain.number not in self._lowest:
                self._lowest[chain.number] = certainty.lowest
                found.append(chain)
        return found

    # -- half-written chains ------------------------------------------------------------------------------------------

    async def ask(self, running: Sequence[Candidate]) -> None:
        """Asks the running chains that have come to a stage, since they were asked last, at which what they would
        answer is more likely to hold than not."""
        run = self._run
        stages = {chain.number: run.stage(chain) for chain in running}
        asked = [
            chain
            for chain in running
            if self.probing
            and stages[chain.number] > self._asked.get(chain.number, (0, chain))[0]
            and run.foresight.holds(stages[chain.number]) >= LEAST_VOTE
        ]
        for answer in await run.probe(asked) if asked else ():
            if answer.parent is not None:
                self._asked[answer.parent] = stages[answer.parent], answer

    async def foretold(self, vote: Vote, finished: Sequence[Candidate], running: Sequence[Candidate]) -> list[float]:
        """The votes that the running chains are likely to give each answer of the vote, in the order of its counts."""
        found = [0.0] * len(vote.counts)
        asked = [self._asked[chain.number] for chain in running if chain.number in self._asked]
        if not asked:
            return found
        groups = await self._run.groups([*finished, *(answer for _, answer in asked)])
        places = {group: place for group, place in zip(groups, vote.votes, strict=False) if group is not None}
        for (stage, _), group in zip(asked, groups[len(finished) :], strict=True):
            if (place := places.get(group) if group is not None else None) is not None:
                found[place] += self._run.foresight.holds(stage)
        return found

    # -- what is learned ----------------------------------------------------------------------------------------------

    async def learn(self, vote: Vote, finished: Sequence[Candidate]) -> None:
        """The vote is over: what its evidence was worth is known to the requests to come."""
        run = self._run
        if self.likely and (auc := told_apart(vote, [self._lowest.get(c.number) for c in finished])) is not None:
            run.told_apart(auc)
        asked = [(chain, *self._asked[chain.number]) for chain in finished if chain.number in self._asked]
        groups = await run.groups([one for chain, _, answer in asked for one in (chain, answer)])
        for i, (_, stage, _) in enumerate(asked):
            ended, answered = groups[2 * i : 2 * i + 2]
            if ended is not None:
                run.foresight.saw(stage, held=ended == answered)
