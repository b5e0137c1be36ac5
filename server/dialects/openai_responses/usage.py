"""Tokens as the Responses API counts them, of answers and of failures alike."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from ponder.server.answers import Usage
from ponder.server.dialects.described import Part


class InputTokens(Part):
    cached_tokens: int = Field(description="Of the prompt, in the prefix cache")
    cache_write_tokens: int


class OutputTokens(Part):
    reasoning_tokens: int = Field(description="Hidden ones; a part of output_tokens")


class ResponseUsage(Part):
    """Tokens, the prompt once and all that the model made, for whichever chain."""

    input_tokens: int
    input_tokens_details: InputTokens
    output_tokens: int
    output_tokens_details: OutputTokens
    total_tokens: int


def response_usage(usage: Usage) -> dict[str, Any]:
    """The shape."""
    return {
        "input_tokens": usage.prompt,
        "input_tokens_details": {"cached_tokens": usage.cached, "cache_write_tokens": 0},
        "output_tokens": usage.generated,
        "output_tokens_details": {"reasoning_tokens": usage.hidden},
        "total_tokens": usage.prompt + usage.generated,
    }
