"""Gemini's methods in the words of OpenAPI."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from ponder.server.dialects.gemini.answer_schema import CountTokensResponse, GenerateContentResponse
from ponder.server.dialects.gemini.errors import GeminiError
from ponder.server.dialects.gemini.schema import CountRequest, GenerateRequest
from ponder.server.dialects.openai_description import HEADERS, IDEMPOTENCY, REF, TIMEOUT

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
    asked: type[BaseModel] = CountRequest if action == "countTokens" else GenerateRequest
    given: type[BaseModel] = CountTokensResponse if action == "countTokens" else GenerateContentResponse
    _, defined = models_json_schema(
        [(asked, "validation"), (given, "serialization"), (GeminiError, "serialization")], ref_template=REF
    )
    refused = {"application/json": _schema(GeminiError)}
    content: dict[str, Any] = {"application/json": _schema(given)}
    more: list[dict[str, Any]] = [TIMEOUT, IDEMPOTENCY]
    if action == "countTokens":
        more = []
    elif action == "streamGenerateContent":
        more.append(ALT)
        content = {
            "text/event-stream": _schema(given),
            "application/json": {"schema": {"type": "array", "items": _schema(given)["schema"]}},
        }
    return {
        "operationId": f"{action}_{root.strip('/')}",
        "summary": SUMMARY[action],
        "description": "As Google's Gemini API has it, with a thinking budget that binds. Names of fields may be "
        "written in camel case or with underscores. What is not known is named in the header x-ignored-parameters.",
        "security": [{"key": []}],
        "parameters": [MODEL, KEY, *more],
        "requestBody": {"required": True, "content": {"application/json": _schema(asked)}},
        "responses": {
            "200": {
                "description": "The answer",
                "headers": {
                    name: {"description": words, "schema": {"type": "string"}} for name, words in HEADERS.items()
                },
                "content": content,
            },
            "4XX": {"description": "The request is at fault, or came at a bad time", "content": refused},
            "5XX": {"description": "The server is at fault", "content": refused},
        },
    }, defined["$defs"]


def _schema(model: type[Any]) -> dict[str, Any]:
    return {"schema": {"$ref": REF.format(model=model.__name__)}}
