"""What the answers of OpenAI's dialects have alike: headers, the framing of streams, JSON, log-probabilities."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic_core import PydanticSerializationError, to_json

from ponder.compute.text import TokenLogprob
from ponder.server.dialects.slips import Stray, ignored
from ponder.server.plan import ResolvedRequest

STREAM_HEADERS: Sequence[tuple[bytes, bytes]] = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
)
"""Of server-sent events, which no proxy is to keep back."""
LEAST_LOGPROB = -9999.0
"""Stands for the logarithm of nothing, which JSON cannot say."""


def headers(
    resolved: ResolvedRequest, strays: Sequence[Stray], names: Mapping[str, str], more: Sequence[str] = ()
) -> dict[str, str]:
    """What headers say of a request: `strays` are its keys that nobody knows, `names` what the dialect calls our
    fields, `more` known fields without effect."""
    told: dict[str, str] = {}
    if without := ignored(strays, [*(names.get(name, name) for name in resolved.ignored), *more]):
        told["x-ignored-parameters"] = without
    if resolved.clamped_from is not None:
        told["x-thinking-budget-clamped"] = str(resolved.budget)
    return told


def dumped(value: Mapping[str, Any]) -> bytes:
    """JSON by pydantic, which is quicker than `json.dumps`; half of a surrogate pair only that can write."""
    try:
        return to_json(value)
    except PydanticSerializationError:
        return json.dumps(value).encode()


def token_logprobs(tokens: Sequence[TokenLogprob]) -> dict[str, Any]:
    """Of the visible tokens of an answer, as completions have them."""
    return {
        "content": [_token(token) | {"top_logprobs": [_token(other) for other in token.top]} for token in tokens],
        "refusal": None,
    }


def _token(token: TokenLogprob) -> dict[str, Any]:
    return {"token": token.text, "bytes": list(token.bytes), "logprob": finite(token.logprob)}


def finite(logprob: float) -> float:
    """A log-probability as JSON can say it."""
    return logprob if math.isfinite(logprob) else LEAST_LOGPROB


def data_event(value: Mapping[str, Any]) -> bytes:
    """A server-sent event without a name, as completions have them."""
    return b"data: " + json.dumps(value).encode() + b"\n\n"


def shown_thought(text: str) -> dict[str, str]:
    """A thought, or its summary, by both names that clients look for."""
    return {"reasoning": text, "reasoning_content": text}
