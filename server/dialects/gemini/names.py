"""The names of fields as the JSON of protocol buffers has them: `topK` and `top_k` are one field.

A body is put into lower camel case before it is read; what a caller names itself (arguments of calls, results, JSON
schemas, properties) stays as it is. Our own fields keep their names.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, cast

from pydantic.alias_generators import to_camel, to_snake

from ponder.compute.errors import RequestError
from ponder.server.dialects.own_fields import OwnFields
from ponder.server.validation import SAFE

OWN = frozenset(OwnFields.model_fields)
FREE = frozenset(
    {"args", "response", "parametersJsonSchema", "responseJsonSchema", "default", "example", "enum", "labels"}
    | {"partMetadata", "strategy", "verifier"}
)
"""Fields whose value is the caller's own."""
TOP = ("", "generateContentRequest")
"""Where our own fields are."""
NAMED = frozenset({"properties", "defs"})
"""Fields whose keys are the caller's own, and whose values are not."""


def alias(name: str) -> str:
    """What a field of a model is called on the wire."""
    return name if name in OWN else to_camel(name)


@lru_cache(maxsize=1024)
def _known(key: str, top: bool) -> str:
    plain = key.replace("$", "")
    if top and (snake := to_snake(plain)) in OWN:
        return snake
    return to_camel(plain) if "_" in plain.strip("_") else plain


def understood(value: Any, place: str = "") -> Any:
    """The same JSON with the names of fields in lower camel case. Raises `RequestError` where one is given twice."""
    if isinstance(value, list):
        return [understood(one, f"{place}.{n}") for n, one in enumerate(cast("list[Any]", value))]
    if not isinstance(value, dict):
        return value
    made: dict[str, Any] = {}
    for key, inner in cast("dict[str, Any]", value).items():
        name = _known(key, place in TOP) if SAFE.fullmatch(key.replace("$", "")) else key
        path = f"{place}.{name}".lstrip(".")
        if name in made:
            raise RequestError(f"{path} is given twice, under two names", param=path, code="conflicting_parameters")
        made[name] = _inner(name, inner, path)
    return made


def _inner(name: str, value: Any, path: str) -> Any:
    if name in FREE:
        return value
    if name in NAMED and isinstance(value, dict):
        return {key: understood(one, f"{path}.{key}") for key, one in cast("dict[str, Any]", value).items()}
    return understood(value, path)
