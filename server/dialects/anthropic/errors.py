"""Anthropic's one shape of every refusal: `{"type": "error", "error": {"type", "message", "details"}}`, and beside it,
where tokens were made all the same, the `usage` of an answer."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, Field

from ponder.server.answers import Failure
from ponder.server.dialects.anthropic.answer_schema import MessageUsage
from ponder.server.dialects.anthropic.usage import shaped_usage

TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    409: "conflict_error",
    413: "request_too_large",
    429: "rate_limit_error",
    500: "api_error",
    503: "overloaded_error",
    504: "timeout_error",
}
"""`error.type` by HTTP status; for all others the request is at fault."""
TOO_LONG = "prompt is too long: "
"""By which Anthropic's clients know that a conversation has to be shortened."""


def body(failure: Failure) -> dict[str, Any]:
    """The shape. `details.error_code` is the word for programs, where Anthropic's clients look for one."""
    words = TOO_LONG + failure.message if failure.code == "context_length_exceeded" else failure.message
    details = {"error_code": failure.code} | ({} if failure.field is None else {"param": failure.field})
    kind = TYPES.get(failure.status, "invalid_request_error")
    told = {"type": "error", "error": {"type": kind, "message": words, "details": details}}
    return told if failure.usage is None else {**told, "usage": shaped_usage(failure.usage)}


class ErrorDetails(BaseModel):
    """What programs may go by."""

    error_code: str = Field(description="A word that stays the same")
    param: str = Field(default="", description="The field of the request that is at fault")


class MessageError(BaseModel):
    """What was wrong."""

    type: str
    message: str
    details: ErrorDetails


class MessageErrorBody(BaseModel):
    """Every refusal."""

    type: Literal["error"]
    error: MessageError
    usage: MessageUsage | None = Field(default=None, description="Where tokens were made all the same")
