"""Fields made from a JSON schema, as `/v1/strategies` has them for the parameters of strategies and verifiers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, cast

from nicegui import ui

# NiceGUI leaves callables of any kind without types.
# pyright: reportUnknownMemberType=false

__all__ = ["Form", "Wrong"]

FIELD = "outlined dense hide-bottom-space"


class Wrong(ValueError):
    """What stands in a field cannot be sent: the sentence says which and why."""


class Form:
    """A field for each property of an object's schema, made where it is created. Only what was changed is sent, so that
    what the server leaves to itself stays with it."""

    def __init__(self, schema: Mapping[str, Any]) -> None:
        self._fields: dict[str, tuple[Mapping[str, Any], ui.input | ui.number | ui.select | ui.switch]] = {}
        for name, one in cast("dict[str, dict[str, Any]]", schema.get("properties", {})).items():
            self._fields[name] = one, _field(name, one)

    def __len__(self) -> int:
        return len(self._fields)

    @property
    def value(self) -> dict[str, Any]:
        """The parameters that differ from what the server would take. Raises `Wrong`."""
        found: dict[str, Any] = {}
        for name, (schema, field) in self._fields.items():
            value = _read(name, schema, cast("Any", field).value)
            if value is not None and value != schema.get("default"):
                found[name] = value
        return found


def _types(schema: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """What a value may be, beside null."""
    branches = cast("list[Mapping[str, Any]]", schema.get("anyOf", [schema]))
    return [one for one in branches if one.get("type") != "null"]


def _field(name: str, schema: Mapping[str, Any]) -> ui.input | ui.number | ui.select | ui.switch:
    (kind, *others), default = _types(schema) or [{}], schema.get("default")
    says = str(schema.get("description", ""))
    if isinstance(kind.get("enum"), list):
        field = ui.select(cast("list[Any]", kind["enum"]), label=name, value=default)
    elif kind.get("type") in ("integer", "number") and not others:
        whole = kind["type"] == "integer"
        low, high = kind.get("minimum"), kind.get("maximum")
        field = ui.number(name, value=default, min=low, max=high, step=1 if whole else 0.05)
        if low is not None and high is not None:
            says += f" ({low} to {high})"
    elif kind.get("type") == "boolean":
        return ui.switch(name, value=bool(default)).tooltip(says)
    elif kind.get("type") == "string":
        field = ui.input(name, value=default or "")
    else:
        field = ui.input(name, value="" if default is None else json.dumps(default))
        says += " (as JSON)"
    field.props(FIELD)
    field.props["hint"] = says
    return field


def _read(name: str, schema: Mapping[str, Any], value: object) -> object:
    kinds = _types(schema)
    if value is None or value == "":
        return None
    if "enum" in kinds[0] or isinstance(value, bool):
        return value
    if len(kinds) == 1 and isinstance(value, int | float):
        whole = kinds[0].get("type") == "integer"
        if whole and value != int(value):
            raise Wrong(f"{name} is a whole number, and {value} is none")
        return int(value) if whole else value
    if kinds[0].get("type") == "string" and len(kinds) == 1:
        return value
    try:
        return json.loads(str(value))
    except ValueError as error:
        raise Wrong(f"{name} is no JSON: {error}") from None
