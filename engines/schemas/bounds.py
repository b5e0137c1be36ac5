"""Bounds that several places set on one value."""

from __future__ import annotations

from collections.abc import Sequence

from ponder.engines.schemas.parts import Part, Schema

LEAST = ("minLength", "minItems", "minProperties", "minimum", "exclusiveMinimum")


def narrowest(layers: Sequence[Part], *words: str) -> Schema:
    """The narrowest of the bounds that several places set."""
    bounds: Schema = {}
    for word in words:
        said = [layer.schema[word] for layer in layers if word in layer.schema]
        if said:
            bounds[word] = max(said) if word in LEAST else min(said)
    return bounds
