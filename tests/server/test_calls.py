"""Tool calls: found in the text, streamed and not, as OpenAI writes them."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from ponder.compute.engine import Grammar
from ponder.server.calls import Offered, ToolCallParser
from ponder.testing import Chain
from tests.server.serving import answered, chat, door, events, joined, refused, scripted

WEATHER: dict[str, Any] = {
    "type": "function",
    "function": {"name": "weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}},
}
TIME = {"type": "function", "function": {"name": "time"}}
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Rome"}}\n</tool_call>'
OTHER = '<tool_call>{"name": "time", "arguments": {}}</tool_call>'


def both(text: str, **body: Any) -> tuple[str | None, list[tuple[str, str]], str]:
    """(content, calls, finish reason), which are the same streamed and not."""
    app = door(scripted(Chain("hm", text)))
    body = {"tools": [WEATHER, TIME]} | body
    whole = answered(app, **body)
    ChatCompletion.model_validate(whole, strict=True)
    message = whole["choices"][0]["message"]
    calls = [(c["function"]["name"], c["function"]["arguments"]) for c in message.get("tool_calls", [])]
    said = ""
    stream = events(chat(app, stream=True, **body).text)
    for chunk in stream:
        ChatCompletionChunk.model_validate(chunk, strict=True)
        said += chunk["choices"][0]["delta"].get("content") or ""
    pieces = joined(chunk["choices"][0]["delta"] for chunk in stream)
    assert all(call["id"].startswith("call_") for call in pieces)
    streamed = [(call["function"]["name"], call["function"]["arguments"]) for call in pieces]
    finish = whole["choices"][0]["finish_reason"]
    if finish == "length" and len(streamed) > len(calls):
        # What was sent of a call that is cut stands.
        assert any(arguments.startswith(streamed[-1][1]) for arguments in ('{"city": "Rome"}', "{}"))
        streamed.pop()
    assert (said or None, streamed) == (message["content"] or None, calls)
    assert stream[-1]["choices"][0]["finish_reason"] == finish
    return message["content"], calls, finish


def test_a_call_is_taken_out_of_the_text() -> None:
    assert both(CALL) == (None, [("weather", '{"city": "Rome"}')], "tool_calls")
    content, calls, finish = both(f"Let me look.\n{CALL}\n{OTHER}\n")
    assert (content, finish) == ("Let me look.", "tool_calls")
    assert [name for name, _ in calls] == ["weather", "time"]


def test_one_call_is_kept_where_only_one_is_wanted() -> None:
    assert both(CALL + OTHER, parallel_tool_calls=False) == (None, [("weather", '{"city": "Rome"}')], "tool_calls")


def test_an_answer_without_a_call_is_text_with_no_tool_calls() -> None:
    content, calls, finish = both("Just <b>text</b> and < tool_call>  ")
    assert (content, calls, finish) == ("Just <b>text</b> and < tool_call>  ", [], "stop")


@pytest.mark.parametrize(
    "text",
    [
        "<tool_call>{}</tool_call>",
        "<tool_call>nonsense</tool_call> x",
        '<tool_call>{"name": "rm"}</tool_call>',
        "a <tool_",
    ],
)
def test_what_only_looks_like_a_call_is_text(text: str) -> None:
    assert both(text) == (text, [], "stop")


def test_a_call_that_is_not_closed_still_counts_when_it_is_whole() -> None:
    assert both(CALL.removesuffix("</tool_call>")) == (None, [("weather", '{"city": "Rome"}')], "tool_calls")


def test_no_tools_means_no_looking() -> None:
    assert both(CALL, tool_choice="none") == (CALL, [], "stop")
    assert answered(door(scripted(Chain("", CALL))))["choices"][0]["message"]["content"] == CALL


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "weather"}}])
def test_a_required_call_is_held_to_its_shape(choice: Any) -> None:
    for text in (CALL, '{"name": "weather", "arguments": {"city": "Rome"}}'):
        assert both(text, tool_choice=choice) == (None, [("weather", '{"city": "Rome"}')], "tool_calls")
    for parallel in (True, False):
        engine = scripted(Chain("", CALL))
        answered(door(engine), tools=[WEATHER, TIME], tool_choice=choice, parallel_tool_calls=parallel)
        grammar = engine.samplings[0].grammar
        assert grammar is not None
        assert not grammar.document
        assert [call.name for call in grammar.calls] == (["weather", "time"] if choice == "required" else ["weather"])
        assert grammar.several == (parallel and choice == "required")
        assert grammar.calls[0].param == "tools.0.parameters"


@pytest.mark.parametrize("size", range(1, len(CALL), 3))
def test_a_call_that_is_cut_is_no_text_and_no_stop(size: int) -> None:
    for choice in ("required", "auto"):
        limit: dict[str, Any] = {"max_answer_tokens": size, "tool_choice": choice}
        content, calls, finish = both(CALL + OTHER, **limit)
        shown = CALL[:size] if choice == "auto" and size < len("<tool") else None
        whole = size >= len(CALL) - len("</tool_call>") - 1
        assert (content or None, len(calls)) == (None if whole else shown, int(whole))
        assert finish == ("tool_calls" if whole else "length")
    content, calls, finish = both(CALL + OTHER, max_answer_tokens=len(CALL) + size % 40, tool_choice="required")
    assert (content or None, len(calls)) == (None, 1)
    assert finish == ("length" if size % 40 else "tool_calls")
    bare = CALL.removeprefix("<tool_call>\n").removesuffix("\n</tool_call>")
    content, calls, finish = both(bare, max_answer_tokens=min(size, len(bare) - 1), tool_choice="required")
    assert (content or None, calls, finish) == (None, [], "length")


def test_an_end_of_a_call_in_its_own_arguments_ends_nothing() -> None:
    call = '<tool_call>{"name": "weather", "arguments": {"city": "a</tool_call>b\\"<tool_call>"}}</tool_call>'
    assert both(call + OTHER)[1] == [("weather", '{"city": "a</tool_call>b\\"<tool_call>"}'), ("time", "{}")]


def test_the_model_is_told_of_the_tools() -> None:
    engine = scripted()
    answered(door(engine), tools=[WEATHER])
    assert [tool.name for tool in engine.prompts[0].tools] == ["weather"]


DOCUMENT: dict[str, Any] = {"type": "object", "properties": {"a": {}}}
FORM = {"type": "json_schema", "json_schema": {"name": "a", "schema": DOCUMENT}}


def test_beside_tools_a_response_format_holds_what_is_no_call() -> None:
    assert both(CALL, response_format=FORM) == (None, [("weather", '{"city": "Rome"}')], "tool_calls")
    document = '{"a":"<tool_call>{\\"name\\": \\"time\\"}</tool_call>"}'
    assert both(document, response_format=FORM) == (document, [], "stop")
    for choice, document in ((None, True), ("auto", True), ("required", False)):
        engine = scripted(Chain("", CALL))
        answered(door(engine), tools=[WEATHER, TIME], response_format=FORM, tool_choice=choice)
        grammar = engine.samplings[0].grammar
        assert grammar is not None
        assert [call.name for call in grammar.calls] == ["weather", "time"]
        assert grammar.document == document
        assert json.loads(grammar.schema or "") == DOCUMENT
    engine = scripted(Chain("", "{}"))
    answered(door(engine), tools=[WEATHER], response_format={"type": "json_object"}, tool_choice="none")
    assert engine.samplings[0].grammar == Grammar(param="document")


def test_the_order_of_properties_is_the_callers() -> None:
    engine = scripted(Chain("", CALL))
    parameters = {"type": "object", "properties": {"reason": {"type": "string"}, "answer": {"type": "string"}}}
    tool = {"type": "function", "function": {"name": "weather", "parameters": parameters}}
    answered(door(engine), tools=[tool], tool_choice="required")
    grammar = engine.samplings[0].grammar
    assert grammar is not None
    assert grammar.calls[0].parameters == engine.prompts[0].tools[0].parameters == json.dumps(parameters)


@pytest.mark.parametrize("piece", ["a</tool_call>", "\\\\", '"</tool_call', "<tool_call>", " "])
def test_a_long_call_that_streams_is_read_once(piece: str) -> None:
    def spent(n: int) -> float:
        parser = ToolCallParser(Offered(frozenset({"time"})))
        parser.feed('<tool_call>{"name": "time", "arguments": {"a": "')
        began = time.thread_time()
        for _ in range(n):
            parser.feed(piece)
        return time.thread_time() - began

    n = 8_000
    assert spent(n) < 0.02 or min(spent(4 * n), spent(4 * n)) < 9 * min(spent(n), spent(n))


PIECES = st.sampled_from(
    [
        CALL,
        OTHER,
        '<tool_call>{"name": "time", "a": "',
        "\\",
        '"',
        "}",
        "<tool_call>",
        "</tool_call>",
        " ",
        "\n",
        "text",
        "<",
        "{}",
        "<tool",
    ]
)


@given(text=st.lists(PIECES, max_size=8).map("".join), cuts=st.lists(st.integers(1, 9), max_size=40), one=st.booleans())
def test_however_the_text_is_cut_the_same_is_heard(text: str, cuts: list[int], one: bool) -> None:
    offered = Offered(frozenset({"weather", "time"}), parallel=not one)

    def streamed(pieces: list[str]) -> tuple[str, list[str]]:
        parser, said = ToolCallParser(offered), ""
        for piece in pieces:
            said += parser.feed(piece)[0]
        said += parser.end()[0]
        return said, [call.name for call in parser.calls]

    pieces: list[str] = []
    rest = text
    for cut in cuts:
        pieces.append(rest[:cut])
        rest = rest[cut:]
    assert streamed([*pieces, rest]) == streamed([text])


@pytest.mark.parametrize("size", [1, 3, 100])
def test_white_space_before_a_document_stays_where_it_is(size: int) -> None:
    parser, text = ToolCallParser(Offered(frozenset({"time"}), held=True)), " \n {} "
    streamed = "".join(parser.feed(text[at : at + size])[0] for at in range(0, len(text), size))
    assert streamed + parser.end()[0] == text


def test_a_strict_tool_is_held_also_where_the_model_chooses_and_others_stay_free() -> None:
    strict: dict[str, Any] = {"type": "function", "function": WEATHER["function"] | {"strict": True}}
    for choice in (None, "auto"):
        engine = scripted(Chain("", f"Let me look. {CALL}"))
        body = answered(door(engine), tools=[strict, TIME], tool_choice=choice)
        grammar = engine.samplings[0].grammar
        assert grammar is not None
        assert (grammar.text, grammar.document, grammar.several) == (True, False, True)
        assert [(call.name, call.strict, call.param) for call in grammar.calls] == [
            ("weather", True, "tools.0.parameters"),
            ("time", False, "tools.1.parameters"),
        ]
        # The parser looks for calls anywhere, as the text is free.
        assert body["choices"][0]["message"]["content"] == "Let me look."
        assert body["choices"][0]["finish_reason"] == "tool_calls"
    engine = scripted(Chain("", "Hello."))
    for more in ({"tools": [WEATHER, TIME]}, {"tools": [strict], "tool_choice": "none"}):
        answered(door(engine), **more)
        assert engine.samplings[-1].grammar is None
    answered(door(engine), tools=[strict], parallel_tool_calls=False)
    assert engine.samplings[-1].grammar is not None
    assert not engine.samplings[-1].grammar.several
    engine = scripted(Chain("", CALL), unsupported="city")
    refused(chat(door(engine), tools=[strict]), 400, "invalid_json_schema", "tools.0.function.parameters")
    assert chat(door(engine), tools=[WEATHER]).status_code == 200
