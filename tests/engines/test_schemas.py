"""What of a JSON schema is enforced, and that the rest is refused by name: each row of the table in `docs/api.md`.

The proof of "enforced" is xgrammar's own matcher with the demo's tokenizer: it takes what is valid, refuses what is
not, and whatever it lets be written at random is valid as jsonschema judges the caller's own schema.
"""

from __future__ import annotations

import json
import random
from functools import cache
from pathlib import Path
from typing import Any, cast

import jsonschema
import pytest
import xgrammar
from transformers import AutoTokenizer

from ponder.compute.engine import CallSchema, Grammar
from ponder.compute.errors import RequestError
from ponder.engines.grammars import encoded
from ponder.engines.schemas import Schemas

DEMO = Path(__file__).parents[2] / "models" / "demo"
REFERRED = {"$defs": {"N": {"type": "integer"}, "a/b": {"type": "boolean"}, "a b": {"type": "null"}}}
LIST = {
    "type": "object",
    "properties": {"n": {"type": "integer"}, "next": {"$ref": "#"}},
    "required": ["n"],
}


@cache
def compiler() -> xgrammar.GrammarCompiler:
    tokenizer = cast(Any, AutoTokenizer).from_pretrained(str(DEMO))
    return xgrammar.GrammarCompiler(xgrammar.TokenizerInfo.from_huggingface(tokenizer, vocab_size=1154))


@cache
def matcher(grammar: Grammar) -> Any:
    kind, text = encoded(grammar)
    compiled: Any = compiler().compile_grammar(text) if kind == "grammar" else compiler().compile_structural_tag(text)
    return xgrammar.GrammarMatcher(compiled)


def takes(grammar: Grammar, text: str) -> bool:
    judge = matcher(grammar)
    judge.reset()
    return bool(judge.accept_string(text)) and bool(judge.is_completed())


def written(grammar: Grammar, seed: int, most: int = 300) -> str | None:
    """A text written by chance, a character or a piece at a time; None where it did not end in time."""
    judge, draw = matcher(grammar), random.Random(seed)
    judge.reset()
    pieces = [
        *'0123456789abcxyzT:Z-+.@/_ {}[],"\\né#%<>=\n\tu',
        "true",
        "false",
        "null",
        '": ',
        '":',
        '", ',
        '","',
        '"',
    ]
    pieces += ["<tool_call>\n", "\n</tool_call>", ".py", "D", "e", "1e5", "-0", "\x01", "\x7f"]
    text = ""
    while len(text) < most:
        if judge.is_completed() and (draw.random() < 0.5 or len(text) > most // 2):
            return text
        forced = judge.find_jump_forward_string()
        if forced:
            assert judge.accept_string(forced)
            text += forced
            continue
        closing = ["}", "]", '"'] if len(text) > most // 3 else []
        for piece in [*closing, *draw.sample(pieces, len(pieces))]:
            if judge.accept_string(piece):
                text += piece
                break
        else:
            return text if judge.is_completed() else None
    return None


ENFORCED: dict[str, tuple[Any, list[Any], list[Any]]] = {
    "type": ({"type": "boolean"}, [True], [1, "true", None]),
    "type list": ({"type": ["integer", "null"]}, [5, None], ["x", True]),
    "type list and bounds": ({"type": ["integer", "string"], "minimum": 3, "minLength": 2}, [3, "ab"], [2, "a"]),
    "enum": ({"enum": ["a", 1, None, {"x": [1]}]}, ["a", 1, None, {"x": [1]}], ["b", 2, {}]),
    "enum and type": ({"type": "string", "enum": ["a", 1]}, ["a"], [1]),
    "enum and minLength": ({"enum": ["a", "abc"], "minLength": 2}, ["abc"], ["a"]),
    "const": ({"const": {"a": [1, None]}}, [{"a": [1, None]}], [{"a": [1]}]),
    "minLength": ({"type": "string", "minLength": 3}, ["abc"], ["ab"]),
    "maxLength": ({"type": "string", "maxLength": 3}, ["abc", ""], ["abcd"]),
    "length without type": ({"minLength": 3}, ["abc"], ["ab"]),
    "pattern": ({"type": "string", "pattern": "^[a-c]+$"}, ["abc"], ["abd", ""]),
    "pattern, one end": ({"type": "string", "pattern": "^/api/"}, ["/api/x", "/api/"], ["x/api/"]),
    "pattern, other end": ({"type": "string", "pattern": "[.]py$"}, ["a.py"], ["a.pyc"]),
    "pattern, cases": ({"type": "string", "pattern": "^a$|^b$"}, ["a", "b"], ["ab", "c"]),
    "format date": ({"type": "string", "format": "date"}, ["2024-02-29"], ["2023-02-29", "2024-02-30", "2024-13-01"]),
    "format date-time": (
        {"type": "string", "format": "date-time"},
        ["2024-02-29T23:59:59Z", "2024-01-01T00:00:00.5+02:00"],
        ["2023-02-29T00:00:00Z", "2024-01-01T25:00:00Z", "2024-01-01"],
    ),
    "format time": ({"type": "string", "format": "time"}, ["23:59:59Z"], ["24:00:00Z", "x"]),
    "format hostname": ({"type": "string", "format": "hostname"}, ["a.example"], ["a b", ""]),
    "format uri": ({"type": "string", "format": "uri"}, ["http://a.example/x?y=1"], ["a b"]),
    "format duration": ({"type": "string", "format": "duration"}, ["P1D", "PT5M"], ["5 minutes"]),
    "format uuid": ({"type": "string", "format": "uuid"}, ["123e4567-e89b-12d3-a456-426614174000"], ["x"]),
    "format ipv4": ({"type": "string", "format": "ipv4"}, ["10.0.0.1"], ["10.0.0.256", "10.0.0.01", "x"]),
    "format ipv6": ({"type": "string", "format": "ipv6"}, ["::1"], ["x"]),
    "format email": ({"type": "string", "format": "email"}, ["a@b.co"], ["hello"]),
    "format int32": ({"type": "integer", "format": "int32"}, [2**31 - 1], [2**31]),
    "minimum": ({"type": "integer", "minimum": 3}, [3, 400], [2, -3]),
    "maximum": ({"type": "integer", "maximum": 3}, [3, -4], [4]),
    "exclusive": ({"type": "integer", "exclusiveMinimum": 3, "exclusiveMaximum": 6}, [4, 5], [3, 6]),
    "bounds of a number": ({"type": "number", "minimum": 3.5, "maximum": 4}, [3.5, 3.75, 4], [3.4, 4.1]),
    "odd bounds": ({"type": "integer", "minimum": 2.5, "maximum": 1e30}, [3], [2]),
    "bounds without type": ({"minimum": 3}, [3], [2]),
    "multipleOf 1": ({"type": "number", "multipleOf": 1}, [3], [3.5]),
    "items": ({"type": "array", "items": {"type": "integer"}}, [[], [1]], [["x"]]),
    "minItems": ({"type": "array", "minItems": 2, "items": {"type": "integer"}}, [[1, 2]], [[1]]),
    "maxItems": ({"type": "array", "maxItems": 1, "items": {"type": "integer"}}, [[1], []], [[1, 2]]),
    "no items": ({"items": False}, [[]], [[1]]),
    "prefixItems": (
        {"type": "array", "prefixItems": [{"type": "integer"}, {"type": "string"}], "minItems": 2},
        [[1, "a"]],
        [["a", 1], [1]],
    ),
    "prefixItems and items": (
        {"type": "array", "prefixItems": [{"type": "integer"}], "items": {"type": "string"}, "minItems": 2},
        [[1, "a"], [1, "a", "b"]],
        [[1, 1], [1]],
    ),
    "items, the old way": (
        {"type": "array", "items": [{"type": "integer"}], "additionalItems": False, "minItems": 1},
        [[1]],
        [["x"], [1, 1], []],
    ),
    "properties": ({"properties": {"a": {"type": "integer"}, "b": {}}}, [{"a": 1}, {"b": 5}, {}], [{"a": "x"}, 5]),
    "required": ({"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}, [{"a": 1}], [{}]),
    "required alone": ({"type": "object", "required": ["a"]}, [{"a": 1}], [{}, {"b": 1}]),
    "required beyond": (
        {"type": "object", "properties": {"b": {"type": "integer"}}, "required": ["a", "b"]},
        [{"b": 1, "a": 2}],
        [{"b": 1}, {"a": 1}],
    ),
    "required by additionalProperties": (
        {"type": "object", "required": ["a"], "additionalProperties": {"type": "integer"}},
        [{"a": 1}, {"a": 1, "z": 2}],
        [{"a": "x"}, {"z": 2}],
    ),
    "additionalProperties": (
        {"type": "object", "properties": {"a": {"type": "integer"}}, "additionalProperties": {"type": "string"}},
        [{"a": 1, "z": "x"}, {}],
        [{"a": "x"}, {"z": 1}],
    ),
    "additionalProperties false": ({"properties": {"a": {}}, "additionalProperties": False}, [{"a": 1}], [{"b": 1}]),
    "patternProperties": (
        {"type": "object", "patternProperties": {"^x[0-9]$": {"type": "integer"}}},
        [{"x1": 1}, {}],
        [{"x1": "s"}],
    ),
    "propertyNames": (
        {"type": "object", "propertyNames": {"pattern": "^x[0-9]$"}, "additionalProperties": {"type": "integer"}},
        [{"x1": 1}],
        [{"y": 1}, {"x1": "s"}],
    ),
    "propertyNames, an enum": (
        {"type": "object", "propertyNames": {"enum": ["a", "b"]}, "additionalProperties": {"type": "integer"}},
        [{"a": 1}],
        [{"c": 1}],
    ),
    "minProperties": (
        {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}}, "minProperties": 1},
        [{"a": 1}, {"b": 1}],
        [{}],
    ),
    "minProperties, open": ({"type": "object", "minProperties": 1}, [{"q": 1}], [{}]),
    "maxProperties": ({"type": "object", "maxProperties": 1}, [{"q": 1}, {}], [{"q": 1, "r": 2}]),
    "anyOf": ({"anyOf": [{"type": "integer"}, {"type": "string"}]}, [5, "x"], [None]),
    "anyOf and type": ({"type": "string", "anyOf": [{"minLength": 3}, {"const": "a"}]}, ["abc", "a"], ["ab", 5]),
    "anyOf and properties": (
        {
            "type": "object",
            "properties": {"a": {"type": "integer"}},
            "required": ["a"],
            "anyOf": [
                {"properties": {"b": {"type": "string"}}, "required": ["b"]},
                {"properties": {"c": {"const": 1}}},
            ],
        },
        [{"a": 1, "b": "x"}, {"a": 1, "c": 1}, {"a": 1}],
        [{"b": "x"}, {"a": 1, "c": 2}],
    ),
    "oneOf": ({"oneOf": [{"type": "integer"}, {"type": "string"}]}, [5, "x"], [None]),
    "oneOf by const": (
        {
            "oneOf": [
                {"type": "object", "properties": {"k": {"const": "a"}, "x": {"type": "integer"}}, "required": ["k"]},
                {"type": "object", "properties": {"k": {"const": "b"}}, "required": ["k"]},
            ]
        },
        [{"k": "a", "x": 1}, {"k": "b"}],
        [{"k": "c"}, {}],
    ),
    "allOf": ({"allOf": [{"type": "integer"}, {"minimum": 3}, {"maximum": 5}]}, [4], [2, 6]),
    "allOf of objects": (
        {
            "$defs": {"Base": {"type": "object", "properties": {"id": {"type": "integer"}}, "required": ["id"]}},
            "allOf": [{"$ref": "#/$defs/Base"}, {"properties": {"name": {"type": "string"}}, "required": ["name"]}],
        },
        [{"id": 1, "name": "x"}],
        [{"id": 1}, {"name": "x"}],
    ),
    "$ref": (REFERRED | {"$ref": "#/$defs/N"}, [5], ["x"]),
    "$ref and more": (REFERRED | {"$ref": "#/$defs/N", "minimum": 3}, [3], [2]),
    "$ref escaped": (REFERRED | {"type": "array", "items": {"$ref": "#/$defs/a~1b"}}, [[True]], [[1]]),
    "$ref encoded": (REFERRED | {"type": "array", "items": {"$ref": "#/$defs/a%20b"}}, [[None]], [[1]]),
    "$ref to a place": (
        {"anyOf": [{"type": "integer"}, {"type": "array", "items": {"$ref": "#/anyOf/0"}}]},
        [[5]],
        [["x"]],
    ),
    "$ref to itself": (LIST, [{"n": 1, "next": {"n": 2}}], [{"n": 1, "next": {}}]),
    "$anchor": ({"$defs": {"N": {"$anchor": "N", "type": "integer"}}, "$ref": "#N"}, [5], ["x"]),
    "$id": (
        {"$defs": {"N": {"$id": "http://x.example/N", "type": "integer"}}, "$ref": "http://x.example/N"},
        [5],
        ["x"],
    ),
    "$id with its own $defs": (
        {
            "$defs": {
                "N": {"type": "string"},
                "M": {"$id": "http://x.example/M", "$ref": "#/$defs/N", "$defs": {"N": {"const": 1}}},
            },
            "type": "array",
            "items": {"$ref": "http://x.example/M"},
        },
        [[1]],
        [["x"]],
    ),
    "definitions": ({"definitions": {"N": {"type": "integer"}}, "items": {"$ref": "#/definitions/N"}}, [[5]], [["x"]]),
    "words to a reader": (
        {"type": "integer", "title": "n", "description": "d", "default": 5, "examples": [1]},
        [5],
        ["x"],
    ),
}

REFUSED: dict[str, tuple[Any, str]] = {
    "not": ({"type": "integer", "not": {"const": 5}}, "not"),
    "if": ({"type": "object", "if": {"required": ["a"]}, "then": {"required": ["b"]}}, "if"),
    "dependentRequired": ({"type": "object", "dependentRequired": {"a": ["b"]}}, "dependentRequired"),
    "dependentSchemas": ({"type": "object", "dependentSchemas": {"a": {"required": ["b"]}}}, "dependentSchemas"),
    "uniqueItems": ({"type": "array", "uniqueItems": True}, "uniqueItems"),
    "contains": ({"type": "array", "contains": {"const": 1}}, "contains"),
    "multipleOf": ({"type": "integer", "multipleOf": 3}, "multipleOf"),
    "look-ahead": ({"type": "string", "pattern": "^(?=a).*$"}, "pattern"),
    "look-behind": ({"type": "string", "pattern": "^.*(?<!a)b$"}, "pattern"),
    "back-reference": ({"type": "string", "pattern": "^(a|b)\\1$"}, "pattern"),
    "word boundary": ({"type": "string", "pattern": "^\\bab$"}, "pattern"),
    "anchor within": ({"type": "string", "pattern": "^(a$|b)c"}, "pattern"),
    "flags": ({"type": "string", "pattern": "(?i)a"}, "pattern"),
    "a new line": ({"type": "string", "pattern": "^a\\nb$"}, "pattern"),
    "a quote": ({"type": "string", "pattern": '^"$'}, "pattern"),
    "no pattern": ({"type": "string", "pattern": "("}, "pattern"),
    "counts": ({"type": "string", "pattern": "^(?:[a-z]{100}){100}$"}, "pattern"),
    "repeats": ({"type": "string", "pattern": "^.{0,500}$"}, "pattern"),
    "bounds of many properties": (
        {"type": "object", "properties": {f"p{n}": {"type": "integer"} for n in range(200)}, "minProperties": 50},
        "minProperties",
    ),
    "pattern and length": ({"type": "string", "pattern": "^a+$", "minLength": 3}, "pattern"),
    "format": ({"type": "string", "format": "iri"}, "format"),
    "format and length": ({"type": "string", "format": "uri", "maxLength": 30}, "format"),
    "remote $ref": ({"$ref": "http://json-schema.org/draft-07/schema#"}, "$ref"),
    "dangling $ref": ({"$ref": "#/$defs/N"}, "$ref"),
    "circle": ({"$defs": {"N": {"$ref": "#/$defs/N"}}, "$ref": "#/$defs/N"}, "$ref"),
    "without end": ({"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]}, "$ref"),
    "a case of itself": ({"anyOf": [{"type": "string"}, {"$ref": "#"}]}, "anyOf"),
    "a case of a case": (
        {
            "$defs": {
                "a": {"oneOf": [{"$ref": "#/$defs/b"}]},
                "b": {"anyOf": [{"$ref": "#/$defs/a"}, {"type": "null"}]},
            },
            "type": "array",
            "items": {"$ref": "#/$defs/a"},
        },
        "anyOf",
    ),
    "$dynamicRef": ({"type": "object", "properties": {"c": {"$dynamicRef": "#n"}}}, "$dynamicRef"),
    "oneOf": ({"oneOf": [{"type": "integer"}, {"type": "number", "minimum": 3}]}, "oneOf"),
    "oneOf of open objects": (
        {"oneOf": [{"type": "object", "properties": {"a": {}}}, {"type": "object", "properties": {"b": {}}}]},
        "oneOf",
    ),
    "patternProperties and properties": (
        {"type": "object", "properties": {"x": {}}, "patternProperties": {"^x": {"type": "integer"}}},
        "patternProperties",
    ),
    "minProperties, open": ({"type": "object", "minProperties": 2}, "minProperties"),
    "unevaluatedProperties": (
        {"type": "object", "unevaluatedProperties": {"type": "integer"}},
        "unevaluatedProperties",
    ),
    "nothing": ({"type": "string", "allOf": [{"type": "integer"}]}, "type"),
    "false": ({"type": "object", "properties": {"a": False}, "required": ["a"]}, "required"),
    "enum of nothing": ({"type": "string", "enum": [1]}, "enum"),
    "a type nobody knows": ({"type": "banana"}, "type"),
    "bounds the old way": (
        {"$schema": "http://json-schema.org/draft-04/schema#", "minimum": 1, "exclusiveMinimum": True},
        "exclusiveMinimum",
    ),
}


def judge_of(name: str) -> Any:
    kind = jsonschema.Draft7Validator if "old way" in name else jsonschema.Draft202012Validator
    # What it takes for a time is not RFC 3339's.
    formats = [form for form in jsonschema.FormatChecker.checkers if form != "time"]
    return kind(ENFORCED[name][0], format_checker=jsonschema.FormatChecker(formats))


@pytest.mark.parametrize("name", ENFORCED)
def test_what_is_enforced_is(name: str) -> None:
    schema, valid, invalid = ENFORCED[name]
    grammar = Grammar(json.dumps(schema))
    judge = judge_of(name)
    for value in valid:
        judge.validate(value)
        assert takes(grammar, json.dumps(value, separators=(",", ":"), ensure_ascii=False)), value
    for value in invalid:
        assert not takes(grammar, json.dumps(value, separators=(",", ":"), ensure_ascii=False)), value


@pytest.mark.parametrize("name", ENFORCED)
def test_whatever_the_grammar_lets_be_written_is_valid(name: str) -> None:
    schema = ENFORCED[name][0]
    grammar = Grammar(json.dumps(schema))
    judge = judge_of(name)
    texts = [text for seed in range(40) if (text := written(grammar, seed)) is not None]
    assert texts
    for text in texts:
        judge.validate(json.loads(text))


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_enforced_is_refused_by_name(name: str) -> None:
    schema, keyword = REFUSED[name]
    inside = {"type": "object", "properties": {"deep": schema}, "required": ["deep"]}
    with pytest.raises(RequestError) as caught:
        Schemas().add(schema, "response_format.json_schema.schema")
    assert keyword in caught.value.message
    assert caught.value.code == "invalid_json_schema"
    if "#" not in json.dumps(schema):
        with pytest.raises(RequestError) as caught:
            Schemas().add(inside, "tools.3.function.parameters")
        assert (caught.value.param or "").startswith("tools.3.function.parameters.properties.deep")


@pytest.mark.parametrize("word", ["allOf", "anyOf"])
def test_a_schema_that_doubles_at_every_reference_is_refused(word: str) -> None:
    defs = {f"D{n}": {"minLength": 1, word: [{"$ref": f"#/$defs/D{n + 1}"}] * 2} for n in range(40)}
    with pytest.raises(RequestError, match="places"):
        Schemas().add({"$ref": "#/$defs/D0", "$defs": defs | {"D40": {"type": "string"}}}, "response_format")


def test_the_order_of_properties_is_the_callers() -> None:
    schema = {
        "type": "object",
        "properties": {"reason": {"const": "r"}, "answer": {"const": "a"}},
        "required": ["answer", "reason"],
    }
    grammar = Grammar(json.dumps(schema))
    assert takes(grammar, '{"reason":"r","answer":"a"}')
    assert not takes(grammar, '{"answer":"a","reason":"r"}')


@pytest.mark.parametrize("text", ['"ab\tcd"', '"ab\x01cd"', '"ab\ncd"'])
def test_a_text_of_bounded_length_holds_no_control_character(text: str) -> None:
    """JSON forbids them, and xgrammar lets them through."""
    assert takes(Grammar('{"type": "string", "minLength": 2, "maxLength": 9}'), '"abcd"')
    assert not takes(Grammar('{"type": "string", "minLength": 2, "maxLength": 9}'), text)


NODE = {
    "type": "object",
    "properties": {"v": {"$ref": "#/$defs/V"}, "next": {"$ref": "#"}},
    "$defs": {"V": {"const": 1}},
}
OTHER = {"type": "object", "properties": {"v": {"$ref": "#/$defs/V"}}, "required": ["v"], "$defs": {"V": {"const": 2}}}
CALLS = (CallSchema("node", json.dumps(NODE)), CallSchema("other", json.dumps(OTHER)))


def call(name: str, **arguments: Any) -> str:
    return f"<tool_call>\n{json.dumps({'name': name, 'arguments': arguments})}\n</tool_call>"


def test_references_of_each_tool_are_its_own() -> None:
    grammar = Grammar(calls=CALLS, document=False)
    assert takes(grammar, call("node", v=1, next={"v": 1, "next": {}}))
    assert takes(grammar, call("other", v=2))
    assert not takes(grammar, call("node", v=2))
    assert not takes(grammar, call("other", v=1))
    assert not takes(grammar, call("node", next={"name": "node", "arguments": {}}))


def test_several_calls_where_they_are_allowed() -> None:
    one, two = call("other", v=2), call("node", v=1)
    assert takes(Grammar(calls=CALLS, document=False), f"{one}\n{two}\n{one}")
    alone = Grammar(calls=CALLS, document=False, several=False)
    assert takes(alone, one)
    assert not takes(alone, f"{one}\n{two}")


def test_a_call_or_a_document() -> None:
    schema = json.dumps({"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]})
    grammar = Grammar(schema, calls=CALLS)
    assert takes(grammar, '{"a":1}')
    assert takes(grammar, call("other", v=2))
    assert not takes(grammar, call("other", v=2) + '{"a":1}')
    assert not takes(grammar, '{"name": "other", "arguments": {"v": 2}}')
    assert takes(Grammar(calls=CALLS), '{"b":[]}')
    for seed in range(40):
        if (text := written(grammar, seed)) is not None:
            assert text.startswith("<tool_call>") or isinstance(json.loads(text)["a"], int)
