"""Arrays and objects: what is in them, and how much of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, cast

from ponder.engines.schemas.bounds import narrowest
from ponder.engines.schemas.parts import Part, Schema, refuse
from ponder.engines.schemas.patterns import held_pattern

Whole = Callable[[Sequence[Part]], Any]
"""Rewrites all that is said of one value, as `Schemas` does."""

COUNTED = 2000
"""Properties an object has, times how many of them are counted, at most: so many rules it takes to count them."""


def array_schema(layers: Sequence[Part], whole: Whole) -> Schema:
    prefixes: list[list[Part]] = []
    rests: list[Part | None] = []
    for layer in layers:
        items = layer.schema.get("items")
        if isinstance(items, list):
            # How it was written before 2020-12.
            prefixes.append([layer.at("items", i) for i in range(len(cast("list[Any]", items)))])
            rests.append(layer.at("additionalItems") if "additionalItems" in layer.schema else None)
        else:
            prefixes.append([layer.at("prefixItems", i) for i in range(len(layer.schema.get("prefixItems", ())))])
            rests.append(layer.at("items") if items is not None else None)
    said = [rest for rest in rests if rest is not None]
    size = max(map(len, prefixes))
    array: Schema = {"type": "array"} | narrowest(layers, "minItems", "maxItems")
    for i in range(size):
        # Of places beyond a layer's own, its `items` tells.
        here = [own[i] if i < len(own) else rest for own, rest in zip(prefixes, rests, strict=True)]
        if any(part is not None and part.schema is False for part in here):
            size = i
            said = [Part(False, None, layers[0].path)]
            break
        array.setdefault("prefixItems", []).append(whole([part for part in here if part is not None]))
    if any(rest.schema is False for rest in said) or (size and not said and array.get("minItems", 0) <= size):
        array["items"] = False
        if not size:
            array.pop("items")
            array["maxItems"] = 0
        if array.get("minItems", 0) > size:
            refuse(layers[0], "minItems", "there are fewer items than that")
    else:
        array["items"] = whole(said) or True
    if array.get("minItems", 0) > array.get("maxItems", math.inf):
        refuse(layers[0], "minItems", "it is above maxItems")
    return array


def object_schema(layers: Sequence[Part], whole: Whole) -> Schema:
    patterns = [layer.at("patternProperties", p) for layer in layers for p in layer.schema.get("patternProperties", ())]
    names = list(dict.fromkeys(name for layer in layers for name in layer.schema.get("properties", ())))
    required = list(dict.fromkeys(name for layer in layers for name in layer.schema.get("required", ())))
    rests = [layer.at("additionalProperties") for layer in layers if "additionalProperties" in layer.schema]
    rules = [layer.at("propertyNames") for layer in layers if "propertyNames" in layer.schema]
    closed = any(rest.schema is False for rest in rests) or (
        not rests and (bool(names) or any(layer.schema.get("unevaluatedProperties") is False for layer in layers))
    )
    made: Schema = {"type": "object"}
    if patterns or rules:
        word = "patternProperties" if patterns else "propertyNames"
        layer = next(layer for layer in layers if word in layer.schema)
        if names or required or len(patterns) + len(rules) > 1:
            refuse(layer, word, "it stands alone only: no properties, required or second rule for names beside it")
        if any(layer.schema.get("minProperties", 0) > 1 for layer in layers):
            refuse(layer, "minProperties", "names that are not known beforehand may come twice")
        if patterns:
            made["patternProperties"] = {held_pattern(layer, patterns[0].path[-1]): whole(patterns)}
            made |= narrowest(layers, "minProperties", "maxProperties")
            return made
        made["propertyNames"] = whole([*rules, Part({"type": "string"}, rules[0].resolver, rules[0].path)])
        made["additionalProperties"] = whole([r for r in rests if r.schema is not False]) or True
        if closed and rests:
            refuse(layer, word, "additionalProperties beside it is false")
        return made | narrowest(layers, "minProperties", "maxProperties")
    properties: dict[str, Any] = {}
    for name in dict.fromkeys((*names, *required)):
        parts: list[Part] = []
        for layer in layers:
            if name in layer.schema.get("properties", ()):
                parts.append(layer.at("properties", name))
            elif "additionalProperties" in layer.schema:
                parts.append(layer.at("additionalProperties"))
        if any(part.schema is False for part in parts):
            if name in required:
                refuse(layers[0], "required", "it names a property that is not allowed")
            if not closed:
                refuse(layers[0], "properties", "one is false: set additionalProperties to false instead")
            continue
        properties[name] = whole(parts) or True
    made["properties"] = properties
    if required:
        made["required"] = required
    bounds = narrowest(layers, "minProperties", "maxProperties")
    if closed:
        made["additionalProperties"] = False
        if bounds.get("minProperties", 0) > len(properties):
            refuse(layers[0], "minProperties", "there are fewer properties than that")
    else:
        made["additionalProperties"] = whole(rests) or True
        if bounds.get("minProperties", 0) > len(required) + 1:
            refuse(layers[0], "minProperties", "names that are not known beforehand may come twice: name them")
    if bounds and len(properties) * min(len(properties), max(bounds.values())) > COUNTED:
        refuse(layers[0], next(iter(bounds)), f"it counts among {len(properties)} properties: leave it out")
    if bounds.get("maxProperties", math.inf) < max(len(required), bounds.get("minProperties", 0)):
        refuse(layers[0], "maxProperties", "it is below what is required")
    return made | bounds
