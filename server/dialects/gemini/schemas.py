"""Google's Schema, OpenAPI's of 3.0 with types in upper case, as a JSON schema in the caller's order."""

from __future__ import annotations

from typing import Any, cast

NUMBERS = frozenset({"minItems", "maxItems", "minLength", "maxLength", "minProperties", "maxProperties"})
"""Whole numbers, which the JSON of protocol buffers writes as text."""
LISTS = frozenset({"anyOf", "prefixItems"})
INNER = frozenset({"items", "additionalProperties"})
NAMED = {"properties": "properties", "defs": "$defs"}
LEFT_OUT = frozenset({"propertyOrdering", "nullable", "example"})


def json_schema(schema: Any) -> Any:
    """What it is as a JSON schema."""
    if not isinstance(schema, dict):
        return schema
    given = cast("dict[str, Any]", schema)
    made: dict[str, Any] = {}
    for key, value in given.items():
        if key in LEFT_OUT or value is None:
            continue
        if key == "type" and isinstance(value, str):
            if value.upper() != "TYPE_UNSPECIFIED":
                made["type"] = value.lower()
        elif key in LISTS and isinstance(value, list):
            made[key] = [json_schema(one) for one in cast("list[Any]", value)]
        elif key in INNER:
            made[key] = json_schema(value)
        elif key in NAMED and isinstance(value, dict):
            made[NAMED[key]] = _named(cast("dict[str, Any]", value), given.get("propertyOrdering"))
        elif key == "ref":
            made["$ref"] = value.replace("#/defs/", "#/$defs/") if isinstance(value, str) else value
        elif key == "format" and value == "enum":
            continue
        else:
            made[key] = int(value) if key in NUMBERS and isinstance(value, str) and value.isdecimal() else value
    return _or_null(made) if given.get("nullable") is True else made


def _named(schemas: dict[str, Any], order: Any) -> dict[str, Any]:
    """Schemas by their names, in an order that was said."""
    listed = cast("list[Any]", order) if isinstance(order, list) else []
    names = [name for name in listed if isinstance(name, str) and name in schemas]
    return {name: json_schema(schemas[name]) for name in dict.fromkeys([*names, *schemas])}


def _or_null(schema: dict[str, Any]) -> dict[str, Any]:
    if not isinstance(kind := schema.get("type"), str):
        return {"anyOf": [schema, {"type": "null"}]}
    made = {**schema, "type": [kind, "null"]}
    if isinstance(schema.get("enum"), list):
        made["enum"] = [*schema["enum"], None]
    return made
