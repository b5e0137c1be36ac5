"""Arguments that are written as plain text get their types from the tool's JSON schema: a string stays one."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, cast

from ponder.engines.tools.form import DECODER

_WORDS: Mapping[str, Mapping[str, Any]] = {
    "boolean": {"true": True, "false": False},
    "null": {"null": None, "none": None},
}


def typed(text: str, name: str, schema: Mapping[str, Any]) -> Any:
    """The value of the argument `name` that was written as `text`, in the schema of all arguments. What fits no type
    the schema names, and what it says nothing of, is a string."""
    properties = schema.get("properties")
    one = cast("dict[str, Any]", properties).get(name) if isinstance(properties, dict) else None
    kinds = set(_kinds(one, schema)) or {"string"}
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


def shapes(schema: Any, root: Mapping[str, Any], seen: set[str] | None = None) -> Iterator[dict[str, Any]]:
    """The schemas of which a value has to fulfil one: alternatives are followed where no type is named, each reference
    once. `seen`: the references that were followed."""
    if not isinstance(schema, dict):
        return
    schema = cast("dict[str, Any]", schema)
    seen = set() if seen is None else seen
    ways: list[Any] = [schema.get(word) for word in ("anyOf", "oneOf", "allOf")]
    branches = [branch for way in ways if isinstance(way, list) for branch in cast("list[Any]", way)]
    reference = schema.get("$ref")
    if isinstance(reference, str) and reference.startswith("#") and reference not in seen:
        seen.add(reference)
        branches.append(_behind(reference, root))
    if "type" in schema or not (branches or reference):
        yield schema
        return
    for branch in branches:
        yield from shapes(branch, root, seen)


def _kinds(schema: Any, root: Mapping[str, Any]) -> Iterator[str]:
    """The types a value may have."""
    for shape in shapes(schema, root):
        kind = shape.get("type")
        if isinstance(kind, str):
            yield kind
        elif isinstance(kind, list):
            yield from (one for one in cast("list[Any]", kind) if isinstance(one, str))
        else:
            values: list[Any] = shape.get("enum", [shape["const"]] if "const" in shape else [])
            for value in values:
                yield next(_kinds_of(value))


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


def kind_of(value: Any) -> str:
    """What of JSON a value is: string, number, boolean, null, array or object."""
    kind = next(_kinds_of(value))
    return "number" if kind == "integer" else kind


def plain(value: Any) -> str:
    """A value as such formats write it: a string as it is, anything else as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
