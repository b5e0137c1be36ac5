"""The test engine does what it is asked, always in the same way, and keeps what an engine must."""

from __future__ import annotations

import json
from typing import Any, cast

import pytest
from jsonschema import Draft202012Validator, FormatChecker

from ponder.compute.errors import RequestError
from ponder.testing import EchoEngine, check_engine, smallest
from tests.server.serving import answered, chat, door, refused

TREE = {
    "$defs": {
        "tree": {
            "type": "object",
            "properties": {"leaves": {"type": "array", "items": {"$ref": "#/$defs/tree"}}, "size": {"type": "integer"}},
            "required": ["leaves", "size"],
        }
    },
    "$ref": "#/$defs/tree",
}
SCHEMAS: list[Any] = [
    {},
    {"type": "object"},
    {"type": "object", "properties": {"b": {"type": "null"}, "a": {"type": "boolean"}}, "required": ["a", "b"]},
    {"type": "object", "properties": {"a": {}, "b": {}, "c": {}}, "minProperties": 2},
    {"type": "object", "patternProperties": {"^[a-z]{2}$": {"type": "integer"}}, "minProperties": 1},
    {"type": "object", "additionalProperties": {"type": "string", "minLength": 2}, "minProperties": 1},
    {"type": "array", "prefixItems": [{"const": 1}, {"enum": ["x"]}], "items": {"type": "number"}, "minItems": 4},
    {"type": "integer", "minimum": 3},
    {"type": "integer", "exclusiveMaximum": -3},
    {"type": "number", "exclusiveMinimum": 0.1, "exclusiveMaximum": 0.2},
    {"type": "string", "pattern": r"^[A-Z]{3}-\d+( [^a]|x.)$"},
    {"type": "string", "pattern": "^(yes|no)"},
    *({"type": "string", "format": name} for name in ("date-time", "email", "ipv4", "uuid", "uri", "duration")),
    {"anyOf": [{"type": "object", "properties": {"n": {"$ref": "#"}}, "required": ["n"]}, {"type": "integer"}]},
    {"oneOf": [{"const": 1}, {"const": 2}]},
    {"allOf": [{"type": "integer", "minimum": 2}, {"minimum": 5}]},
    TREE,
]
TOOL: dict[str, Any] = {"type": "function", "function": {"name": "tree", "parameters": TREE}}
FORM: dict[str, Any] = {"type": "json_schema", "json_schema": {"name": "tree", "schema": TREE}}
SMALL: dict[str, Any] = {"leaves": [], "size": 0}


@pytest.mark.parametrize("schema", SCHEMAS, ids=str)
def test_the_smallest_document_is_one_of_the_schema(schema: Any) -> None:
    found = json.loads(smallest(json.dumps(schema)))
    cast("Any", Draft202012Validator(schema, format_checker=FormatChecker())).validate(found)


def test_what_no_engine_holds_is_refused_by_its_place() -> None:
    with pytest.raises(RequestError) as refusal:
        smallest('{"type": "object", "properties": {"a": {"not": {}}}}', "tools.0.parameters")
    assert refusal.value.param == "tools.0.parameters.properties.a"


def test_it_repeats_a_question_calls_the_first_tool_and_fills_a_form() -> None:
    app = door(EchoEngine())
    answer = answered(app)
    assert answer["choices"][0]["message"]["content"] == "What is 3 + 4?"
    assert answer["usage"]["completion_tokens_details"]["reasoning_tokens"] > 0
    assert answered(app, thinking_budget=0)["usage"]["completion_tokens_details"]["reasoning_tokens"] == 0
    call = answered(app, tools=[TOOL])["choices"][0]["message"]["tool_calls"][0]["function"]
    assert (call["name"], json.loads(call["arguments"])) == ("tree", SMALL)
    assert json.loads(answered(app, response_format=FORM)["choices"][0]["message"]["content"]) == SMALL
    both = answered(app, response_format=FORM, tools=[TOOL])["choices"][0]
    assert both["finish_reason"] == "tool_calls"
    required = answered(app, tools=[TOOL], tool_choice="required")["choices"][0]
    assert required["finish_reason"] == "tool_calls"
    refused(chat(app, response_format={**FORM, "json_schema": {"name": "a", "schema": {"not": {}}}}), 400)


def test_it_keeps_what_every_engine_promises() -> None:
    check_engine(EchoEngine)
