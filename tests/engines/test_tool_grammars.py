"""Answers that have to be calls are held to the form of the model's family, and whatever the grammar allows is read.

The proof is xgrammar's own matcher: it takes every call a family writes, refuses what is none, and what it lets be
written at random is read again as calls that the tools' schemas allow, as far as the form can hold them.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from functools import cache
from typing import Any, cast

import jsonschema
import pytest
import xgrammar

from ponder.compute.engine import CallSchema, Grammar
from ponder.engines.grammars import encoded
from ponder.engines.tools import FORMATS
from ponder.engines.tools.elements import Elements
from ponder.server.calls import Offered, ToolCallParser

WEATHER: dict[str, Any] = {
    "type": "object",
    "properties": {
        "city": {"type": "string"},
        "days": {"type": "integer"},
        "hourly": {"type": "boolean"},
        "unit": {"enum": ["C", "F"]},
        "places": {"type": "array", "items": {"$ref": "#/$defs/Place"}, "maxItems": 2},
        "code": {"type": ["integer", "null"]},
    },
    "required": ["city"],
    "$defs": {"Place": {"type": "object", "properties": {"near": {"type": "boolean"}}, "required": ["near"]}},
}
CHOICES = {"type": "object", "properties": {"a": {"enum": ["x", "y"]}, "b": {"type": "number"}}}
SCHEMAS: dict[str, Any] = {
    "get_weather": WEATHER,
    "choose": CHOICES,
    "time": {"type": "object", "properties": {}},
    "free": {"type": "object", "additionalProperties": True},
}
DOCUMENT = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}
TOKENS = [bytes([i]) for i in range(256)] + [b"</s>"]


@cache
def compiler() -> xgrammar.GrammarCompiler:
    """Of a tokenizer whose tokens are bytes."""
    raw = xgrammar.VocabType.RAW
    return xgrammar.GrammarCompiler(xgrammar.TokenizerInfo(cast(Any, TOKENS), raw, stop_token_ids=[256]))


def held(*names: str, several: bool = True, document: bool = False) -> Grammar:
    calls = tuple(CallSchema(name, json.dumps(SCHEMAS[name])) for name in names or SCHEMAS)
    return Grammar(schema=json.dumps(DOCUMENT), calls=calls, several=several, document=document)


@cache
def matcher(grammar: Grammar, name: str) -> Any:
    kind, text = encoded(grammar, name)
    assert kind == "structural_tag"
    return xgrammar.GrammarMatcher(compiler().compile_structural_tag(text))


def takes(grammar: Grammar, name: str, text: str) -> bool:
    judge = matcher(grammar, name)
    judge.reset()
    return bool(judge.accept_string(text)) and bool(judge.is_completed())


def written(name: str, *calls: tuple[str, dict[str, Any]]) -> str:
    """Without a token that ends the turn: a grammar ends before it."""
    text = FORMATS[name].form.write(calls)
    return text.removesuffix("<|call|>") if len(calls) == 1 else text


def read(name: str, text: str) -> list[tuple[str, Any]]:
    """The calls of an answer that is calls from its first character to its last."""
    form, calls, at = FORMATS[name].form, list[tuple[str, Any]](), 0
    while at < len(text):
        if text[at].isspace() or (text.startswith(tuple(form.tails), at) and form.tails):
            at += next((len(tail) for tail in form.tails if text.startswith(tail, at)), 1)
            continue
        assert text.startswith(form.openers(SCHEMAS), at), text[at:]
        end = form.end().find(text, at)
        assert end > at, text[at:]
        found = form.read(text[at:end], lambda tool: SCHEMAS.get(tool, {}))
        assert found.rest == end - at, text[at:end]
        calls += [(one.name, json.loads(one.arguments)) for one in found.calls]
        at = end
    return calls


CALLS: list[tuple[str, dict[str, Any]]] = [
    ("get_weather", {"city": "Paris"}),
    ("get_weather", {"city": ""}),
    ("get_weather", {"city": 'it\'s "so" \\ {odd}, [a] (b)', "days": -3, "hourly": True, "unit": "F"}),
    ("get_weather", {"city": "東京 🌦", "places": [{"near": True}, {"near": False}], "code": None}),
    ("choose", {"a": "x"}),
    ("choose", {"b": 1.5}),
    ("choose", {}),
    ("time", {}),
    ("free", {}),
    ("free", {"any": "thing"}),
]


@pytest.mark.parametrize("name", FORMATS)
def test_what_a_family_writes_is_allowed_and_read(name: str) -> None:
    for call in CALLS:
        text = written(name, call)
        assert takes(held(), name, text), call
        assert read(name, text) == [call]
        assert takes(held(call[0], several=False), name, text)
    together = written(name, CALLS[0], CALLS[-1], CALLS[2])
    assert takes(held(), name, together) or name == "harmony"
    assert read(name, together) == [CALLS[0], CALLS[-1], CALLS[2]]
    assert not takes(held(several=False), name, together)


@pytest.mark.parametrize("name", FORMATS)
def test_what_is_no_call_of_a_tool_is_refused(name: str) -> None:
    for text in ("", "Let me look.", "{}", written(name, ("remove", {})), written(name, ("get_weather", {}))):
        assert not takes(held(), name, text)
    assert not takes(held("time"), name, written(name, ("get_weather", {"city": "Rome"})))
    for wrong in ({"days": "many"}, {"unit": "K"}, {"hourly": "perhaps"}, {"more": "x"}, {"code": 1.5}):
        assert not takes(held(), name, written(name, ("get_weather", {"city": "Rome", **wrong}))), wrong


@pytest.mark.parametrize("name", FORMATS)
def test_calls_or_a_document_can_be_told_apart_from_their_first_character(name: str) -> None:
    grammar, either = held(document=True), FORMATS[name].form.either
    text = written(name, CALLS[0])
    if either and not text.startswith(either):
        assert not takes(grammar, name, text)
        text = either + text
    assert takes(grammar, name, text)
    for document in ('{"name":"time"}', '{"name":"<tool_call>"}'):
        assert takes(grammar, name, document)
        parser = ToolCallParser(Offered(frozenset({"time", "get_weather"}), held=True, format=name))
        assert parser.feed(document) == (document, [])
        parser = ToolCallParser(Offered(frozenset({"time", "get_weather"}), held=True, format=name))
        parser.feed(text)
        parser.end()
        assert [call.name for call in parser.calls] == ["get_weather"]


def drawn(grammar: Grammar, name: str, seed: int, most: int = 400, more: Sequence[str] = ()) -> str | None:
    """A text written by chance, of these pieces too; None where it did not end in time."""
    judge, draw = matcher(grammar, name), random.Random(seed)
    judge.reset()
    form = FORMATS[name].form
    sample = written(name, CALLS[2], CALLS[3], CALLS[-1])
    ends = [*form.closers, '"', "}", "]", ")", '<|"|>', "<escape>"]
    if isinstance(form, Elements):
        ends = [form.argument[1], form.call[1], form.closes, *ends]
    pieces = [*" \n\"\\/{}[](),:;=<>|1.-_é'", *ends, *sorted(set(sample)), *SCHEMAS, *WEATHER["properties"]]
    pieces += ["x", "y", "true", "False", "null", "None", *more]
    pieces += [sample[at : at + n] for at in range(0, len(sample), 9) for n in (3, 12)]
    text = ""
    # What a form writes around a call takes none of the room.
    most += 2 * len(written(name, ("time", {}), ("choose", {"a": "x"})))
    while len(text) < most:
        if judge.is_completed() and (draw.random() < 0.3 or len(text) > most // 2):
            return text
        forced = judge.find_jump_forward_string()
        if forced:
            assert judge.accept_string(forced)
            text += forced
            continue
        for piece in [*(ends if len(text) > most // 3 else []), *draw.sample(pieces, len(pieces))]:
            if piece and judge.accept_string(piece):
                text += piece
                break
        else:
            return text if judge.is_completed() else None
    return None


@pytest.mark.parametrize("name", FORMATS)
def test_whatever_may_be_written_is_read_as_calls_that_the_schemas_allow(name: str) -> None:
    ended = 0
    for seed in range(80):
        text = drawn(held(), name, seed)
        if text is None:
            continue
        ended += 1
        calls = read(name, text)
        assert calls, text
        for tool, arguments in calls:
            jsonschema.validate(arguments, SCHEMAS[tool])
    assert ended > 10
