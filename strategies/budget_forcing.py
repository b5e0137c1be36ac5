"""Budget forcing (s1, Muennighoff et al. 2025): a thought that ends before its budget is used is made to go on.

The end is not taken, and a word that makes the model look again is put in in its place. What the model made is paid,
the end that was not taken too; the word is read like a prompt. When the budget is used, the thought is closed.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from ponder.compute.run import Run
from ponder.compute.text import Candidate


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class BudgetForcing:
    """One chain that thinks until its budget is used: where it would stop, "Wait" is put in. Streams its answer."""

    one_chain: ClassVar[bool] = True

    word: Annotated[
        str, Field(min_length=1, max_length=64, description="Put in where the model would stop thinking")
    ] = "Wait"
    rounds: Annotated[int, Field(ge=1, le=64, description="How often that is done, at most")] = 16
    min_thinking: Annotated[
        int | None,
        Field(ge=1, description="Hidden tokens behind which the model may stop; left out: the thinking budget"),
    ] = None

    async def __call__(self, run: Run) -> Candidate:
        return await run.stream(words=self.word, rounds=self.rounds, least=self.min_thinking)
