"""Tokens as Anthropic counts them, for answers and for failures alike."""

from __future__ import annotations

from typing import Any

from ponder.server.answers import Usage


def shaped_usage(usage: Usage) -> dict[str, Any]:
    """Anthropic's usage: what was read and what of it came from the cache, apart; everything the model made, and how
    much of it was hidden. The prefix cache is filled without being asked, which is not told as tokens of their own."""
    return {
        "input_tokens": usage.prompt - usage.cached,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": usage.cached,
        "output_tokens": usage.generated,
        "output_tokens_details": {"thinking_tokens": usage.hidden},
    }
