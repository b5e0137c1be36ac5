"""Tokens as Gemini counts them, of answers and of failures alike."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from ponder.server.answers import Usage
from ponder.server.dialects.described import Part


class TokenDetail(Part):
    modality: str
    tokenCount: int


class UsageMetadata(Part):
    """Tokens, the prompt once and all that the model made, for whichever chain."""

    promptTokenCount: int
    cachedContentTokenCount: int = Field(description="Of the prompt, in the prefix cache")
    candidatesTokenCount: int = Field(description="Visible ones")
    thoughtsTokenCount: int = Field(description="Hidden ones")
    totalTokenCount: int
    promptTokensDetails: list[TokenDetail]


def shaped_usage(usage: Usage) -> dict[str, Any]:
    """The shape."""
    return {
        "promptTokenCount": usage.prompt,
        "cachedContentTokenCount": usage.cached,
        "candidatesTokenCount": usage.generated - usage.hidden,
        "thoughtsTokenCount": usage.hidden,
        "totalTokenCount": usage.prompt + usage.generated,
        "promptTokensDetails": [{"modality": "TEXT", "tokenCount": usage.prompt}],
    }
