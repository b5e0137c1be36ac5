"""What tokens cost, in whole nano-USD: prices are integers, and a request is rounded once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ponder.compute.usage import Usage

NANO = 1_000_000_000
"""Nano-USD of a USD."""
TOKENS = 1_000_000
"""Prices are for so many tokens."""


@dataclass(frozen=True, slots=True)
class Price:
    """Nano-USD for a million tokens of each kind, for one model, and the version of the price book they stand in."""

    version: str
    prompt: int
    cached: int
    """Tokens of the prompt that were in the prefix cache when the first chain read it."""
    thinking: int
    answer: int
    verifier: int
    """Tokens a reward model reads."""

    def chain(self, prompt: int, tokens: int) -> int:
        """What one more chain of so many tokens costs whoever runs it, times `TOKENS`: it reads the prompt again, from
        the prefix cache. A bill has the prompt once."""
        return prompt * self.cached + tokens * self.thinking

    def judging(self, prompt: int, lengths: Sequence[int]) -> int:
        """What a reward model reads for chains of these lengths, times `TOKENS`: the prompt with each."""
        return sum(prompt + tokens for tokens in lengths) * self.verifier

    def cost(self, usage: Usage) -> int:
        """Nano-USD of the usage of a request, half a nano-USD rounded up. More tokens never cost less."""
        parts = (
            (usage.prompt - usage.prompt_cached, self.prompt),
            (usage.prompt_cached, self.cached),
            (usage.hidden, self.thinking),
            (usage.visible, self.answer),
            (usage.verifier, self.verifier),
        )
        return (sum(tokens * price for tokens, price in parts) + TOKENS // 2) // TOKENS
