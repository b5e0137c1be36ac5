"""Numbers and integers: their bounds, those of OpenAPI's formats among them."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ponder.engines.schemas.bounds import narrowest
from ponder.engines.schemas.parts import WORDS, Part, Schema, refuse, types_of

INT64 = 2**63 - 1

NUMBER_FORMATS: dict[str, tuple[int, int] | None] = {
    "int32": (-(2**31), 2**31 - 1),
    "int64": (-INT64, INT64),
    "float": None,
    "double": None,
}
"""OpenAPI's, and the bounds they mean."""


def number_schema(layers: Sequence[Part], kind: str) -> Schema:
    bounds = narrowest(layers, *(word for word in WORDS["number"] if word != "multipleOf"))
    whole = kind == "integer" or any(layer.schema.get("multipleOf") == 1 for layer in layers)
    for layer in layers:
        if isinstance(form := layer.schema.get("format"), str):
            if form not in NUMBER_FORMATS and "string" not in types_of(layer.schema):
                refuse(layer, "format", "use minimum and maximum")
            if (limits := NUMBER_FORMATS.get(form)) is not None:
                bounds["minimum"] = max(limits[0], bounds.get("minimum", limits[0]))
                bounds["maximum"] = min(limits[1], bounds.get("maximum", limits[1]))
    if not whole:
        return {"type": "number"} | bounds
    least = [math.ceil(bounds[w]) for w in ("minimum",) if w in bounds]
    least += [math.floor(bounds[w]) + 1 for w in ("exclusiveMinimum",) if w in bounds]
    most = [math.floor(bounds[w]) for w in ("maximum",) if w in bounds]
    most += [math.ceil(bounds[w]) - 1 for w in ("exclusiveMaximum",) if w in bounds]
    low, high = max(least, default=None), min(most, default=None)
    if (low is not None and low > (INT64 if high is None else min(high, INT64))) or (
        high is not None and high < -INT64
    ):
        refuse(layers[0], "minimum", "no number lies within the bounds")
    bound: Schema = {"type": "integer"}
    if low is not None:
        bound["minimum"] = max(low, -INT64)
    if high is not None:
        bound["maximum"] = min(high, INT64)
    return bound
