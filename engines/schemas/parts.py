"""A schema at its place: what is said there, and how a place is named to its caller."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NoReturn, TypeGuard, cast

from referencing import Resource
from referencing.jsonschema import DRAFT202012

from ponder.compute.errors import RequestError

Schema = dict[str, Any]

WORDS = {
    "string": ("minLength", "maxLength", "pattern", "format"),
    "number": ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
    "array": ("items", "prefixItems", "minItems", "maxItems"),
    "object": (
        *("properties", "required", "additionalProperties", "patternProperties", "propertyNames"),
        *("minProperties", "maxProperties", "unevaluatedProperties"),
    ),
}
"""What each keyword is about; where no type is said, it is the one meant."""

BINDING = frozenset(
    {"$ref", "$dynamicRef", "$recursiveRef", "allOf", "anyOf", "oneOf", "enum", "const", "type", "not", "if", "then"}
    | {"else", "dependentRequired", "dependentSchemas", "dependencies", "contains", "uniqueItems", "additionalItems"}
    | {"unevaluatedItems", *(word for words in WORDS.values() for word in words)}
)


@dataclass(frozen=True, slots=True)
class Part:
    """A schema at its place."""

    schema: Any
    resolver: Any
    path: tuple[str, ...]

    def at(self, *path: str | int) -> Part:
        """What stands under these names in it."""
        schema, resolver = self.schema, self.resolver
        for name in path:
            schema = schema[name]
        if is_object(schema) and isinstance(schema.get("$id"), str):
            resolver = resolver.in_subresource(Resource(contents=schema, specification=cast(Any, DRAFT202012)))
        return Part(schema, resolver, (*self.path, *map(str, path)))


def refuse(part: Part, keyword: str, hint: str) -> NoReturn:
    """Raises `RequestError` with the keyword, its place and what to write instead."""
    where = shown(part.path)
    raise RequestError(f"{keyword} at {where} cannot be enforced: {hint}", param=where, code="invalid_json_schema")


def binds(schema: Any) -> bool:
    """It says more than words to a reader."""
    return not is_object(schema) or not BINDING.isdisjoint(schema)


def is_object(value: Any) -> TypeGuard[Schema]:
    return isinstance(value, dict)


def is_reference(schema: Any) -> bool:
    """It says nothing but what it refers to."""
    return is_object(schema) and "$ref" in schema and not binds({k: v for k, v in schema.items() if k != "$ref"})


def objects_in(value: Any) -> Iterator[Schema]:
    """Every object in a value."""
    if is_object(value):
        yield value
        for inner in value.values():
            yield from objects_in(inner)
    elif isinstance(value, list):
        for inner in cast("list[Any]", value):
            yield from objects_in(inner)


def common_types(one: set[str], other: set[str]) -> set[str]:
    """Types that are in both; every integer is a number."""
    both = one & other
    if ("integer" in one and "number" in other) or ("number" in one and "integer" in other):
        both = both | {"integer"}
    return both


def types_of(schema: Schema) -> set[str]:
    said: str | list[str] = schema.get("type", [])
    return {said} if isinstance(said, str) else set(said)


def values_of(schema: Schema) -> list[Any] | None:
    if "const" in schema:
        return [schema["const"]]
    return schema.get("enum")


def type_of(value: Any) -> str:
    match value:
        case bool():
            return "boolean"
        case None:
            return "null"
        case str():
            return "string"
        case list():
            return "array"
        case dict():
            return "object"
        case _:
            return "integer" if float(value).is_integer() else "number"


def same(one: Any, other: Any) -> bool:
    """As JSON Schema compares: 1 is 1.0 and true is not 1."""
    with suppress(TypeError, ValueError):
        return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True) or (
            not isinstance(one, bool) and not isinstance(other, bool) and one == other
        )
    return False


_SAFE = re.compile(r"[$A-Za-z0-9_\-]{1,64}")
DEEP = 32
"""Names of a place that are shown at most: references lead through thousands."""


def shown(path: Sequence[str]) -> str:
    """A place, as far as it can be repeated to its caller."""
    shown: list[str] = []
    for part in path[:DEEP]:
        if not _SAFE.fullmatch(part):
            break
        shown.append(part)
    return ".".join(shown)
