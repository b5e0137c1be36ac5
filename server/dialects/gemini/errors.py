"""Google's one shape of every refusal: `{"error": {"code", "message", "status", "details"}}` (google.rpc.Status), and
beside it, where tokens were made all the same, the `usageMetadata` of an answer."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from ponder.server.answers import Failure
from ponder.server.dialects.described import Part
from ponder.server.dialects.gemini.usage import UsageMetadata, shaped_usage

STATUS = {
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    408: "DEADLINE_EXCEEDED",
    409: "ABORTED",
    429: "RESOURCE_EXHAUSTED",
    500: "INTERNAL",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}
"""`error.status` by HTTP status; for all others the request is at fault."""
TYPE = "type.googleapis.com/google.rpc."


def body(failure: Failure) -> dict[str, Any]:
    """The shape."""
    details: list[dict[str, Any]] = [{"@type": f"{TYPE}ErrorInfo", "reason": failure.code.upper(), "domain": "ponder"}]
    if failure.field is not None:
        violation = {"field": failure.field, "description": failure.message}
        details.append({"@type": f"{TYPE}BadRequest", "fieldViolations": [violation]})
    status = STATUS.get(failure.status, "INVALID_ARGUMENT")
    told = {"code": failure.status, "message": failure.message, "status": status, "details": details}
    if failure.usage is None:
        return {"error": told}
    return {"error": told, "usageMetadata": shaped_usage(failure.usage, text=False)}


class ErrorDetail(Part):
    """An `ErrorInfo`, whose reason stays the same, or a `BadRequest`, which names the field."""

    type: str = Field(alias="@type")
    reason: str = ""
    domain: Literal["ponder"] = "ponder"
    fieldViolations: list[dict[str, str]] = Field(default=[])


class RpcStatus(Part):
    code: int = Field(description="The HTTP status")
    message: str
    status: str
    details: list[ErrorDetail]


class GeminiError(Part):
    """Every refusal."""

    error: RpcStatus
    usageMetadata: UsageMetadata | None = Field(default=None, description="Where tokens were made all the same")
