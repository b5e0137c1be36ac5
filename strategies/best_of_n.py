"""Best-of-N: many chains judged by a verifier (Cobbe et al. 2021; the weighted form: Snell et al. 2024)."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from ponder.compute.run import Run
from ponder.compute.text import Candidate
from ponder.strategies.voting import elect


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class BestOfN:
    """N chains, each scored by the verifier; the answer with the most weight behind it."""

    judged: ClassVar[bool] = True

    n: Annotated[int, Field(ge=1, le=256, description="Chains at most")] = 8
    select: Annotated[
        Literal["auto", "weighted", "argmax"],
        Field(
            description="Add up the scores of equal answers, or take the single best. auto: the sum, but only over the "
            "best where the verifier runs or checks the answer"
        ),
    ] = "auto"

    async def __call__(self, run: Run) -> Candidate:
        candidates = await run.sample(self.n)
        run.offer(candidates[0])
        scores = await run.score(candidates)
        match self.select:
            case "auto":
                return await elect(run, candidates, scores)
            case "weighted":
                return (await run.vote(candidates, scores)).leader
            case "argmax":
                return max(zip(candidates, scores, strict=True), key=lambda pair: pair[1].value)[0]
