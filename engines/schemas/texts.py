"""Texts: their formats, patterns and lengths."""

from __future__ import annotations

from collections.abc import Sequence

from ponder.engines.schemas.bounds import narrowest
from ponder.engines.schemas.parts import Part, Schema, refuse
from ponder.engines.schemas.patterns import held_pattern

FORMATS = frozenset(
    {"email", "date", "time", "date-time", "duration", "ipv4", "ipv6", "hostname", "uuid", "uri", "uri-reference"}
    | {"uri-template", "json-pointer", "relative-json-pointer"}
)

_LEAP = "0[48]|[2468][048]|[13579][26]"
_DATE = (
    "(?:(?:[0-9]{3}[1-9]|[0-9]{2}[1-9][0-9]|[0-9][1-9][0-9]{2}|[1-9][0-9]{3})-"
    "(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)|"
    "02-(?:0[1-9]|1[0-9]|2[0-8]))"
    f"|(?:[0-9]{{2}}(?:{_LEAP})|(?:{_LEAP})00)-02-29)"
)
_TIME = r"(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\.[0-9]{1,9})?(?:Z|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])"
_BYTE = "(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
OWN_PATTERNS = {
    "date": f"^{_DATE}$",
    "time": f"^{_TIME}$",
    "date-time": f"^{_DATE}T{_TIME}$",
    "ipv4": rf"^{_BYTE}\.{_BYTE}\.{_BYTE}\.{_BYTE}$",
}
"""Formats whose grammar in xgrammar lets through what is none: days that are in no calendar, numbers led by zeros."""


def text_schema(layers: Sequence[Part]) -> Schema:
    bounds = narrowest(layers, "minLength", "maxLength")
    if not bounds.get("minLength"):
        bounds.pop("minLength", None)
    shapes: dict[tuple[str, str], Part] = {}
    for layer in layers:
        for word in ("pattern", "format"):
            if word in layer.schema:
                shapes[word, str(layer.schema[word])] = layer
    if not shapes:
        return {"type": "string"} | bounds
    (word, shape), layer = next(iter(shapes.items()))
    if len(shapes) > 1:
        refuse(layer, word, "a second pattern or format is said of the same text: put them into one pattern")
    if bounds:
        refuse(layer, word, "it stands beside minLength or maxLength: say the length in the pattern, as in {2,5}")
    if word == "pattern":
        return {"type": "string", "pattern": held_pattern(layer, shape)}
    if shape in OWN_PATTERNS:
        return {"type": "string", "pattern": OWN_PATTERNS[shape]}
    if shape not in FORMATS:
        refuse(layer, "format", f"use one of {', '.join(sorted(FORMATS))}, a pattern, or leave it out")
    return {"type": "string", "format": shape}
