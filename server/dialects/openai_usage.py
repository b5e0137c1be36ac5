"""Tokens as OpenAI counts them in completions, of answers and of failures alike."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from ponder.server.answers import Usage
from ponder.server.dialects.described import Part


class PromptTokens(Part):
    cached_tokens: int = Field(description="Of the prompt, in the prefix cache")
    audio_tokens: int


class CompletionTokens(Part):
    reasoning_tokens: int = Field(description="Hidden ones; a part of completion_tokens")
    accepted_prediction_tokens: int
    rejected_prediction_tokens: int
    audio_tokens: int


class CompletionUsage(Part):
    """Tokens, the prompt once and all that the model made, for whichever chain."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokens
    completion_tokens_details: CompletionTokens


def shaped_usage(usage: Usage) -> dict[str, Any]:
    """OpenAI's usage: the prompt once, everything the model made, and how much of it was hidden."""
    return {
        "prompt_tokens": usage.prompt,
        "completion_tokens": usage.generated,
        "total_tokens": usage.prompt + usage.generated,
        "prompt_tokens_details": {"cached_tokens": usage.cached, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": usage.hidden,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
            "audio_tokens": 0,
        },
    }
