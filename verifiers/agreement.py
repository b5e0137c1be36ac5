"""Judges by how many candidates give the same answer (self-consistency, Wang et al. 2022). It needs no model, so it is
the fallback of all other verifiers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import ClassVar

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from ponder.compute.run import Run
from ponder.compute.text import Candidate, Score


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Agreement:
    """The share of the vote that gives the same answer."""

    needs_likelihood: ClassVar[bool] = False
    counts: ClassVar[bool] = True

    async def __call__(self, run: Run, candidates: Sequence[Candidate]) -> Sequence[Score]:
        """0 for a candidate that is not over or holds no answer: it does not vote."""
        groups = await run.groups(candidates)
        votes = Counter(g for g in groups if g is not None)
        return [Score(0.0 if g is None else votes[g] / votes.total()) for g in groups]
