"""Calls of tools vote by what they ask for, in whichever form a family writes them."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from ponder.compute.answers.documents import called, canonical
from ponder.compute.text import ToolCall
from ponder.engines.tools import FORMATS
from ponder.testing import CARD, Chain
from tests.server.serving import answered, door, scripted
from tests.server.test_call_formats import SCHEMAS, written

TOOLS = [
    {"type": "function", "function": {"name": name, "parameters": json.loads(schema)}}
    for name, schema in SCHEMAS.items()
]
VOTE: dict[str, Any] = {"name": "majority_vote", "n": 5, "first": 5, "confidence": 1}

OSLO = ("get_weather", {"city": "Oslo", "share": 2})
ROME = ("get_weather", {"city": "Rome", "share": 2})
SAME = ("get_weather", {"share": 2.0, "city": "Rome"})
TIME: tuple[str, dict[str, Any]] = ("time", {})


def elected(name: str, *texts: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """(the thinking object, the calls) of a vote between chains that answer so."""
    engine = scripted(*(Chain(f"hm {i}", text) for i, text in enumerate(texts)), card=replace(CARD, tools=name))
    body = answered(door(engine), tools=TOOLS, strategy=VOTE, thinking_budget=20_000)
    calls = body["choices"][0]["message"].get("tool_calls", [])
    return body["thinking"], [json.loads(call["function"]["arguments"]) for call in calls]


@pytest.mark.parametrize("name", FORMATS)
def test_the_same_calls_in_another_order_and_writing_are_one_answer(name: str) -> None:
    thinking, calls = elected(
        name,
        written(name, OSLO, TIME),
        written(name, ROME, TIME),
        written(name, TIME, SAME),
        written(name, OSLO, TIME),
        "Let me look.\n" + written(name, SAME, TIME),
    )
    assert thinking["agreement"] == pytest.approx(0.6)
    assert {"city": "Rome", "share": 2} in calls


@pytest.mark.parametrize("name", FORMATS)
def test_calls_that_differ_in_a_text_differ_and_one_call_is_not_two(name: str) -> None:
    other = ("get_weather", {"city": "rome", "share": 2})
    several = written(name, ROME, ROME)
    thinking, calls = elected(name, several, written(name, ROME), written(name, other), written(name, other), "No.")
    assert thinking["agreement"] == pytest.approx(0.4)
    assert calls == [other[1]]


def test_a_call_that_was_cut_has_no_vote() -> None:
    text = written("hermes", ROME)
    engine = scripted(*[Chain("hm", text)] * 2, card=replace(CARD, tools="hermes"))
    body = answered(
        door(engine), tools=TOOLS, strategy=VOTE | {"n": 2, "first": 2}, thinking_budget=2000, max_answer_tokens=40
    )
    assert "agreement" not in body["thinking"]


def test_json_is_compared_by_what_it_says() -> None:
    assert canonical({"b": [2.0, {"c": 1e2}], "a": "2.0"}) == '{"a":"2.0","b":[2,{"c":100}]}'
    assert canonical(True) != canonical(1)
    assert canonical(9007199254740993) != canonical(9007199254740992.0)
    assert canonical(0.1) == "0.1"
    one, two = ToolCall("call_1", "f", '{"a": 2}'), ToolCall("call_2", "g", " nonsense ")
    assert called([one, two]) == called([replace(two, id="x"), replace(one, id="y", arguments='{\n"a":2.0}')])
    assert called([one]) != called([one, one])
