"""Universal self-consistency (Chen et al. 2023): the model picks the answer most of its own agree with.

A vote needs answers that can be compared. Prose, code and plans cannot, but a model can say which of several answers
has the most in common with the others. The verifier `consensus` asks it that, where the request names no other.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from ponder.compute.run import Run
from ponder.compute.text import Candidate

ASKING = 8
"""Tokens of the thinking budget that are kept for asking, at most."""


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class UniversalSelfConsistency:
    """Many chains; the answer that the model itself finds most consistent with the others, in prose too."""

    judged: ClassVar[bool] = True
    default_verifier: ClassVar[str] = "consensus"

    n: Annotated[int, Field(ge=1, le=16, description="Chains at most")] = 8

    async def __call__(self, run: Run) -> Candidate:
        with run.keeping(min(ASKING, run.free // 4)):
            candidates = await run.sample(self.n)
        whole = [candidate for candidate in candidates if candidate.complete] or candidates
        run.offer(whole[0])
        if len(whole) == 1:
            return whole[0]
        scores = await run.score(whole)
        return max(zip(whole, scores, strict=True), key=lambda pair: pair[1].value)[0]
