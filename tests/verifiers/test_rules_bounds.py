"""Rules that no text could be held against, and numbers no document may have."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from ponder.compute.worker import TASKS
from ponder.testing import Chain
from ponder.verifiers.rules import Rules
from tests.server.serving import chat, door, refused, scripted

CIRCLES: list[dict[str, Any]] = [
    {"$ref": "#"},
    {"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"},
    {"properties": {"x": {"$ref": "#/properties/x"}}},
    {"allOf": [{"$ref": "#"}]},
    {"anyOf": [{"type": "string"}, {"$ref": "#"}]},
    {"not": {"$ref": "#"}},
    {"if": {"$ref": "#"}, "then": True},
    {"dependentSchemas": {"x": {"$ref": "#"}}},
    {"$defs": {"a~/b": {"oneOf": [{"$ref": "#/%24defs/a~0~1b"}]}}, "items": {"$ref": "#/$defs/a~0~1b"}},
]
FINE: list[dict[str, Any]] = [
    {"type": "object", "properties": {"next": {"$ref": "#"}}},
    {"$defs": {"a": {"items": {"$ref": "#/$defs/a"}}}, "$ref": "#/$defs/a"},
    {"$defs": {"a": {"type": "string"}}, "anyOf": [{"$ref": "#/$defs/a"}, {"$ref": "#/$defs/a"}]},
    {"$ref": "#/nowhere/7"},
    {"const": {"$ref": "#"}},
]


@pytest.mark.parametrize("schema", CIRCLES)
def test_a_schema_that_leads_back_to_itself_is_refused(schema: dict[str, Any]) -> None:
    response = chat(
        door(scripted(Chain("t", "{}"))),
        strategy="best_of_n",
        thinking_budget=1000,
        verifier={"name": "rules", "json_schema": schema},
    )
    assert "refers to itself" in refused(response, 400)


@pytest.mark.parametrize("schema", FINE)
def test_one_that_goes_on_to_a_part_of_the_document_is_not(schema: dict[str, Any]) -> None:
    Rules(json_schema=schema)


def test_long_rows_of_references_are_followed() -> None:
    defs: dict[str, Any] = {f"d{i}": {"$ref": f"#/$defs/d{i + 1}"} for i in range(5000)}
    Rules(json_schema={"$defs": defs, "$ref": "#/$defs/d0"})
    with pytest.raises(ValidationError, match="refers to itself"):
        Rules(json_schema={"$defs": {**defs, "d5000": {"$ref": "#/$defs/d0"}}})


@pytest.mark.parametrize("text", ["1e999", "-1e999", '{"a": 1e999}', "NaN", "[Infinity]"])
def test_a_number_without_a_value_is_no_json(text: str) -> None:
    rule = '{"multipleOf": 0.5, "properties": {"a": {"multipleOf": 0.5}}}'
    assert TASKS["schema"]()(rule, text) is False
