"""The JSON schema of an answer where other servers have it (vLLM, llama.cpp), put where OpenAI has it."""

from __future__ import annotations

from typing import Any, cast

from ponder.compute.errors import RequestError
from ponder.server.validation import mistyped


def placed(body: dict[str, Any]) -> None:
    """Changes the body. Raises `RequestError` where it says twice what the answer is."""
    outputs, form = body.get("structured_outputs"), body.get("response_format")
    found: dict[str, Any] = {
        "guided_json": body.pop("guided_json", None),
        "structured_outputs.json": _popped(body, "structured_outputs", outputs, "json"),
        "response_format.schema": form.get("schema") if isinstance(form, dict) else None,  # pyright: ignore[reportUnknownMemberType]
    }
    given = {name: schema for name, schema in found.items() if schema is not None}
    if not given:
        return
    name, schema = next(iter(given.items()))
    kind = cast("dict[str, Any]", form).get("type") if isinstance(form, dict) else None
    if len(given) > 1 or (form is not None and (name != "response_format.schema" or kind == "json_schema")):
        raise RequestError(
            f"{name} says twice what the answer is: use response_format alone",
            param=name,
            code="conflicting_parameters",
        )
    if not isinstance(schema, dict):
        raise mistyped(name, "a JSON schema, an object")
    body["response_format"] = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}


def _popped(body: dict[str, Any], field: str, holder: Any, key: str) -> Any:
    """What an object of the body has under a key, which is taken out of it, and the object with its last key."""
    if not isinstance(holder, dict):
        return None
    held = cast("dict[str, Any]", holder)
    rest = {name: value for name, value in held.items() if name != key and value is not None}
    if rest:
        body[field] = rest
    else:
        del body[field]
    return held.get(key)
