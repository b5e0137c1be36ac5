"""How large the grammar of a schema becomes, told before it is made: a few characters ask for millions of states."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from ponder.compute.errors import RequestError
from ponder.engines.schemas.parts import Schema, is_object
from ponder.engines.schemas.patterns import pattern_size

STATES = 1 << 17
"""States of a grammar at most, about: one for each character that is spelled out."""
COUNTED = 128
"""States that xgrammar makes of a count, of characters or items, however large it is; about."""
SHAPE = 64
"""States of a number with bounds, or of a text with a format; about."""
SHORTER = {
    "enum": "use fewer or shorter values in enum",
    "pattern": "let patterns repeat less ({m,n})",
    "maxLength": "leave minLength and maxLength out where they matter least",
    "maxItems": "leave minItems and maxItems out where they matter least",
    "properties": "name fewer properties",
}
"""What to do about each word that makes a grammar large."""


def refuse_size(held: Sequence[Any], defs: Mapping[str, Any], param: str) -> None:
    """Refuses schemas, as `Schemas` gave them, whose grammar would be too large. Raises `RequestError`."""
    sizes: Counter[str] = Counter()
    for node in (*held, *defs.values()):
        sizes += states(node)
    if sizes.total() > STATES:
        word, most = sizes.most_common(1)[0]
        raise RequestError(
            f"{param}: the schema is too large to be enforced: its grammar would have about {sizes.total()} states, "
            f"more than {STATES}, {most} of them by {word}: {SHORTER[word]}",
            param=param,
            code="invalid_json_schema",
        )


def states(node: Any) -> Counter[str]:
    """States of the grammar of one schema, by the word that asks for them. What it refers to is counted elsewhere."""
    sizes: Counter[str] = Counter()
    if not is_object(node):
        return sizes
    for value in node.get("enum", ()):
        sizes["enum"] += len(json.dumps(value))
    for branch in node.get("anyOf", ()):
        sizes += states(branch)
    match node.get("type"):
        case "object":
            for name, value in node.get("properties", {}).items():
                sizes["properties"] += len(name) + 4
                sizes += states(value)
            for pattern, value in node.get("patternProperties", {}).items():
                sizes["pattern"] += pattern_size(pattern)
                sizes += states(value)
            for word in ("additionalProperties", "propertyNames"):
                sizes += states(node.get(word))
        case "array":
            for value in node.get("prefixItems", ()):
                sizes += states(value)
            sizes += states(node.get("items"))
            sizes["maxItems"] += _counted(node, "minItems", "maxItems")
        case "string" if "pattern" in node:
            sizes["pattern"] += pattern_size(node["pattern"])
        case "string":
            sizes["maxLength"] += SHAPE if "format" in node else _counted(node, "minLength", "maxLength")
        case "integer" | "number":
            sizes["properties"] += SHAPE if len(node) > 1 else 1
        case _:
            pass
    return sizes


def _counted(node: Schema, least: str, most: str) -> int:
    return min(COUNTED, int(node.get(most, node.get(least, 1))))
