"""What pydantic finds wrong with a value, in words: a `RequestError` that names the field and quotes nothing."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, TypeVar, cast

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from ponder.compute.errors import RequestError

SAFE = re.compile(r"[A-Za-z0-9_.\-]{1,64}")
"""A name that can be repeated in an answer or a header."""
Checked = TypeVar("Checked", bound=BaseModel)


def checked(model: type[Checked], body: dict[str, Any]) -> Checked:
    """`body` as `model`. Raises `RequestError` for the first thing that is wrong."""
    try:
        return model.model_validate(body)
    except ValidationError as error:
        raise wrong(error, body) from None


def wrong(error: ValidationError, body: Any, prefix: str = "") -> RequestError:
    """The first complaint of a pydantic model, with the path as the caller knows it and nothing of the value."""
    # Of a union every member complains; the one that got deepest into the value is about what was meant.
    complaints = [
        (
            c["type"],
            _tags(c) if c["type"] == "union_tag_invalid" else c["msg"],
            path(c["loc"], body, missing=c["type"] in ("missing", "extra_forbidden", "unexpected_keyword_argument")),
            c["loc"][:1],
        )
        for c in error.errors(include_url=False, include_input=False)
    ]
    same = [c for c in complaints if c[3] == complaints[0][3]]
    kind, message, found, _ = max(same, key=lambda c: len(c[2]))
    param = ".".join([*([prefix] if prefix else []), *found]) or None
    if kind == "missing":
        return missing(param)
    if kind in ("extra_forbidden", "unexpected_keyword_argument"):
        return RequestError(f"{param}: there is no such parameter", param=param, code="unknown_parameter")
    alike = [c[1] for c in same if c[2] == found and c[0] != kind]
    words = list(dict.fromkeys(_plain(m) for m in (message, *alike)))
    if all(word.startswith("should be ") for word in words):
        words[1:] = [word.removeprefix("should be ") for word in words[1:]]
    verb = words[0].partition(" ")[0] in ("should", "must", "needs", "is", "has")
    code = "invalid_type" if kind.endswith(("_type", "_from_float")) else "invalid_value"
    return RequestError(f"{param or 'the body'}{' ' if verb else ': '}{' or '.join(words)}", param=param, code=code)


def missing(param: str | None) -> RequestError:
    """What to say of a field that is not there."""
    return RequestError(f"{param} is required", param=param, code="missing_required_parameter")


def mistyped(param: str, what: str) -> RequestError:
    """What to say of a field that is of another type than it should be, which is `what`: "a string"."""
    return RequestError(f"{param} should be {what}", param=param, code="invalid_type")


def _tags(complaint: ErrorDetails) -> str:
    """A complaint of a value whose kind is none of those there are, without what the caller has called it."""
    context = complaint.get("ctx", {})
    return f"should have as {str(context.get('discriminator')).strip(chr(39))} one of {context.get('expected_tags')}"


def _plain(message: str) -> str:
    """A complaint of pydantic's without its subject (the field is named there) and without the names of our classes."""
    message = message.removeprefix("Value error, ").replace(" after validation", "")
    message = re.sub(r"^[A-Z][a-z]+ (?=should )", "", message)
    return re.sub(r"a valid dictionary( or instance of \w+)?", "an object", message)


def path(loc: Sequence[int | str], body: Any, *, missing: bool = False) -> list[str]:
    """The part of a pydantic location that is in the body; the names of union members are left out."""
    found: list[str] = []
    node = body
    for place, part in enumerate(loc):
        if isinstance(node, dict) and part in node:
            node = cast("dict[Any, Any]", node)[part]
        elif isinstance(node, list) and isinstance(part, int) and part < len(cast("list[Any]", node)):
            node = cast("list[Any]", node)[part]
        elif not (missing and place == len(loc) - 1):
            continue
        if not SAFE.fullmatch(str(part)):
            break
        found.append(str(part))
    return found
