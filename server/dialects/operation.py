"""What the descriptions of dialects have alike, in the words of OpenAPI: parameters, headers, refusals."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from ponder.server.dialects.slips import Refused

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


def operation(
    name: str,
    summary: str,
    description: str,
    key_scheme: str,
    *,
    request: type[BaseModel],
    whole: type[BaseModel],
    event: type[BaseModel] | None,
    refusal: type[BaseModel],
    refused: Refused | None = None,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The operation `name`, and the schemas it refers to. `key_scheme` is the way a key is sent; the models are those
    of what is posted, answered whole, answered in each event of a stream (None: there is none), and of an error.
    `refused` are fields that are known and not offered: `x-refused-fields`."""
    answers = [whole, refusal] if event is None else [whole, event, refusal]
    _, defined = models_json_schema(
        [(request, "validation"), *((answer, "serialization") for answer in answers)], ref_template=REF
    )
    content = {"application/json": _schema(whole)}
    if event is not None:
        content["text/event-stream"] = _schema(event)
    errors = {"application/json": _schema(refusal)}
    told: dict[str, Any] = {
        "operationId": name,
        "summary": summary,
        "description": description,
        "x-asks-a-model": True,
        "security": [{key_scheme: []}],
        "parameters": [TIMEOUT, IDEMPOTENCY],
        "requestBody": {"required": True, "content": {"application/json": _schema(request)}},
        "responses": {
            "200": {
                "description": "The answer"
                if event is None
                else "The answer, whole, or with stream as server-sent events",
                "headers": {
                    name: {"description": words, "schema": {"type": "string"}} for name, words in HEADERS.items()
                },
                "content": content,
            },
            "4XX": {"description": "The request is at fault, or came at a bad time", "content": errors},
            "5XX": {"description": "The server is at fault", "content": errors},
        },
    }
    if refused is not None:
        told["x-refused-fields"] = refused.described
    return told, defined["$defs"]


def _schema(model: type[Any]) -> dict[str, Any]:
    return {"schema": {"$ref": REF.format(model=model.__name__)}}
