"""Tokens as OpenAI counts them, for answers and for failures alike."""

from __future__ import annotations

from typing import Any

from ponder.server.answers import Usage


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
