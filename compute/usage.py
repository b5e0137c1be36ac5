"""What was used, in counts that add up: of a call, of an answer, of a request, of a day."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens that were read and made, in counts that add up: of a call, of a choice, of a request, of a day.

    `hidden` is `reasoning_tokens`, `hidden + visible` is `completion_tokens`.
    """

    prompt: int = 0
    """The caller's prompt, once a request however often it was read; 0 in the usage of a call or a choice."""
    hidden: int = 0
    visible: int = 0
    discarded: int = 0
    """Of the hidden: tokens of chains (answers included) that are no part of what was given."""
    prompt_read: int = 0
    """Physical prompt tokens over all calls, of which `cached` from the prefix cache."""
    cached: int = 0
    verifier: int = 0
    """Tokens a reward model read, of which `verifier_cached` from its prefix cache."""
    verifier_cached: int = 0
    chains: int = 0
    """Chains begun, questions of our own included."""
    prompt_cached: int = 0
    """Of `prompt`: what was in the prefix cache when the first chain read it."""
    wasted: int = 0
    """Tokens made a second time, because the model that made them first went away: billed to nobody, and in no other
    count here."""
    unseen_calls: int = 0
    """Chains of which the end of a call was not seen: the model may have made tokens that never came, which are in no
    count, so the counts here are the least that is certain."""

    @property
    def generated(self) -> int:
        """Tokens the language model made."""
        return self.hidden + self.visible

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.prompt + other.prompt,
            self.hidden + other.hidden,
            self.visible + other.visible,
            self.discarded + other.discarded,
            self.prompt_read + other.prompt_read,
            self.cached + other.cached,
            self.verifier + other.verifier,
            self.verifier_cached + other.verifier_cached,
            self.chains + other.chains,
            self.prompt_cached + other.prompt_cached,
            self.wasted + other.wasted,
            self.unseen_calls + other.unseen_calls,
        )
