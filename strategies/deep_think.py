"""Deep thinking: parallel chains, then one more that reads their conclusions and writes the answer.

Gemini's Deep Think, PaCoRe (Hu et al. 2026, "Learning to Scale Test-Time Compute with Parallel Coordinated Reasoning")
and LongCat's heavy mode work so, in one or several rounds. The last chain reads what the others have answered and, of a
model that reads thoughts of its own, the end of each thought, as much of both as leaves it half of its context. Its
part of the budget is kept from the start. Where the conclusions do not fit the answer is that of the vote.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Annotated

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from ponder.compute.run import Run
from ponder.compute.text import Candidate, Message, Prompt, ends

LEAST = 64
"""Characters of an answer without which it is no conclusion: its end alone says nothing."""


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class DeepThink:
    """Chains side by side, then one that reads their conclusions and writes the answer, streamed."""

    chains: Annotated[int, Field(ge=2, le=64, description="Chains side by side")] = 4
    rounds: Annotated[
        int, Field(ge=1, le=8, description="Rounds of them; each but the first reads the conclusions of the one before")
    ] = 1
    thoughts: Annotated[
        int,
        Field(
            ge=0,
            le=100_000,
            description="Characters of the end of each thought that are read, too, where the model reads its thoughts",
        ),
    ] = 2000
    unanimous: Annotated[
        bool, Field(description="Where all chains of a round agree, that is the answer, and no other chain is written")
    ] = True
    instruction: Annotated[
        str, Field(min_length=1, max_length=2000, description="What a chain that reads conclusions is asked to do")
    ] = "Check each step and fix any mistake."

    async def __call__(self, run: Run) -> Candidate:
        fed = run.chains(self.chains * self.rounds + 1) - 1
        rounds = max(1, min(self.rounds, fed // self.chains))
        chains = min(self.chains, fed // rounds)
        if chains < 2:
            return await run.stream()
        part = run.free // (chains * rounds + 1)
        prompt: Prompt | None = run.prompt
        for left in reversed(range(rounds)):
            with run.keeping(part * (left * chains + 1)):
                drafts = await run.sample(chains, prompt)
            vote = await run.vote(drafts)
            if vote.unanimous and self.unanimous and len(drafts) > 1:
                return vote.leader
            prompt = await self.concluded(run, drafts)
            if prompt is None:
                return vote.leader
        return await run.stream(prompt)

    async def concluded(self, run: Run, drafts: Sequence[Candidate]) -> Prompt | None:
        """The question, the conclusions as the model's own turn, and the wish to check them; None where they do not fit
        into the context, or there are none."""
        told = [draft for draft in drafts if draft.complete]
        if not told:
            return None
        wanted = max(1, min(run.free, await run.room(run.prompt) // 2))
        longest = max(len(draft.text) for draft in told)
        answer, thought = longest, self.thoughts
        while answer >= min(LEAST, longest):
            shown = Message("assistant", attempts(told, answer), thought=ends([one.thought for one in told], thought))
            prompt = run.prompt.then(shown, Message("user", self.instruction))
            if await run.room(prompt) >= wanted:
                return prompt
            answer, thought = answer // 2, thought // 2
        return None


def attempts(drafts: Sequence[Candidate], characters: int) -> str:
    """The answers of some chains, of each so many characters from its end. Of equal ones one is shown, and how many
    there are."""
    counts = Counter(draft.text[max(0, len(draft.text) - characters) :] for draft in drafts)
    if len(counts) == 1:
        return next(iter(counts))
    told = [text if count == 1 else f"{text}\n(reached {count} times)" for text, count in counts.items()]
    return "\n\n".join(f"Attempt {number}:\n{text}" for number, text in enumerate(told, 1))
