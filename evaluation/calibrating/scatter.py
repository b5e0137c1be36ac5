"""Learns how far a model's answers to a question scatter (`compute/full_vote.py`) from recorded samples."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from math import exp, log

from ponder.compute.full_vote import Urn
from ponder.engines.samples import Question

DISCOUNTS = (0.0, 0.3, 0.6, 0.85)
READY = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
"""Strength above -discount. The grid is as wide as votes can tell apart: from one answer alone to none given twice."""
GRID = tuple(Urn(1 / len(DISCOUNTS) / len(READY), d, round(ready - d, 3)) for d in DISCOUNTS for ready in READY)

RARE = 0.01
"""The part of all questions below which an urn is left out."""


def votes(question: Question) -> tuple[int, ...]:
    """How many of a question's samples gave each answer, most first."""
    counted = Counter(sample.answer for sample in question.samples if sample.answer is not None)
    return tuple(sorted(counted.values(), reverse=True))


def learn(pools: Sequence[Sequence[Question]], prior: Sequence[Urn] = (), worth: float = 0.0) -> tuple[Urn, ...]:
    """The urns that explain the questions of some pools best, each pool with the same weight: the weights of a grid, by
    expectation and maximisation (Dempster et al. 1977). `prior` counts for as many questions as `worth` says, so that a
    few questions of one model move what is known of others.

    Raises `ValueError` where no question has votes.
    """
    counted = [[counts for question in pool if (counts := votes(question))] for pool in pools]
    counted = [pool for pool in counted if pool]
    if not counted:
        raise ValueError("no question has an answer that could be compared with another")
    whole = sum(map(len, counted))
    rows: dict[tuple[int, ...], float] = {}
    for pool in counted:
        for counts in pool:
            rows[counts] = rows.get(counts, 0.0) + whole / len(counted) / len(pool)
    urns = list(dict.fromkeys(replace(urn, weight=1.0) for urn in (*prior, *GRID)))
    known = {replace(urn, weight=1.0): worth * urn.weight for urn in prior}
    weights = _fitted(urns, rows, known)
    # What is rare is left out: each urn is time at the end of each vote.
    often = [urn for urn, weight in zip(urns, weights, strict=True) if weight >= RARE]
    fitted = zip(often, _fitted(often, rows, known), strict=True)
    return tuple(replace(urn, weight=round(weight, 4)) for urn, weight in fitted if weight >= RARE / 2)


def _fitted(urns: Sequence[Urn], rows: dict[tuple[int, ...], float], known: dict[Urn, float]) -> list[float]:
    """The weights at the maximum of the posterior."""
    likely: list[tuple[float, list[float]]] = []
    for counts, times in rows.items():
        logs = [urn.evidence(counts) for urn in urns]
        likely.append((times, [exp(one - max(logs)) for one in logs]))
    weights = [1 / len(urns)] * len(urns)
    for _ in range(1000):
        found = [known.get(urn, 0.0) for urn in urns]
        for times, chances in likely:
            joint = [w * chance for w, chance in zip(weights, chances, strict=True)]
            scale = times / sum(joint)
            found = [f + scale * one for f, one in zip(found, joint, strict=True)]
        new = [f / sum(found) for f in found]
        if max(abs(a - b) for a, b in zip(new, weights, strict=True)) < 1e-5:
            return new
        weights = new
    return weights


def odds(question: Question, urns: Sequence[Urn]) -> float:
    """The logarithm of the probability of a question's votes by some urns; 0 where there are none."""
    if not (counts := votes(question)):
        return 0.0
    logs = [log(urn.weight) + urn.evidence(counts) for urn in urns]
    most = max(logs)
    return most + log(sum(exp(one - most) for one in logs)) - log(sum(urn.weight for urn in urns))
