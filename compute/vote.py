"""A vote among candidates: those with equal answers are counted together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ponder.compute.text import Candidate


@dataclass(frozen=True, slots=True)
class Vote:
    """How candidates stand when those with equal answers are counted together.

    `counts` and `weights` have one entry for each answer, heaviest first. Both are empty where no candidate holds an
    answer that can be compared; then the best scored, or first, candidate leads.
    """

    leader: Candidate
    counts: tuple[int, ...]
    weights: tuple[float, ...]
    candidates: int
    """Those without an answer, who do not vote, included."""
    votes: tuple[int | None, ...] = ()
    """For each candidate (one given twice is one) its answer's place in `counts`; None where it does not vote."""

    @property
    def share(self) -> float:
        """The leader's part of all the weight, in [0, 1]."""
        whole = sum(self.weights)
        return self.weights[0] / whole if whole else 0.0

    @property
    def unanimous(self) -> bool:
        """All candidates gave the same answer."""
        return self.counts == (self.candidates,)


def tally(
    candidates: Sequence[Candidate],
    weights: Sequence[float],
    groups: Sequence[int | None],
    *,
    shorter_first: bool = False,
) -> Vote:
    """Adds up the weights of equal answers: `groups` has the answer of each candidate, None where it does not vote. The
    leader is the best of the heaviest group; of equals the one seen first, or with `shorter_first` the one whose chains
    have fewer tokens."""
    totals: dict[int, tuple[float, int, int]] = {}
    for candidate, weight, answer in zip(candidates, weights, groups, strict=True):
        if answer is not None:
            total, count, tokens = totals.get(answer, (0.0, 0, 0))
            totals[answer] = total + weight, count + 1, tokens + candidate.tokens * shorter_first
    ranked = sorted(totals, key=lambda a: (-totals[a][0], -totals[a][1], totals[a][2], a))
    if ranked:
        running = [i for i, answer in enumerate(groups) if answer == ranked[0]]
    else:
        running = [i for i, c in enumerate(candidates) if c.complete] or list(range(len(candidates)))
    leader = candidates[max(running, key=lambda i: (weights[i], -i))]
    counts, shares = tuple(totals[a][1] for a in ranked), tuple(totals[a][0] for a in ranked)
    votes = tuple(None if answer is None else ranked.index(answer) for answer in groups)
    return Vote(leader, counts, shares, len(candidates), votes)
