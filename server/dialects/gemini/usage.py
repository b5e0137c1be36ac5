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
    promptTokensDetails: list[TokenDetail] = Field(
        default=[], description="Of a prompt of text alone; tokens of images are not counted apart"
    )


def shaped_usage(usage: Usage, *, text: bool) -> dict[str, Any]:
    """The shape. `text`: the prompt has nothing but text."""
    return {
        "promptTokenCount": usage.prompt,
        "cachedContentTokenCount": usage.cached,
        "candidatesTokenCount": usage.generated - usage.hidden,
        "thoughtsTokenCount": usage.hidden,
        "totalTokenCount": usage.prompt + usage.generated,
        **details(usage.prompt, text=text),
    }


def details(prompt: int, *, text: bool) -> dict[str, Any]:
    """What the tokens of a prompt are of; nothing where images are among them, whose tokens nobody counts apart."""
    return {"promptTokensDetails": [{"modality": "TEXT", "tokenCount": prompt}]} if text else {}
