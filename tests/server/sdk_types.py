"""What OpenAI's SDK says answers are, held to the letter: it takes more itself than its types say."""

from __future__ import annotations

import types
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel


def strange(value: Any, kind: Any, place: str = "$", extension: frozenset[str] = frozenset()) -> str | None:
    """Why a JSON value is none of a type of the SDK: a key that the type has not, a null that it does not allow,
    anything missing or of another type. None: it is one. `extension`: keys that are let through at the top."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return strange(value, inner[0], place, extension)
    if kind in (Any, object) or isinstance(kind, TypeVar):
        return None
    if origin in (Union, types.UnionType):
        found = [strange(value, one, place, extension) for one in inner]
        return None if None in found else max((one for one in found if one), key=_depth)
    if origin is Literal:
        return None if value in inner and type(value) in map(type, inner) else f"{place}: {value!r} is none of {inner}"
    if origin is list:
        if not isinstance(value, list):
            return f"{place} is no list"
        return next((bad for i, one in enumerate(value) if (bad := strange(one, inner[0], f"{place}[{i}]"))), None)  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
    if origin is dict:
        if not isinstance(value, dict):
            return f"{place} is no object"
        return next((bad for key, one in value.items() if (bad := strange(one, inner[1], f"{place}.{key}"))), None)  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return _model(value, kind, place, extension)
    if kind is float:
        return None if isinstance(value, int | float) and not isinstance(value, bool) else f"{place} is no number"
    return None if type(value) is kind or (value is None and kind is type(None)) else f"{place} is no {kind.__name__}"


def _model(value: Any, kind: type[BaseModel], place: str, extension: frozenset[str]) -> str | None:
    if not isinstance(value, Mapping):
        return f"{place} is no object"
    given: Mapping[str, Any] = value  # pyright: ignore[reportUnknownVariableType]
    fields = {field.alias or name: field for name, field in kind.model_fields.items()}
    for name, field in fields.items():
        if name not in given:
            if field.is_required():
                return f"{place}.{name} is missing"
        elif bad := strange(given[name], field.annotation, f"{place}.{name}"):
            return bad
    more = given.keys() - fields.keys() - extension
    return f"{place} has {sorted(more)}, which {kind.__name__} has not" if more else None


def _depth(words: str) -> int:
    """How far into a value a complaint is: of a union, the deepest is about what was meant."""
    place = words.partition(" ")[0]
    return 0 if ".type:" in words else place.count(".") + place.count("[")
