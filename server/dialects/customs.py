"""What clients of other servers send, read as what it means: one field written another way, or in another place.

All of it happens on the body before it is checked, so that a wish says the same whichever way it came: an
`extra_body` that was sent as it stands, whole numbers written 256.0, a limit of -1 for none.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any, NoReturn, cast

from ponder.server.dialects.thinking_spellings import conflict
from ponder.server.strict_json import deeper
from ponder.server.validation import mistyped

OWN = frozenset({"google"})
"""What belongs into `extra_body` in the body itself, as Google's documents have it."""
TEXTS = ("text", "refusal", "input_text", "output_text")
"""Parts of a message that hold a text."""
THOUGHTS = ("thinking", "redacted_thinking", "reasoning")
"""Parts that hold a thought, in the histories of other APIs."""
DEEPEST = 256
"""Brackets of JSON that a model wrote, at most: what encodes an answer goes no deeper than some hundreds."""
_THOUGHT = re.compile(
    r"\s*(?:<(think|thinking|thought|reasoning|seed:think)>.*?</\1>|\[THINK\].*?\[/THINK\])\s*", re.DOTALL
)


def understood(body: dict[str, Any], whole: Iterable[str], unlimited: Iterable[str]) -> dict[str, Any]:
    """The body, what an `extra_body` has in its place. `whole`: fields that are whole numbers, and may be written with
    a point, as languages without whole numbers do; `unlimited`: limits that are none at -1. Raises `RequestError` where
    two ways to say something disagree."""
    body = _unwrapped(body)
    for field in whole:
        value = body.get(field)
        if isinstance(value, float) and value.is_integer():
            body[field] = int(value)
    for field in unlimited:
        if body.get(field) == -1:
            del body[field]
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
            raise conflict(f"extra_body.{key}", key)
    rest = {key: value for key, value in held.items() if key not in moved}
    made = {key: value for key, value in body.items() if key != "extra_body"}
    return made | moved | ({"extra_body": rest} if rest else {})


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


def checked_text(part: Mapping[str, Any], param: str) -> str | None:
    """The same of a part at this place. Raises `RequestError` where a part that holds a text has none."""
    text, kind = text_of(part), part.get("type")
    if text is None and kind in TEXTS:
        raise mistyped(f"{param}.{'refusal' if kind == 'refusal' else 'text'}", "a string")
    return text


def written_json(text: str) -> Any:
    """JSON that a model wrote, to be put into an answer as what it is. Raises `ValueError` for what is none, or what
    no client could read there: numbers that are not finite, nesting without end."""
    if deeper(text, DEEPEST):
        raise ValueError
    return json.loads(text, parse_constant=_no_number, parse_float=_finite)


def _no_number(_: str) -> NoReturn:
    raise ValueError


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError
    return value
