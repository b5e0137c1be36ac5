"""Strict tools are held to their schema wherever a call begins in a free text; others in the same request are free.

The proof is xgrammar's own matcher, as in `test_tool_grammars`: what it lets be written at random is read by the parser
of the server, and every call of a strict tool in it is one that the tool's schema allows.
"""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest

from ponder.compute.engine import CallSchema, Grammar
from ponder.compute.errors import RequestError
from ponder.engines.grammar_trial import item
from ponder.engines.grammars import encoded
from ponder.engines.tools import FORMATS
from ponder.engines.tools.elements import Elements
from ponder.engines.tools.nested import NestedCalls
from ponder.engines.tools.pythonic import BracedCalls
from ponder.server.calls import Offered, ToolCallParser
from tests.engines.test_tool_grammars import CALLS, SCHEMAS, drawn, takes, written

STRICT = ("get_weather", "choose")


def in_text(*strict: str, several: bool = True) -> Grammar:
    calls = tuple(CallSchema(name, json.dumps(schema), "tools", name in strict) for name, schema in SCHEMAS.items())
    return Grammar(calls=calls, several=several, document=False, text=True)


def read(name: str, text: str) -> list[tuple[str, Any]]:
    offered = Offered(frozenset(SCHEMAS), format=name, parameters={one: json.dumps(of) for one, of in SCHEMAS.items()})
    parser = ToolCallParser(offered)
    parser.feed(text)
    parser.end()
    return [(call.name, json.loads(call.arguments)) for call in parser.calls]


@pytest.mark.parametrize("name", FORMATS)
def test_text_is_free_and_a_call_is_held_from_where_it_begins(name: str) -> None:
    grammar = in_text(*STRICT)
    for text in ("", "Let me look: {a} [b] <c> \n", '{"name": "Bob", "age": 3}', '{"name":4}'):
        assert takes(grammar, name, text), text
    for call in CALLS:
        text = f"Well. {written(name, call)}"
        assert takes(grammar, name, text), call
        assert read(name, text) == [call]
        assert takes(grammar, name, f"{text}\nSo.") or name == "harmony"
    for wrong in ({}, {"city": "Rome", "days": "many"}, {"city": "Rome", "more": "x"}, {"city": "Rome", "unit": "K"}):
        text = written(name, ("get_weather", wrong))
        assert not takes(grammar, name, text), wrong
        assert not takes(grammar, name, f"x {text}"), wrong


@pytest.mark.parametrize("name", FORMATS)
def test_a_tool_that_is_not_strict_stays_free_beside_it(name: str) -> None:
    loose = ("get_weather", {"days": "many", "more": ["x"]})
    assert takes(in_text("choose"), name, written(name, loose))
    assert not takes(in_text("get_weather"), name, written(name, loose))
    wrong = written(name, ("choose", {"a": "z"}))
    assert not takes(in_text("choose"), name, wrong)
    assert takes(in_text("time"), name, wrong)


@pytest.mark.parametrize("name", FORMATS)
def test_one_call_ends_the_text_where_there_may_be_one_alone(name: str) -> None:
    text = f"So: {written(name, CALLS[0])}"
    assert takes(in_text(*STRICT, several=False), name, text)
    assert not takes(in_text(*STRICT, several=False), name, f"{text} {text}")


@pytest.mark.parametrize("name", FORMATS)
def test_whatever_may_be_written_calls_of_strict_tools_are_valid(name: str) -> None:
    form, found = FORMATS[name].form, 0
    openers = [*form.openers(SCHEMAS), *(written(name, call)[:n] for call in CALLS[:5] for n in (20, 40, 1000))]
    for seed in range(60):
        text = drawn(in_text(*STRICT), name, seed, more=[*openers, *openers])
        if text is None:
            continue
        for tool, arguments in read(name, text):
            found += tool in STRICT
            if tool in STRICT:
                jsonschema.validate(arguments, SCHEMAS[tool])
    assert found


TEXTS = {"type": "object", "properties": {"code": {"type": "string", "pattern": "^[A-Z]{3}$"}}, "required": ["code"]}


@pytest.mark.parametrize("name", FORMATS)
def test_what_a_form_cannot_hold_is_refused_by_name_and_never_left_out(name: str) -> None:
    unquoted = isinstance(FORMATS[name].form, Elements | NestedCalls | BracedCalls)
    call = CallSchema("f", json.dumps(TEXTS), "tools.0.parameters", strict=True)
    for grammar in (
        Grammar(calls=(call,), document=False, text=True),
        Grammar(calls=(call,), document=False),
    ):
        if unquoted:
            with pytest.raises(RequestError, match="cannot be held: this model writes calls in a form") as refused:
                encoded(grammar, name)
            assert refused.value.param == "tools.0.parameters.properties.code.pattern"
        else:
            assert takes(grammar, name, written(name, ("f", {"code": "ABC"})))
            assert not takes(grammar, name, written(name, ("f", {"code": "abc"})))


def test_what_is_tried_is_what_is_asked_for() -> None:
    items = {item(in_text(), "hermes"), item(in_text("choose"), "hermes"), item(Grammar(), "hermes")}
    assert len(items) == 3
