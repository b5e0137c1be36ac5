"""Grammars of arguments that are written one by one with their names: as elements, or as in a call of Python.

The names, which of them have to be there and the types of their values are held. What is said of a string (its length,
a pattern) is not, where the family writes it without quotes: only the values of an `enum` are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, cast

from ponder.engines.tools.form import (
    STRINGS,
    Ebnf,
    HeldTool,
    Tag,
    any_number,
    constant,
    grammar,
    one_of,
    optional,
    sequence,
)
from ponder.engines.tools.values import kind_of

NAME = "[A-Za-z_][A-Za-z0-9_.-]{0,63}"
"""The name of an argument of which the schema says nothing."""

_DEEP = 16
KINDS = ["string", "number", "boolean", "null", "array", "object"]
LISTED = 32
"""Items of a list that are counted at most, where it is written in the family's own way."""

Argument = Callable[[str, Any], Tag]
"""One argument of this name, with a value of this schema."""


def arguments(tool: HeldTool, one: Argument, free: Tag, joined: str = "") -> Tag:
    """All arguments of a tool. `free` is one of which the schema says nothing, `joined` stands between two."""
    shapes = list(_objects(tool.arguments, tool.defs, _DEEP))
    if not shapes:
        return _joined([], [], free, joined)
    return one_of([_shape(shape, one, free, joined) for shape in shapes])


def _objects(held: Any, defs: Mapping[str, Any], deep: int) -> Iterator[dict[str, Any]]:
    """The objects that a held schema allows; none where it says nothing of its properties."""
    if not isinstance(held, dict) or deep == 0:
        return
    held = cast("dict[str, Any]", held)
    if "$ref" in held:
        yield from _objects(defs.get(held["$ref"].rpartition("/")[2]), defs, deep - 1)
    elif "anyOf" in held:
        for branch in held["anyOf"]:
            yield from _objects(branch, defs, deep - 1)
    elif held.get("type") == "object" and "properties" in held:
        yield held


def _shape(shape: dict[str, Any], one: Argument, free: Tag, joined: str) -> Tag:
    required = set(shape.get("required", ()))
    made = {key: one(key, schema) for key, schema in shape["properties"].items()}
    needed = [tag for key, tag in made.items() if key in required]
    others = [tag for key, tag in made.items() if key not in required]
    return _joined(needed, others, free if shape.get("additionalProperties", False) else None, joined)


def _joined(needed: Sequence[Tag], others: Sequence[Tag], free: Tag | None, joined: str) -> Tag:
    """What is needed in its order, then what may be left out in its order, then what is free."""
    comma = [constant(joined)] if joined else []

    def rest(others: Sequence[Tag]) -> list[Tag]:
        """Behind something."""
        more = [optional(sequence(*comma, other)) for other in others]
        return more if free is None else [*more, any_number(sequence(*comma, free))]

    if needed:
        written = [part for n, tag in enumerate(needed) for part in (*(comma if n else ()), tag)]
        return sequence(*written, *rest(others))
    if not joined:
        parts = rest(others)
        return sequence(*parts) if parts else constant("")
    begins = [sequence(other, *rest(others[n + 1 :])) for n, other in enumerate(others)]
    if free is not None:
        begins.append(sequence(free, *rest(())))
    return optional(one_of(begins)) if begins else constant("")


def kinds(schema: Any, defs: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """The kinds of JSON that a value may be (string, number, boolean, null, array, object), each with its schema."""
    for shape in alternatives(schema, defs):
        if "enum" in shape:
            values: dict[str, list[Any]] = {}
            for value in shape["enum"]:
                values.setdefault(kind_of(value), []).append(value)
            yield from ((kind, {"enum": some}) for kind, some in values.items())
            continue
        named = shape.get("type", KINDS)
        for kind in cast("list[str]", named if isinstance(named, list) else [named]):
            yield ("number" if kind == "integer" else kind), {**shape, "type": kind}


def unquoted(schema: Any, defs: Mapping[str, Any], text: Tag, ebnf: Ebnf) -> Tag:
    """A value that is written as JSON, but a string as it is; `text` is a string that may be anything."""
    kinds = list(alternatives(schema, defs))
    if any(_may_be_text(kind) for kind in kinds):
        texts = [value for kind in kinds for value in kind.get("enum", ()) if isinstance(value, str)]
        if all("enum" in kind for kind in kinds if _may_be_text(kind)):
            others = [value for kind in kinds for value in kind.get("enum", ()) if not isinstance(value, str)]
            rest = [kind for kind in kinds if "enum" not in kind] + ([{"enum": others}] if others else [])
            return one_of([*map(constant, texts), *(grammar(ebnf(kind, (", ", ": "))) for kind in rest)])
        return text
    return grammar(ebnf(schema, (", ", ": ")))


def alternatives(schema: Any, defs: Mapping[str, Any], deep: int = _DEEP) -> Iterator[dict[str, Any]]:
    """The schemas one of which a value has to fulfil."""
    if not isinstance(schema, dict) or deep == 0:
        yield {}
        return
    schema = cast("dict[str, Any]", schema)
    if "$ref" in schema:
        yield from alternatives(defs.get(schema["$ref"].rpartition("/")[2]), defs, deep - 1)
    elif "anyOf" in schema:
        for branch in schema["anyOf"]:
            yield from alternatives(branch, defs, deep - 1)
    elif "const" in schema:
        yield {"enum": [schema["const"]]}
    else:
        yield schema


def loose_arguments(tool: HeldTool) -> Sequence[str] | None:
    """Where something is said of the arguments together that only JSON can be held to; None: nowhere."""
    for shape in _objects(tool.arguments, tool.defs, _DEEP):
        words = [word for word in shape if word not in ("type", "properties", "required", "additionalProperties")]
        if isinstance(shape.get("additionalProperties"), dict):
            words.append("additionalProperties")
        if words:
            return (words[0],)
    return None


def loose_texts(tool: HeldTool, deep: int | None = None) -> Sequence[str] | None:
    """The same where arguments that are texts have no quotes, so that only the type of such a text is held, and its
    values. `deep`: objects and lists are written in the family's own way, and are held so deep; None: as JSON."""
    if (place := loose_arguments(tool)) is not None:
        return place
    for shape in _objects(tool.arguments, tool.defs, _DEEP):
        for key, schema in shape["properties"].items():
            if (place := _loose(schema, tool.defs, deep)) is not None:
                return ("properties", key, *place)
    return None


def _loose(schema: Any, defs: Mapping[str, Any], deep: int | None) -> Sequence[str] | None:
    for kind in alternatives(schema, defs):
        if "enum" in kind:
            continue
        if _may_be_text(kind) and (words := [word for word in STRINGS if word in kind]):
            return (words[0],)
        types = kind.get("type", ())
        if deep is None or not {"object", "array"} & {types, *(types if isinstance(types, list) else ())}:
            continue
        if deep <= 1:
            return ("type",)
        if (place := loose_arguments(HeldTool("", kind, defs))) is not None:
            return place
        words = [word for word in kind if word in ("prefixItems", "patternProperties", "propertyNames")]
        words += [word for word in ("minItems", "maxItems") if kind.get(word, 0) > LISTED]
        if words:
            return (words[0],)
        for key, value in kind.get("properties", {}).items():
            if (place := _loose(value, defs, deep - 1)) is not None:
                return ("properties", key, *place)
        if "items" in kind and (place := _loose(kind["items"], defs, deep - 1)) is not None:
            return ("items", *place)
    return None


def _may_be_text(kind: dict[str, Any]) -> bool:
    if "enum" in kind:
        return any(isinstance(value, str) for value in kind["enum"])
    types = kind.get("type", "string")
    return "string" in (types if isinstance(types, list) else (types,))


def listed(item: Tag, least: int, most: int | None, joined: str = "") -> Tag:
    """A list of so many items, `joined` between two; of many, no more than `LISTED` are counted."""
    comma = [constant(joined)] if joined else []
    needed = [part for n in range(min(least, LISTED)) for part in (*(comma if n else ()), item)]
    another = sequence(*comma, item)
    if most is None or most > LISTED:
        if needed:
            return sequence(*needed, any_number(another))
        return optional(sequence(item, any_number(another)))
    rest: list[Tag] = []
    for n in range(most - 1, min(least, LISTED) - 1, -1):
        rest = [optional(sequence(item if n == 0 else another, *rest))]
    return sequence(*needed, *rest) if needed or rest else constant("")
