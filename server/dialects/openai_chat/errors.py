"""OpenAI's one shape of every refusal: `{"error": {"message", "type", "param", "code"}}`, and beside it, where tokens
were made all the same, the `usage` of an answer."""

from __future__ import annotations

import json
from typing import Any

from pydantic import BaseModel, Field
from starlette.responses import Response

from ponder.server.answers import Failure
from ponder.server.dialects.openai_chat.answer_schema import CompletionUsage
from ponder.server.dialects.openai_chat.usage import shaped_usage

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


def body(failure: Failure) -> dict[str, Any]:
    """The shape."""
    kind = TYPES.get(failure.status, "invalid_request_error")
    if failure.code == "insufficient_quota":
        kind = failure.code
    told = {"error": {"message": failure.message, "type": kind, "param": failure.field, "code": failure.code}}
    return told if failure.usage is None else {**told, "usage": shaped_usage(failure.usage)}


def response(failure: Failure) -> Response:
    """The answer, with the headers that OpenAI's clients look at."""
    headers: dict[str, str] = {}
    if failure.wants_key:
        headers["www-authenticate"] = "Bearer"
    if not failure.again:
        headers["x-should-retry"] = "false"
    return Response(json.dumps(body(failure)).encode(), failure.status, headers, media_type="application/json")


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
