"""Arguments that are written as plain text get their types from the tool's JSON schema: a string stays one."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, cast

from ponder.engines.tools.form import DECODER

_DEEP = 32
"""References and alternatives that are followed at most."""
_WORDS: Mapping[str, Mapping[str, Any]] = {
    "boolean": {"true": True, "false": False},
    "null": {"null": None, "none": None},
}


def typed(text: str, name: str, schema: Mapping[str, Any]) -> Any:
    """The value of the argument `name` that was written as `text`, in the schema of all arguments. What fits no type
    the schema names, and what it says nothing of, is a string."""
    properties = schema.get("properties")
    one = cast("dict[str, Any]", properties).get(name) if isinstance(properties, dict) else None
    kinds = set(_kinds(one, schema, _DEEP)) or {"string"}
    if kinds == {"string"}:
        return text
    word = text.strip()
    for kind, words in _WORDS.items():
        if kind in kinds and word.lower() in words:
            return words[word.lower()]
    try:
        value, end = DECODER.raw_decode(word)
    except (ValueError, RecursionError):
        return text
    if end != len(word) or not kinds & set(_kinds_of(value)):
        return text
    return int(value) if isinstance(value, float) and "number" not in kinds else value


def _kinds(schema: Any, root: Mapping[str, Any], deep: int) -> Iterator[str]:
    """The types a value may have."""
    if not isinstance(schema, dict) or deep == 0:
        return
    schema = cast("dict[str, Any]", schema)
    kind = schema.get("type")
    if isinstance(kind, str):
        yield kind
    elif isinstance(kind, list):
        yield from (one for one in cast("list[Any]", kind) if isinstance(one, str))
    if kind is None:
        values: list[Any] = schema.get("enum", [schema["const"]] if "const" in schema else [])
        for value in values:
            yield next(_kinds_of(value))
        for word in ("anyOf", "oneOf", "allOf"):
            for branch in cast("list[Any]", schema.get(word, [])):
                yield from _kinds(branch, root, deep - 1)
        reference = schema.get("$ref")
        if isinstance(reference, str) and reference.startswith("#"):
            yield from _kinds(_behind(reference, root), root, deep - 1)


def _behind(reference: str, root: Mapping[str, Any]) -> Any:
    """What a JSON pointer within the schema points at."""
    at: Any = root
    for part in reference.split("/")[1:]:
        part = part.replace("~1", "/").replace("~0", "~")
        at = cast("dict[str, Any]", at).get(part) if isinstance(at, dict) else None
    return at


def _kinds_of(value: Any) -> Iterator[str]:
    """The types of JSON Schema that a value has."""
    match value:
        case None:
            yield "null"
        case bool():
            yield "boolean"
        case int():
            yield from ("integer", "number")
        case float():
            yield "number"
            if value.is_integer():
                yield "integer"
        case str():
            yield "string"
        case list():
            yield "array"
        case _:
            yield "object"


def plain(value: Any) -> str:
    """A value as such formats write it: a string as it is, anything else as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
