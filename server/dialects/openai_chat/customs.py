"""What clients of other servers send, read as what it means: one field written another way, or in another place.

All of it happens on the body before it is checked, so that a wish says the same whichever way it came: an
`extra_body` that was sent as it stands, whole numbers written 256.0, a limit of -1 for none, the JSON schema where vLLM
and llama.cpp have it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, cast

from ponder.compute.errors import RequestError

WHOLE = (
    "max_tokens",
    "max_completion_tokens",
    "max_answer_tokens",
    "n",
    "seed",
    "top_k",
    "top_logprobs",
)
"""Fields that are whole numbers, and may be written with a point: languages without whole numbers do."""
UNLIMITED = ("max_tokens", "max_completion_tokens")
"""Limits that are none at -1."""
OWN = frozenset({"google"})
"""What belongs into `extra_body` in the body itself, as Google's documents have it."""
SCHEMAS = ("guided_json", "structured_outputs.json", "response_format.schema")
"""Where other servers have the JSON schema of an answer."""
TEXTS = ("text", "refusal", "input_text", "output_text")
"""Parts of a message that hold a text."""
THOUGHTS = ("thinking", "redacted_thinking", "reasoning")
"""Parts that hold a thought, in the histories of other APIs."""
_THOUGHT = re.compile(
    r"\s*(?:<(think|thinking|thought|reasoning|seed:think)>.*?</\1>|\[THINK\].*?\[/THINK\])\s*", re.DOTALL
)


def understood(body: dict[str, Any]) -> dict[str, Any]:
    """The body in the words of `ChatRequest`. Raises `RequestError` where two ways to say something disagree."""
    body = _unwrapped(body)
    for field in WHOLE:
        value = body.get(field)
        if isinstance(value, float) and value.is_integer():
            body[field] = int(value)
    for field in UNLIMITED:
        if body.get(field) == -1:
            del body[field]
    _schema(body)
    return body


def _unwrapped(body: dict[str, Any]) -> dict[str, Any]:
    """What an `extra_body` holds, in its place: OpenAI's client would have put it there, others send it as it is."""
    extra = body.get("extra_body")
    if not isinstance(extra, dict):
        return dict(body)
    held = cast("dict[str, Any]", extra)
    moved = {key: value for key, value in held.items() if key not in OWN and key != "extra_body"}
    for key, value in moved.items():
        if body.get(key) is not None and body[key] != value:
            raise RequestError(
                f"extra_body.{key} and {key} contradict each other", param=key, code="conflicting_parameters"
            )
    rest = {key: value for key, value in held.items() if key not in moved}
    made = {key: value for key, value in body.items() if key != "extra_body"}
    return made | moved | ({"extra_body": rest} if rest else {})


def _schema(body: dict[str, Any]) -> None:
    """Puts the JSON schema of an answer where OpenAI has it."""
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
        raise RequestError(f"{name} should be a JSON schema, an object", param=name, code="invalid_type")
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


def without_thought(content: str) -> str:
    """What an assistant said, without the thought that a server which hides nothing left before it: no model is shown
    the thoughts of earlier turns as if it had said them."""
    found = _THOUGHT.match(content)
    return content if found is None else content[found.end() :]


def text_of(part: Mapping[str, Any]) -> str | None:
    """The text of a part of a message, whichever API the part comes from; an empty one for a thought. None: it is no
    text."""
    kind = part.get("type")
    if kind in TEXTS:
        text = part.get("refusal" if kind == "refusal" else "text")
        return text if isinstance(text, str) else None
    return "" if kind in THOUGHTS else None
