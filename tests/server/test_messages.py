"""Anthropic's messages as its own client and types read them."""

from __future__ import annotations

import base64
import json
from typing import Any

import httpx
import pytest
from anthropic.types import Message, RawMessageStreamEvent
from pydantic import TypeAdapter

from ponder.compute.text import Hidden
from ponder.server.answers import End
from ponder.server.auth.keys import digest
from ponder.server.dialect import Target
from ponder.server.dialects.anthropic import answer_schema as told
from ponder.server.dialects.anthropic.description import MessageEvent
from ponder.server.dialects.anthropic.dialect import AnthropicMessages
from ponder.server.dialects.anthropic.writing import thinking_block
from ponder.server.settings import KeySettings, Limits, Settings
from ponder.testing import MARKER, Chain, ScriptedEngine
from tests.compute.test_summary import OWN, THOUGHT
from tests.compute.test_summary import engine as engine_that_sums_up
from tests.server.callers import message_events
from tests.server.serving import CHAIN, ask, chat, door, its_door, scripted
from tests.server.test_loop_thoughts import reader, thoughts

PATH = "/v1/messages"
VERSION = {"anthropic-version": "2023-06-01"}
ASK: dict[str, Any] = {
    "model": "demo",
    "max_tokens": 1000,
    "messages": [{"role": "user", "content": "What is 3 + 4?"}],
}
THINK: dict[str, Any] = {"type": "enabled", "budget_tokens": 100}
CALL = '<tool_call>{"name": "add", "arguments": {"a": 3, "b": 4}}</tool_call>'
ADD: dict[str, Any] = {
    "name": "add",
    "description": "Adds",
    "input_schema": {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}}},
}
STREAMED: TypeAdapter[Any] = TypeAdapter(RawMessageStreamEvent)


def messages(app: Any, headers: dict[str, str] | None = None, **body: Any) -> httpx.Response:
    return ask(app, url=PATH, json=ASK | body, headers=VERSION | (headers or {}))


def answered(app: Any, **body: Any) -> dict[str, Any]:
    response = messages(app, **body)
    assert response.status_code == 200, response.text
    return response.json()


def refused(response: httpx.Response, status: int, kind: str, code: str, param: str | None = None) -> str:
    """The response is an error in Anthropic's shape; its message."""
    assert response.status_code == status, response.text
    body = response.json()
    assert set(body) == {"type", "error"}
    assert body["type"] == "error"
    error = body["error"]
    assert set(error) == {"type", "message", "details"}
    assert (error["type"], error["details"]["error_code"]) == (kind, code), error
    assert error["details"].get("param") == param, error
    assert response.headers["request-id"] == response.headers["x-request-id"]
    return error["message"]


# -- what comes back --------------------------------------------------------------------------------------------------


def test_a_message_is_exactly_anthropics_shape() -> None:
    body = answered(door(scripted(cached=5)), thinking=THINK)
    Message.model_validate(body, strict=True)
    told.Message.model_validate(body)
    assert body["content"][-1] == {"type": "text", "text": "It is 7."}
    assert (body["stop_reason"], body["stop_sequence"]) == ("end_turn", None)
    usage, report = body["usage"], body["ponder"]
    hidden = usage["output_tokens_details"]["thinking_tokens"]
    assert usage["output_tokens"] == hidden + len("It is 7.")
    assert (usage["cache_read_input_tokens"], usage["input_tokens"]) == (5, len("What is 3 + 4?") + 4 - 5)
    assert 0 < hidden == report["spent"] <= report["budget"] == 100
    assert report["budget_source"] == "thinking.budget_tokens"
    assert set(body) - set(Message.model_fields) == {"ponder"}


@pytest.mark.parametrize("odd", ["1e999", "[" * 300 + "]" * 300], ids=["large", "deep"])
def test_an_input_that_no_client_could_read_comes_as_text(odd: str) -> None:
    app = door(scripted(Chain(MARKER, CALL.replace("3", odd)), seeded=False))
    (called,) = [one for one in answered(app, tools=[ADD])["content"] if one["type"] == "tool_use"]
    assert called["input"] == {"arguments": f'{{"a": {odd}, "b": 4}}'}


def test_a_stream_is_anthropics_events_in_anthropics_order_and_says_the_same() -> None:
    engine = scripted(Chain(MARKER, f"So: {CALL}"))
    whole = answered(door(engine), tools=[ADD], seed=5)
    events = message_events(messages(door(engine), tools=[ADD], seed=5, stream=True).text)
    assert all(kind == data["type"] for kind, data in events)
    for kind, data in events:
        MessageEvent.model_validate(data)
        if kind != "ping":
            STREAMED.validate_python(data, strict=True)
    kinds = [kind for kind, _ in events]
    assert kinds[:2] == ["message_start", "ping"]
    assert kinds[-2:] == ["message_delta", "message_stop"]
    assert [data["index"] for kind, data in events if kind == "content_block_start"] == [0, 1]
    assert kinds.count("content_block_start") == kinds.count("content_block_stop") == 2
    ends = dict(events)["message_delta"]
    assert ends["delta"] == {"stop_reason": "tool_use", "stop_sequence": None}
    assert (ends["usage"], ends["ponder"]) == (whole["usage"], whole["ponder"])
    begun = dict(events)["message_start"]["message"]
    assert (begun["content"], begun["stop_reason"]) == ([], None)
    assert begun["usage"]["input_tokens"] == whole["usage"]["input_tokens"]


def test_a_call_has_its_input_as_an_object_and_an_id() -> None:
    body = answered(door(scripted(Chain(MARKER, f"So: {CALL} {CALL}"))), tools=[ADD])
    text, *calls = body["content"]
    assert text == {"type": "text", "text": "So:"}
    assert [(call["type"], call["name"], call["input"]) for call in calls] == [
        ("tool_use", "add", {"a": 3, "b": 4})
    ] * 2
    assert len({call["id"] for call in calls}) == 2
    alone = answered(
        door(scripted(Chain(MARKER, CALL))),
        tools=[ADD],
        tool_choice={"type": "tool", "name": "add", "disable_parallel_tool_use": True},
    )
    assert [block["type"] for block in alone["content"]] == ["tool_use"]
    assert alone["stop_reason"] == "tool_use"


@pytest.mark.parametrize("stream", [False, True])
def test_the_stop_sequence_that_was_met_is_told(stream: bool) -> None:
    response = messages(door(scripted()), stop_sequences=["nothing", " 7"], stream=stream)
    ends = dict(message_events(response.text))["message_delta"]["delta"] if stream else response.json()
    assert (ends["stop_reason"], ends["stop_sequence"]) == ("stop_sequence", " 7")


def test_an_answer_that_was_cut_is_max_tokens_and_an_empty_one_has_a_block() -> None:
    cut = answered(door(scripted()), max_answer_tokens=3)
    assert (cut["stop_reason"], cut["content"]) == ("max_tokens", [{"type": "text", "text": "It "}])
    empty = answered(door(scripted(Chain(MARKER, ""))))
    assert (empty["stop_reason"], empty["content"]) == ("end_turn", [{"type": "text", "text": ""}])
    streamed = message_events(messages(door(scripted(Chain(MARKER, ""))), stream=True).text)
    assert [kind for kind, _ in streamed].count("content_block_start") == 1


# -- what is read -----------------------------------------------------------------------------------------------------


def seen(**body: Any) -> list[tuple[str, str]]:
    """The conversation as the model sees it."""
    engine = scripted()
    answered(door(engine), **body)
    return [(one.role, one.content) for one in engine.prompts[0].messages if not isinstance(one.content, Hidden)]


def test_blocks_of_text_are_texts_and_turns_of_one_side_are_one() -> None:
    cached = {"cache_control": {"type": "ephemeral", "ttl": "1h"}}
    assert seen(
        system=[{"type": "text", "text": "Be kind."}, {"type": "text", "text": "Be brief.", **cached}],
        messages=[
            {"role": "user", "content": "A"},
            {"role": "user", "content": [{"type": "text", "text": "B", **cached}]},
            {"role": "assistant", "content": [{"type": "text", "text": "<think>no</think>C"}]},
            {"role": "user", "content": [{"type": "document", "source": {"type": "text", "data": "D"}, "title": "T"}]},
        ],
        cache_control={"type": "ephemeral"},
    ) == [("system", "Be kind.\nBe brief."), ("user", "A\nB"), ("assistant", "C"), ("user", "T\nD")]


def test_results_of_tools_are_messages_of_their_own_and_failures_say_so() -> None:
    engine = scripted()
    uses = [{"type": "tool_use", "id": f"toolu_{i}", "name": "add", "input": {"a": i, "b": "é"}} for i in range(3)]
    answered(
        door(engine),
        tools=[ADD],
        messages=[
            *ASK["messages"],
            {"role": "assistant", "content": [{"type": "text", "text": "So:"}, *uses]},
            {
                "role": "user",
                "content": [
                    {"type": "tool_result", "tool_use_id": "toolu_0", "content": "7"},
                    {"type": "tool_result", "tool_use_id": "toolu_1", "content": [{"type": "text", "text": "8"}]},
                    {"type": "tool_result", "tool_use_id": "toolu_2", "content": "no", "is_error": True},
                    {"type": "text", "text": "Well?"},
                ],
            },
        ],
    )
    _, asked, *results, question = engine.prompts[0].messages
    assert (asked.content, [call.id for call in asked.tool_calls]) == ("So:", ["toolu_0", "toolu_1", "toolu_2"])
    assert json.loads(asked.tool_calls[1].arguments) == {"a": 1, "b": "é"}
    assert [(one.role, one.content, one.tool_call_id) for one in results] == [
        ("tool", "7", "toolu_0"),
        ("tool", "8", "toolu_1"),
        ("tool", "Error: no", "toolu_2"),
    ]
    assert (question.role, question.content) == ("user", "Well?")


@pytest.mark.parametrize(
    ("body", "budget", "source"),
    [
        ({"thinking": THINK}, 100, "thinking.budget_tokens"),
        ({"thinking": {"type": "disabled"}}, 0, "thinking.type"),
        ({"thinking_budget": 50}, 50, "thinking_budget"),
        ({"thinking": THINK, "thinking_budget": 100}, 100, "thinking_budget"),
        ({"output_config": {"effort": "low"}, "max_tokens": 9000}, 2048, "output_config.effort"),
        ({"thinking": {"type": "adaptive"}, "output_config": {"effort": "minimal"}}, 512, "output_config.effort"),
    ],
)
def test_how_much_to_think_is_said_in_anthropics_words_and_in_ours(
    body: dict[str, Any], budget: int, source: str
) -> None:
    report = answered(door(scripted()), **body)["ponder"]
    assert (report["budget"], report["budget_source"]) == (budget, source)


@pytest.mark.parametrize(
    ("beta", "body", "loop"),
    [
        ("interleaved-thinking-2025-05-14", {}, True),
        ("files-api-2025-04-14, interleaved-thinking-2025-05-14", {}, True),
        ("interleaved-thinking-2025-05-14", {"thinking_budget_scope": "request"}, False),
        ("files-api-2025-04-14", {"thinking_budget_scope": "loop"}, True),
        ("files-api-2025-04-14", {}, False),
    ],
)
def test_with_interleaved_thinking_a_budget_is_for_a_whole_tool_loop(
    beta: str, body: dict[str, Any], loop: bool
) -> None:
    target = Target(headers=VERSION | {"anthropic-beta": beta})
    raw = json.dumps(ASK | {"thinking": THINK} | body).encode()
    assert AnthropicMessages().read(raw, Limits(), target).request.thinking.loop == loop


def test_text_behind_results_in_one_turn_goes_on_with_the_loop() -> None:
    """A client adds reminders to what its tools gave."""
    app = door(reader(Chain("x" * 29, CALL)))
    asked: dict[str, Any] = {"tools": [ADD], "thinking": THINK, "messages": list(ASK["messages"])}
    budgets: list[int] = []
    for _ in range(3):
        response = messages(app, {"anthropic-beta": "interleaved-thinking-2025-05-14"}, **asked)
        assert response.status_code == 200, response.text
        told = response.json()
        budgets.append(told["ponder"]["budget"])
        uses = [one["id"] for one in told["content"] if one["type"] == "tool_use"]
        results = [{"type": "tool_result", "tool_use_id": id, "content": "7"} for id in uses]
        asked["messages"] += [
            {"role": "assistant", "content": told["content"]},
            {"role": "user", "content": [*results, {"type": "text", "text": "Remember the list of tasks."}]},
        ]
    assert budgets == [100, 70, 40]


def test_a_budget_above_max_tokens_is_lowered_and_said_to_be() -> None:
    response = messages(door(scripted()), thinking={"type": "enabled", "budget_tokens": 5000})
    report = response.json()["ponder"]
    assert report["budget"] < ASK["max_tokens"]
    assert report["budget_clamped_from"] == 5000
    assert response.headers["x-thinking-budget-clamped"] == str(report["budget"])


def test_strategies_are_asked_for_as_everywhere() -> None:
    body = answered(door(scripted()), strategy={"name": "majority_vote", "n": 3}, thinking_budget=600)
    assert (body["ponder"]["strategy"], body["ponder"]["agreement"]) == ("majority_vote", 1.0)
    assert answered(door(scripted()), model="demo:direct")["ponder"]["strategy"] == "direct"


def test_what_has_no_effect_is_named() -> None:
    text = {"type": "text", "text": "A", "colour": "red"}
    response = messages(
        door(scripted()),
        diagnostics={"previous_message_id": "msg_1"},
        metadata={"user_id": "u", "tag": "t"},
        messages=[{"role": "user", "content": [text]}],
        context_management={"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
        service_tier="auto",
    )
    named = set(response.headers["x-ignored-parameters"].split(", "))
    assert named == {"diagnostics", "context_management", "metadata.tag", "messages.content.colour"}


@pytest.mark.parametrize(
    ("body", "code", "param"),
    [
        ({"max_tokens": None}, "invalid_type", "max_tokens"),
        ({"max_tokens": 0}, "invalid_value", "max_tokens"),
        ({"messages": []}, "invalid_value", "messages"),
        ({"messages": [{"role": "assistant", "content": "x"}]}, "unsupported_parameter", "messages.0"),
        (
            {
                "messages": [
                    {"role": "user", "content": [{"type": "image", "source": {"type": "file", "file_id": "f"}}]}
                ]
            },
            "unsupported_content_part",
            None,
        ),
        ({"messages": [{"role": "user", "content": [{"type": ["text"]}]}]}, "invalid_value", None),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "missing_required_parameter", None),
        ({"messages": [{"role": "user", "content": [{"type": "tool_result", "content": "x"}]}]}, None, None),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "unsupported_parameter", "tools.0.type"),
        ({"tools": [{"name": "f"}]}, "missing_required_parameter", "tools.0.input_schema"),
        ({"tool_choice": {"type": "any"}}, "invalid_value", "tool_choice"),
        ({"tools": [ADD], "tool_choice": {"type": "tool", "name": "g"}}, "invalid_value", "tool_choice.name"),
        ({"thinking": {"type": "enabled"}}, "missing_required_parameter", "thinking.budget_tokens"),
        ({"thinking": THINK, "thinking_budget": 7}, "conflicting_parameters", "thinking.budget_tokens"),
        ({"thinking": {"type": "disabled"}, "thinking_budget": 7}, "conflicting_parameters", "thinking.type"),
        ({"thinking": THINK | {"budget": 3}}, "unknown_parameter", "thinking.budget"),
        ({"thinking": THINK | {"budget_tokens": 1 << 30}, "on_overflow": "error"}, "thinking_budget_too_large", None),
        ({"output_config": {"effort": "huge"}}, "invalid_value", "output_config.effort"),
        ({"output_config": {"task_budget": {"total": 3}}}, "unknown_parameter", "output_config.task_budget"),
        ({"thinkng_budget": 3}, "unknown_parameter", "thinkng_budget"),
        ({"metadata": {"thinking_budget": 3}}, "unknown_parameter", "metadata.thinking_budget"),
        ({"mcp_servers": [{"url": "x"}]}, "unsupported_parameter", "mcp_servers"),
        ({"container": "c"}, "unsupported_parameter", "container"),
        ({"presence_penalty": 1}, "unsupported_parameter", "presence_penalty"),
        ({"context_management": {"edits": [{"type": "clear_tool_uses_20250919"}]}}, "unsupported_parameter", None),
        ({"stop_sequences": ["x"] * 5}, "too_many", "stop_sequences"),
        ({"model": "none"}, "model_not_found", "model"),
        ({"strategy": "none"}, "strategy_not_found", "strategy"),
        ({"messages": [{"role": "user", "content": "x" * 100_001}]}, "context_length_exceeded", "messages"),
    ],
)
def test_what_is_wrong_is_named_as_the_request_names_it(body: dict[str, Any], code: str | None, param: Any) -> None:
    response = messages(door(scripted()), **body)
    error = response.json()["error"]
    assert response.status_code == (404 if code == "model_not_found" else 400), response.text
    assert code in (None, error["details"]["error_code"]), error
    assert error["details"]["param"].startswith(param or "")
    assert not any(
        word in error["message"] for word in ("total_tokens", "messages.0.sealed", "input_schema.parameters")
    )


def test_a_prompt_too_long_is_told_in_words_that_clients_look_for() -> None:
    words = refused(
        messages(door(scripted()), messages=[{"role": "user", "content": "x" * 100_001}]),
        400,
        "invalid_request_error",
        "context_length_exceeded",
        "messages",
    )
    assert words.startswith("prompt is too long")
    assert "maximum context length is" in words


def test_errors_of_the_core_name_the_turn_of_the_request() -> None:
    deep = json.loads('{"a":' * 40 + "1" + "}" * 40)
    history = [
        *ASK["messages"],
        {"role": "assistant", "content": [{"type": "tool_use", "id": "t", "name": "add", "input": deep}]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t"}]},
    ]
    response = messages(door(scripted()), system="Be kind.", messages=history, tools=[ADD])
    refused(response, 400, "invalid_request_error", "too_deep", "messages.1.content.0.input")


def test_a_version_is_asked_for_and_any_will_do() -> None:
    app = door(scripted())
    response = ask(app, url=PATH, json=ASK)
    refused(response, 400, "invalid_request_error", "missing_required_header", "anthropic-version")
    assert ask(app, url=PATH, json=ASK, headers={"anthropic-version": "2026-10-21"}).status_code == 200


def test_a_key_comes_in_either_header_on_every_route() -> None:
    app = door(scripted(), Settings(keys=[KeySettings(name="ann", hash=digest("pk-ann"))]))
    for wire in ({"x-api-key": "pk-ann"}, {"authorization": "Bearer pk-ann"}):
        assert messages(app, wire).status_code == 200
        assert ask(app, "GET", "/v1/models", headers=VERSION | wire).status_code == 200
    words = refused(messages(app), 401, "authentication_error", "missing_api_key")
    assert "x-api-key" in words
    refused(ask(app, "GET", "/v1/models", headers=VERSION), 401, "authentication_error", "missing_api_key")
    assert ask(app, "GET", "/v1/models", headers={"x-api-key": "pk-ann"}).status_code == 401


# -- thoughts ---------------------------------------------------------------------------------------------------------

WISHES: list[dict[str, Any]] = [
    {},
    {"thinking": THINK},
    {"thinking": THINK | {"display": "summarized"}},
    {"thinking": {"type": "adaptive"}},
    {"thinking": {"type": "disabled"}},
    {"max_tokens": 9},
    {"max_answer_tokens": 1},
    {"stop_sequences": [MARKER[:3], "is"]},
    {"output_config": {"format": {"type": "json_schema", "schema": {"type": "object"}}}},
    {"tools": [ADD]},
    {"tools": [ADD], "tool_choice": {"type": "any"}},
    {"strategy": "majority_vote", "thinking_budget": 600},
    {"strategy": "revision", "thinking_budget": 600},
    {"include_reasoning": True},
    {"timeout": 0.05},
    {"strategy": MARKER},
    {"thinking": MARKER},
    {"messages": [{"role": "user", "content": [{"type": MARKER}]}]},
]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("wish", WISHES, ids=str)
def test_no_wish_makes_a_thought_visible(wish: dict[str, Any], stream: bool, caplog: pytest.LogCaptureFixture) -> None:
    engine = ScriptedEngine(lambda p, t, c: Chain(f"{MARKER} " * 4, f"It is {c}."))
    app = door(engine)
    response = messages(app, stream=stream, **wish)
    assert MARKER not in response.text
    assert MARKER not in str(response.headers)
    assert MARKER not in caplog.text
    assert MARKER not in its_door(app).metrics.render()[0].decode()


@pytest.mark.parametrize("stream", [False, True])
def test_no_failure_makes_a_thought_visible(stream: bool) -> None:
    response = messages(door(scripted(fail_at=0)), stream=stream, thinking=THINK)
    assert MARKER not in response.text
    if not stream:
        assert response.json()["error"]["type"] == "api_error"
        assert response.headers["x-should-retry"] == "false"
        return
    kind, _, data = response.text.split("\n\n")[-2].partition("\n")
    assert kind == "event: error"
    error = json.loads(data.removeprefix("data: "))
    assert (error["type"], error["error"]["type"]) == ("error", "api_error")
    assert error["usage"]["output_tokens"] > 0


def test_who_does_not_ask_for_blocks_of_thinking_gets_the_answer_first() -> None:
    for body in ({}, {"thinking_budget": 100}, {"output_config": {"effort": "low"}}):
        assert answered(door(scripted()), **body)["content"] == [{"type": "text", "text": "It is 7."}]


def blocks(response: httpx.Response) -> list[dict[str, Any]]:
    """The blocks of an answer, streamed or not."""
    if "event-stream" not in response.headers["content-type"]:
        return response.json()["content"]
    found: list[dict[str, Any]] = []
    for _, data in message_events(response.text):
        if data["type"] == "content_block_start":
            found.append(data["content_block"])
        elif data["type"] == "content_block_delta":
            delta: dict[str, Any] = data["delta"]
            (name,) = set(delta) - {"type"}
            index: int = data["index"]
            block = found[index]
            block[name] = f"{block.get(name, '')}{delta[name]}"
    return found


def again(*said: dict[str, Any]) -> list[dict[str, Any]]:
    """A conversation that goes on."""
    turn = {"role": "assistant", "content": list(said)}
    return [*ASK["messages"], turn, {"role": "user", "content": "Sure?"}]


@pytest.mark.parametrize("stream", [False, True])
def test_a_thought_comes_first_sealed_and_the_model_reads_it_when_it_comes_back(stream: bool) -> None:
    engine = reader(CHAIN, everywhere=True)
    app = door(engine, Settings(loop_thoughts=0))
    response = messages(app, thinking=THINK, stream=stream)
    assert MARKER not in response.text
    thinking, text = blocks(response)
    assert (thinking["type"], thinking["thinking"], text["text"]) == ("thinking", "", "It is 7.")
    forms = [thinking, {"type": "redacted_thinking", "data": thinking["signature"]}]
    for form in forms:
        assert MARKER not in messages(app, thinking=THINK, messages=again(form, text)).text
        assert thoughts(engine.prompts[-1]) == [CHAIN.thought]
    counted = ask(app, url=f"{PATH}/count_tokens", json=ASK | {"messages": again(*forms[:1], text)}, headers=VERSION)
    usage = answered(app, messages=again(*forms[:1], text))["usage"]
    assert counted.json() == {"input_tokens": usage["input_tokens"]}
    answered(app, messages=again({"type": "thinking", "thinking": "Hm.", "signature": ""}, text))
    assert thoughts(engine.prompts[-1]) == [None]


def test_a_thought_that_was_altered_or_is_anothers_is_refused_where_it_stands() -> None:
    settings = Settings(keys=[KeySettings(name=name, hash=digest(name)) for name in ("ann", "bob")])
    app = door(reader(CHAIN), settings)
    thinking, text = messages(app, {"x-api-key": "ann"}, thinking=THINK).json()["content"]
    assert messages(app, {"x-api-key": "ann"}, messages=again(thinking, text)).status_code == 200
    place = "messages.1.content.1.signature"
    other = messages(app, {"x-api-key": "bob"}, system="Be kind.", messages=again(text, thinking))
    refused(other, 400, "invalid_request_error", "invalid_encrypted_content", place)
    raw = bytearray(base64.b64decode(thinking["signature"]))
    for bit in (0, 8 * len(raw) // 2, 8 * len(raw) - 1):
        raw[bit // 8] ^= 1 << bit % 8
        altered = thinking | {"signature": base64.b64encode(raw).decode()}
        response = messages(app, {"x-api-key": "ann"}, messages=again(text, altered))
        refused(response, 400, "invalid_request_error", "invalid_encrypted_content", place)
        raw[bit // 8] ^= 1 << bit % 8


def test_two_thoughts_in_one_turn_are_refused_and_one_twice_is_one() -> None:
    app = door(reader(CHAIN, everywhere=True))
    first, text = answered(app, thinking=THINK)["content"]
    other = answered(app, thinking=THINK)["content"][0]
    assert messages(app, messages=again(first, first, text)).status_code == 200
    response = messages(app, messages=again(first, other, text))
    refused(response, 400, "invalid_request_error", "invalid_value", "messages.1.content.1")


@pytest.mark.parametrize("stream", [False, True])
def test_a_summary_is_in_the_block_of_the_thought_which_comes_last_in_a_stream(stream: bool) -> None:
    wish: dict[str, Any] = {"max_tokens": 9000, "seed": 1, "stream": stream}
    wish["thinking"] = {"type": "enabled", "budget_tokens": 4000, "display": "summarized"}
    app = door(engine_that_sums_up(OWN))
    response = messages(app, **wish)
    assert MARKER not in response.text
    content = blocks(response)
    thinking = content.pop(-1 if stream else 0)
    assert content == [{"type": "text", "text": "It is 12."}]
    assert (thinking["type"], thinking["thinking"], bool(thinking["signature"])) == ("thinking", OWN, True)
    wish["thinking"]["budget_tokens"] = len(THOUGHT) + 2
    none = blocks(messages(app, **wish))
    assert none.pop(-1 if stream else 0)["type"] == "redacted_thinking"
    assert none == content


def test_where_a_summary_was_asked_for_and_there_is_none_the_thought_is_redacted() -> None:
    end = End("complete", None, "sealed")
    assert thinking_block(end, summarised=True) == {"type": "redacted_thinking", "data": "sealed"}
    summed = End("complete", None, "sealed", "I added.")
    assert thinking_block(summed, summarised=True) == {
        "type": "thinking",
        "thinking": "I added.",
        "signature": "sealed",
    }
    assert thinking_block(End("complete", None), summarised=True) is None


def test_a_key_that_may_sees_the_thought_in_its_block() -> None:
    settings = Settings(keys=[KeySettings(name="ann", hash=digest("k"), scopes=frozenset({"infer", "reveal"}))])
    app = door(scripted(), settings)
    wire = {"x-api-key": "k"}
    block = messages(app, wire, include_reasoning=True).json()["content"][0]
    assert (block["type"], block["thinking"]) == ("thinking", CHAIN.thought)
    events = message_events(messages(app, wire, include_reasoning=True, stream=True).text)
    shown = [data["delta"]["thinking"] for _, data in events if data.get("delta", {}).get("type") == "thinking_delta"]
    assert shown == [CHAIN.thought]


# -- counts -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"system": "Be kind.", "tools": [ADD], "tool_choice": {"type": "any"}, "thinking": THINK},
        {"messages": [{"role": "user", "content": "A"}, {"role": "user", "content": "B"}]},
        {"thinking": {"type": "disabled"}, "output_config": {"format": {"type": "json_schema", "schema": {}}}},
    ],
)
def test_a_count_is_that_of_the_answer_that_follows(body: dict[str, Any]) -> None:
    engine = scripted(cached=3)
    app = door(engine)
    asked = {name: value for name, value in (ASK | body).items() if name != "max_tokens"}
    response = ask(app, url=f"{PATH}/count_tokens", json=asked, headers=VERSION)
    assert response.status_code == 200, response.text
    assert engine.calls == 0
    usage = answered(app, **body)["usage"]
    assert response.json() == {"input_tokens": usage["input_tokens"] + usage["cache_read_input_tokens"]}


def test_the_same_prompt_and_seed_come_to_the_same_tokens_in_chat_completions() -> None:
    app = door(scripted(seeded=True))
    theirs = answered(app, thinking=THINK, seed=7)
    ours = chat(app, thinking_budget=100, seed=7, max_tokens=1000).json()
    usage = ours["usage"]
    assert theirs["content"][-1]["text"] == ours["choices"][0]["message"]["content"]
    assert theirs["usage"]["input_tokens"] == usage["prompt_tokens"]
    assert theirs["usage"]["output_tokens"] == usage["completion_tokens"]
    hidden = usage["completion_tokens_details"]["reasoning_tokens"]
    assert theirs["usage"]["output_tokens_details"]["thinking_tokens"] == hidden
