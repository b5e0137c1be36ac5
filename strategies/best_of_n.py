"""Best-of-N: many chains judged by a verifier (Cobbe et al. 2021; the weighted form: Snell et al. 2024)."""

from __future__ import annotations

from typing import Annotated, Literal

from compute.answers import group, weighted_vote
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from compute.run import Run
from compute.text import Candidate


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class BestOfN:
    """N chains, each scored by the verifier; the answer with the most weight behind it."""

    n: Annotated[int, Field(ge=1, le=256, description="Chains at most")] = 8
    select: Annotated[
        Literal["weighted", "argmax"],
        Field(description="Add up the scores of equal answers, or take the single best (for exact verifiers)"),
    ] = "weighted"

    async def __call__(self, run: Run) -> Candidate:
        candidates = await run.sample(self.n)
        run.offer(candidates[0])
        scores = [score.value for score in await run.score(candidates)]
        if self.select == "argmax":
            return candidates[scores.index(max(scores))]
        winner, share = weighted_vote(candidates, await group([c.text for c in candidates]), scores)
        run.offer(candidates[winner], share)
        return candidates[winner]
