"""OpenAI's one shape of every refusal: `{"error": {"message", "type", "param", "code"}}`, and beside it, where tokens
were made all the same, the `usage` of an answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pydantic import BaseModel, Field
from starlette.responses import Response

from ponder.server.answers import Failure, Usage
from ponder.server.dialects.openai_usage import CompletionUsage, shaped_usage
from ponder.server.dialects.refusal import refusal

TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
    500: "server_error",
    503: "service_unavailable_error",
    504: "timeout_error",
}
"""`error.type` by HTTP status; for all others the request is at fault."""


def kind(failure: Failure) -> str:
    """`error.type`."""
    if failure.code == "insufficient_quota":
        return failure.code
    return TYPES.get(failure.status, "invalid_request_error")


def body(failure: Failure, usage: Callable[[Usage], dict[str, Any]] = shaped_usage) -> dict[str, Any]:
    """The shape. `usage` writes that of the dialect."""
    told = {"error": {"message": failure.message, "type": kind(failure), "param": failure.field, "code": failure.code}}
    return told if failure.usage is None else {**told, "usage": usage(failure.usage)}


def key(headers: Mapping[str, str]) -> str | None:
    """The API key a caller presents as OpenAI's clients do."""
    scheme, _, presented = headers.get("authorization", "").partition(" ")
    return presented.strip() or None if scheme.lower() == "bearer" else None


def response(failure: Failure, usage: Callable[[Usage], dict[str, Any]] = shaped_usage) -> Response:
    """The answer."""
    return refusal(failure, body(failure, usage))


class Error(BaseModel):
    """What was wrong."""

    message: str
    type: str
    param: str | None = Field(description="The field of the request that is at fault")
    code: str | None = Field(description="A word that stays the same")


class ErrorBody(BaseModel):
    """Every refusal, on every route."""

    error: Error
    usage: CompletionUsage | None = Field(default=None, description="Where tokens were made all the same")
