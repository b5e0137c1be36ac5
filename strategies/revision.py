"""Revision: draft, check, rewrite (Self-Refine, Madaan et al. 2023; selection over all versions: Snell et al. 2024).

A revision can turn a right answer wrong, so every version is kept and the choice is made over all of them, after each
round anew. A chain ends when its answer has stood through two checks, all of them when an exact verifier passes one.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from ponder.compute.run import Run
from ponder.compute.text import Candidate, Message, Prompt
from ponder.strategies.voting import elect


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Revision:
    """Drafts that the model checks and rewrites; the verifier's choice over every version."""

    judged: ClassVar[bool] = True

    chains: Annotated[int, Field(ge=1, le=32, description="Drafts revised side by side")] = 1
    rounds: Annotated[int, Field(ge=1, le=16, description="Revisions of each draft at most")] = 3
    instruction: Annotated[str, Field(min_length=1, max_length=2000, description="What a revision is asked to do")] = (
        "Check each step and fix any mistake."
    )

    async def __call__(self, run: Run) -> Candidate:
        latest = await run.sample(self.chains)
        versions = list(latest)
        scores = list(await run.score(versions))
        chosen = await elect(run, versions, scores)
        settled: dict[int, int] = {}
        for _ in range(self.rounds):
            if run.exact and max(score.value for score in scores) == 1:
                break
            asked = [(self.revise(run, draft), draft) for draft in latest]
            revised = await run.sample(len(asked), [prompt for prompt, _ in asked])
            for revision in revised:
                draft = next(draft for prompt, draft in asked if prompt is revision.prompt)
                same = len(set(await run.groups([draft, revision]))) == 1
                settled[revision.number] = settled.get(draft.number, 0) + 1 if same else 0
            versions += revised
            scores += await run.score(revised)
            chosen = await elect(run, versions, scores)
            latest = [revision for revision in revised if settled.get(revision.number, 0) < 2]
            if not latest:
                break
        return chosen

    def revise(self, run: Run, draft: Candidate) -> Prompt:
        """The question, the draft as the model's own turn, and the wish to check it."""
        own = Message("assistant", draft.text, thought=draft.thought)
        return run.prompt.then(own, Message("user", self.instruction))
