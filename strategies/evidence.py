"""Evidence beside votes, as plain functions: what the likelihood of chains, and their answers half-way, are worth.

Nothing here has a threshold of its own. Likelihood counts by its rank among the chains of one question, to a power that
follows from how well it told answers apart lately (`ponder.compute.likelihood`). A half-written chain counts for what
it would answer as far as such answers have held lately.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence

from ponder.compute.likelihood import power
from ponder.compute.vote import Vote

LEAST_VOTE = 0.5
"""A chain that would have less of a vote than this is not worth its end."""


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
    return [(rank / len(order)) ** by for rank in ranks]


def hopeless_below(lowest: Sequence[float], auc: float) -> float | None:
    """A chain whose least likely window is below this would have less than `LEAST_VOTE`, where all have 1 on average;
    None where no chain is. `lowest`: the least likely windows of the chains so far, those dropped included: else each
    that is dropped would raise the bar for those to come."""
    by = power(auc)
    below = int((LEAST_VOTE / (by + 1)) ** (1 / by) * len(lowest)) if by else 0
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
