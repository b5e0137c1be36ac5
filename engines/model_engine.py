"""What an engine does the same way wherever its model runs, in this process or behind an address."""

from __future__ import annotations

from ponder.compute.engine import ModelCard, Sampling
from ponder.compute.errors import RequestError, Unavailable
from ponder.compute.text import Candidate, Prompt
from ponder.engines.model import Model
from ponder.engines.reopening import reopened

CHECK_SECONDS = 20.0
"""A model that makes no token for so long, though asked, does not answer."""

CHECK_TOKENS = 32
"""Line breaks a model is given to see whether it goes on. On a processor with AMX, the engine of vLLM 0.32 dies of an
illegal instruction where the first prompt it reads has fewer than eight tokens: its tiles are not set up by then."""

FRESH_SECONDS = 5.0
"""A model that has made a token within that answers."""


class ModelEngine:
    """The part of `ponder.compute.engine.Engine`, `ReadsWishes` and `Reopens` that takes the model's files alone."""

    model: Model

    @property
    def card(self) -> ModelCard:
        return self.model.card

    def length(self, prompt: Prompt, *, thinking: bool = True) -> int:
        """Tokens of the prompt as the model will read it. Raises `RequestError` where the template refuses it."""
        return self.model.prompts.length(prompt, thinking=thinking)

    def asks_to_think(self, prompt: Prompt) -> bool | None:
        """What the conversation itself says of thinking; see `ponder.compute.engine.ReadsWishes`."""
        return self.model.prompts.says(prompt)

    def reopened(self, chain: Candidate, words: str) -> Candidate | None:
        """See `ponder.compute.engine.Reopens`."""
        return reopened(self.model, chain, words)

    def check_bias(self, sampling: Sampling) -> None:
        """Raises `RequestError` for a token that the model does not have."""
        size = self.model.vocabulary_size
        if any(not 0 <= token < size for token, _ in sampling.logit_bias):
            raise RequestError(f"logit_bias names a token id outside of 0 .. {size - 1}", param="logit_bias")

    def check_prompt(self) -> list[int]:
        """Token ids that the model is given to see whether it goes on."""
        return list(self.model.prompts.with_markers("\n")[-1:] or (0,)) * CHECK_TOKENS

    def was_closed(self) -> Unavailable:
        """For who asks for it when it was closed."""
        return Unavailable(f"model {self.card.name} is closed", code="engine_unavailable")

    def silent(self) -> Unavailable:
        """For a check without a token."""
        return Unavailable(
            f"model {self.card.name} has made no token for {CHECK_SECONDS:.0f} s", code="engine_unavailable"
        )
