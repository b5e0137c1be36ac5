"""OpenAI's chat completions in the words of OpenAPI: what is posted, what is answered, and our fields in both."""

from __future__ import annotations

from typing import Any

from pydantic.json_schema import models_json_schema

from ponder.server.dialects.openai_chat.answer_schema import ChatCompletion, ChatCompletionChunk
from ponder.server.dialects.openai_chat.errors import ErrorBody
from ponder.server.dialects.openai_chat.schema import ChatRequest

REF = "#/components/schemas/{model}"
HEADERS: dict[str, Any] = {
    "x-request-id": "The name of this request, in the log and on /v1/traces",
    "x-ignored-parameters": "Fields that had no effect, where there are some",
    "x-thinking-budget-clamped": "The budget, where it was lowered to the ceiling",
    "idempotent-replayed": "true, where it is the answer to an earlier request with the same Idempotency-Key",
}
TIMEOUT = {
    "name": "X-Request-Timeout",
    "in": "header",
    "description": "Seconds until the best so far is the answer; as timeout in the body",
    "schema": {"type": "number", "exclusiveMinimum": 0},
}
IDEMPOTENCY = {
    "name": "Idempotency-Key",
    "in": "header",
    "description": "The same key and body runs once and is billed once, and is given the same answer when sent again",
    "schema": {"type": "string", "minLength": 1, "maxLength": 255},
}


def described(key_scheme: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The operation, and the schemas it refers to. `key_scheme` is the way a key is sent."""
    _, defined = models_json_schema(
        [
            (ChatRequest, "validation"),
            (ChatCompletion, "serialization"),
            (ChatCompletionChunk, "serialization"),
            (ErrorBody, "serialization"),
        ],
        ref_template=REF,
    )
    refused = {"application/json": _schema(ErrorBody)}
    operation: dict[str, Any] = {
        "operationId": "chat_completions",
        "summary": "Answer a conversation",
        "description": "OpenAI's chat completions with a thinking budget that binds. What is not known is named in the "
        "header x-ignored-parameters.",
        "security": [{key_scheme: []}],
        "parameters": [TIMEOUT, IDEMPOTENCY],
        "requestBody": {"required": True, "content": {"application/json": _schema(ChatRequest)}},
        "responses": {
            "200": {
                "description": "The answer, whole, or with stream as server-sent events",
                "headers": {
                    name: {"description": words, "schema": {"type": "string"}} for name, words in HEADERS.items()
                },
                "content": {
                    "application/json": _schema(ChatCompletion),
                    "text/event-stream": _schema(ChatCompletionChunk),
                },
            },
            "4XX": {"description": "The request is at fault, or came at a bad time", "content": refused},
            "5XX": {"description": "The server is at fault", "content": refused},
        },
    }
    return operation, defined["$defs"]


def _schema(model: type[Any]) -> dict[str, Any]:
    return {"schema": {"$ref": REF.format(model=model.__name__)}}
