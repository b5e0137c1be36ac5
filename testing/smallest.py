"""The smallest JSON document that a schema allows, so that a test engine can fulfil any schema without a model.

A schema is first rewritten as the grammar of a real engine enforces it (`ponder.engines.schemas`): what that refuses is
refused here, too, and what is left to be fulfilled is a small part of JSON Schema.
"""

from __future__ import annotations

import importlib
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, cast

from ponder.engines.schemas import Schemas
from ponder.engines.schemas.numbers import INT64

FORMATS: Mapping[str, str] = {
    "email": "a@b.de",
    "date": "2000-01-01",
    "time": "00:00:00Z",
    "date-time": "2000-01-01T00:00:00Z",
    "duration": "P1D",
    "ipv4": "127.0.0.1",
    "ipv6": "::1",
    "hostname": "localhost",
    "uuid": "00000000-0000-0000-0000-000000000000",
    "uri": "a:b",
    "uri-reference": "a",
    "uri-template": "a",
    "json-pointer": "/a",
    "relative-json-pointer": "0",
}
"""A short text of each format."""
LIKED = "a0 "
"""Characters that are taken before all others where a pattern allows them."""


def smallest(schema: str | None, param: str = "schema") -> str:
    """A document of few characters that the schema (as JSON text; None is any object) allows, as JSON text.

    Raises `RequestError` with the place behind `param` for a schema that an engine could not enforce.
    """
    if schema is None:
        return "{}"
    schemas = Schemas()
    held = schemas.add(json.loads(schema), param)
    document = _value(held, schemas.defs, ())
    if document is _NONE:
        raise AssertionError("a schema that was accepted allows no document")
    return json.dumps(document, ensure_ascii=False)


_NONE = object()
"""In the place of a value: there is none that does not contain itself."""


def _value(held: Any, defs: Mapping[str, Any], opened: tuple[str, ...]) -> Any:
    """A value of a rewritten schema. `opened`: the definitions it is within, which it must not need again."""
    if not isinstance(held, dict) or not held:
        return None
    schema = cast("dict[str, Any]", held)
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return _NONE if name in opened else _value(defs[name], defs, (*opened, name))
    if "anyOf" in schema:
        values = (_value(branch, defs, opened) for branch in schema["anyOf"])
        return next((value for value in values if value is not _NONE), _NONE)
    if "enum" in schema:
        return schema["enum"][0]
    match schema.get("type"):
        case "object":
            return _object(schema, defs, opened)
        case "array":
            return _array(schema, defs, opened)
        case "string":
            return _text(schema)
        case "integer" | "number":
            return _number(schema)
        case "boolean":
            return False
        case _:
            return None


def _object(schema: Mapping[str, Any], defs: Mapping[str, Any], opened: tuple[str, ...]) -> Any:
    properties: Mapping[str, Any] = schema.get("properties", {})
    wanted = [name for name in properties if name in schema.get("required", ())]
    more = max(0, schema.get("minProperties", 0) - len(wanted))
    made: dict[str, Any] = {}
    for name in [*wanted, *[name for name in properties if name not in wanted][:more]]:
        value = _value(properties[name], defs, opened)
        if value is not _NONE:
            made[name] = value
        elif name in wanted:
            return _NONE
    # In the caller's order, as the grammar has it.
    made = {name: made[name] for name in properties if name in made}
    while len(made) < schema.get("minProperties", 0):
        name, value = _unnamed(schema, len(made), defs, opened)
        if value is _NONE or name in made:
            return _NONE
        made[name] = value
    return made


def _unnamed(schema: Mapping[str, Any], number: int, defs: Mapping[str, Any], opened: tuple[str, ...]) -> Any:
    """(a name that no property has, its value)."""
    if "patternProperties" in schema:
        pattern, value = next(iter(schema["patternProperties"].items()))
        return matching(pattern), _value(value, defs, opened)
    name = _value(schema["propertyNames"], defs, opened) if "propertyNames" in schema else f"p{number}"
    return name, _value(schema.get("additionalProperties", True), defs, opened)


def _array(schema: Mapping[str, Any], defs: Mapping[str, Any], opened: tuple[str, ...]) -> Any:
    prefix: Sequence[Any] = schema.get("prefixItems", ())
    made: list[Any] = []
    for i in range(schema.get("minItems", 0)):
        made.append(_value(prefix[i] if i < len(prefix) else schema.get("items", True), defs, opened))
        if made[-1] is _NONE:
            return _NONE
    return made


def _text(schema: Mapping[str, Any]) -> str:
    if "pattern" in schema:
        return matching(schema["pattern"])
    if "format" in schema:
        return FORMATS[schema["format"]]
    return "a" * schema.get("minLength", 0)


def _number(schema: Mapping[str, Any]) -> int | float:
    """0, or the nearest number to it within the bounds."""
    low, high = schema.get("minimum", -math.inf), schema.get("maximum", math.inf)
    over, under = schema.get("exclusiveMinimum", -math.inf), schema.get("exclusiveMaximum", math.inf)
    fits = [
        one
        for one in (0, low, high, math.floor(over) + 1 if math.isfinite(over) else 0, _between(low, high, over, under))
        if low <= one <= high and over < one < under and math.isfinite(one)
    ]
    found = min(fits, key=abs)
    return int(found) if schema["type"] == "integer" or (float(found).is_integer() and abs(found) < INT64) else found


def _between(low: float, high: float, over: float, under: float) -> float:
    """The middle of the bounds, where there are two; else a number inside of the one there is."""
    least, most = max(low, over), min(high, under)
    if math.isfinite(least) and math.isfinite(most):
        return least + (most - least) / 2
    return least + 1 if math.isfinite(least) else most - 1


def matching(pattern: str) -> str:
    """A short text that matches a regular expression of the kind that `ponder.engines.schemas.patterns` lets through.
    Where nothing anchors it, the whole text matches it."""
    parser: Any = importlib.import_module("re._parser")
    return _matching(parser.parse(pattern))


def _matching(nodes: Any) -> str:
    return "".join(_one(str(op), value) for op, value in nodes)


def _one(op: str, value: Any) -> str:
    match op:
        case "LITERAL":
            return chr(value)
        case "NOT_LITERAL":
            return next(one for one in LIKED if ord(one) != value)
        case "ANY":
            return LIKED[0]
        case "IN":
            return _member(value)
        case "MAX_REPEAT" | "MIN_REPEAT":
            least, _, inner = value
            return _matching(inner) * least
        case "SUBPATTERN":
            return _matching(value[3])
        case "BRANCH":
            return min((_matching(branch) for branch in value[1]), key=len)
        case _:
            return ""


def _member(value: Sequence[tuple[Any, Any]]) -> str:
    """A character of a set."""
    negated = str(value[0][0]) == "NEGATE"
    rules = value[negated:]

    def within(one: int) -> bool:
        return any(
            what == one
            if str(kind) == "LITERAL"
            else what[0] <= one <= what[1]
            if str(kind) == "RANGE"
            else _of_kind(chr(one), str(what))
            for kind, what in rules
        )

    firsts = [what[0] if str(kind) == "RANGE" else what for kind, what in rules if str(kind) in ("LITERAL", "RANGE")]
    usable = [*map(ord, LIKED), *firsts, *range(0x20, 0x180)]
    return chr(next(one for one in usable if within(one) != negated and one >= 0x20 and chr(one) not in '"\\'))


def _of_kind(one: str, category: str) -> bool:
    kinds = {"DIGIT": one.isdigit(), "SPACE": one.isspace(), "WORD": one.isalnum() or one == "_"}
    kind = category.rpartition("_")[2]
    return kinds[kind] != ("NOT" in category)
