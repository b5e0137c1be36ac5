"""Gemini's methods in the words of OpenAPI."""

from __future__ import annotations

from typing import Any

from ponder.server.dialects.gemini import refused
from ponder.server.dialects.gemini.answer_schema import CountTokensResponse, GenerateContentResponse
from ponder.server.dialects.gemini.errors import GeminiError
from ponder.server.dialects.gemini.schema import CountRequest, GenerateRequest
from ponder.server.dialects.operation import operation

SUMMARY = {
    "generateContent": "Answer contents",
    "streamGenerateContent": "Answer contents, as a stream",
    "countTokens": "Count the tokens of a prompt",
}
MODEL: dict[str, Any] = {
    "name": "model",
    "in": "path",
    "required": True,
    "description": "A model of /v1beta/models without `models/` before it, or MODEL:STRATEGY",
    "schema": {"type": "string"},
}
KEY: dict[str, Any] = {
    "name": "key",
    "in": "query",
    "description": "The API key, where no header x-goog-api-key has it",
    "schema": {"type": "string"},
}
ALT: dict[str, Any] = {
    "name": "alt",
    "in": "query",
    "description": "sse: server-sent events; else one JSON array",
    "schema": {"enum": ["sse", "json"], "default": "json"},
}


def described(action: str, root: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The operation, and the schemas it refers to."""
    counts, streams = action == "countTokens", action == "streamGenerateContent"
    told, schemas = operation(
        f"{action}_{root.strip('/')}",
        SUMMARY[action],
        "As Google's Gemini API has it, with a thinking budget that binds. Names of fields may be "
        "written in camel case or with underscores. What is not known is named in the header x-ignored-parameters.",
        "key",
        request=CountRequest if counts else GenerateRequest,
        whole=CountTokensResponse if counts else GenerateContentResponse,
        event=GenerateContentResponse if streams else None,
        refusal=GeminiError,
    )
    told["x-refused-fields"] = refused.described() | (refused.described("generateContentRequest.") if counts else {})
    told["parameters"] = [MODEL, KEY, *([] if counts else told["parameters"]), *([ALT] if streams else [])]
    if streams:
        answer = told["responses"]["200"]
        answer["description"] = "The answer"
        whole = answer["content"]["application/json"]
        answer["content"]["application/json"] = {"schema": {"type": "array", "items": whole["schema"]}}
    return told, schemas
