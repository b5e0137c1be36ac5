"""What callers get wrong, by accident or on purpose: an answer in OpenAI's shape each time, and the server goes on."""

from __future__ import annotations

import asyncio
import json
import random
import socket
from typing import Any

import pytest

from ponder.server.settings import Settings
from ponder.testing import always
from tests.server.reading import SHOWS_CALLS, ReadingEngine, demo_prompts
from tests.server.serving import ASK, CHAIN, answered, ask, chat, counted, door, refused, scripted, serving

JSON = {"content-type": "application/json"}
SECRET = "s3cret-value"


def settings(**limits: Any) -> Settings:
    return Settings(limits=limits)  # pyright: ignore[reportArgumentType]


NUMBER: list[Any] = ["5", True, None, [1], {"a": 1}]
WHOLE: list[Any] = [1.5, *NUMBER]
WORD: list[Any] = [5, True, ["a"], {"a": 1}]
WRONG: dict[str, list[Any]] = {
    "model": [*WORD, None],
    "messages": [5, SECRET, {}, [], None, [5], [{}], [[]], [{"role": "user"}], [{"role": "king", "content": "x"}]],
    "thinking_budget": [1.5, True, SECRET, "5", -2, -(10**20), 10**20, [1], {}],
    "thinking_token_budget": ["5", 1.5, True, -2, [1]],
    "thinking_budget_tokens": ["5", 1.5, True, -1, [1]],
    "reasoning": [5, SECRET, [], {"max_tokens": "5"}, {"max_tokens": True}, {"effort": "huge"}, {"enabled": 1}],
    "thinking": [5, SECRET, {"budget_tokens": 1.5}, {"budget_tokens": -1}, {"type": "maybe"}],
    "extra_body": [5, {"google": 5}, {"google": {"thinking_config": {"thinking_budget": "5"}}}],
    "enable_thinking": [5, "no", 0],
    "chat_template_kwargs": [5, {"enable_thinking": "no"}],
    "reasoning_effort": [5, SECRET, True, ["low"]],
    "max_completion_tokens": [0, -2, 1.5, "5", True, [5]],
    "max_tokens": [0, -2, 1.5, "5", True],
    "max_answer_tokens": [0, -1, 1.5, "5", True],
    "max_cost_usd": [0, -1, "5", True, 1e9, [5]],
    "on_overflow": [SECRET, 5],
    "include_reasoning": [1, "yes"],
    "strategy": [5, [], {}, {"name": 5}, {"name": SECRET}, SECRET, ""],
    "verifier": [5, [], {"name": 5}, SECRET],
    "timeout": [0, -1, "5", True, [5]],
    "temperature": [-0.1, 2.1, "1", True, [1]],
    "top_p": [-0.1, 1.1, "1", True],
    "top_k": [1.5, "1", -2],
    "min_p": [-0.1, 1.1, "1"],
    "presence_penalty": [-2.1, 2.1, "1"],
    "frequency_penalty": [-2.1, 2.1, "1"],
    "seed": [1.5, "1", True, 2**63, 10**23],
    "stop": [5, [5], [""], "", ["a"] * 5, "x" * 257, {"a": 1}],
    "logit_bias": [5, [1], {"a": 1}, {"1": "x"}, {"1": 101}],
    "logprobs": [1, "yes"],
    "top_logprobs": [-1, 21, 1.5, "5", 5],
    "n": [0, -1, 65, 1.5, "2", True, 10**9],
    "stream": [1, "yes"],
    "stream_options": [5, {"include_usage": 1}, {"include_usage": True}],
    "response_format": [
        5,
        {"type": "yaml"},
        {"type": "json_schema"},
        {"type": "json_schema", "json_schema": {"name": "a"}},
        {"type": "json_schema", "json_schema": {"name": "a b", "schema": {}}},
        {"type": "json_schema", "json_schema": {"name": "a", "schema": 5}},
    ],
    "tools": [
        5,
        [5],
        [{"type": "function"}],
        [{"type": "custom", "function": {"name": "f"}}],
        [{"type": "function", "function": {"name": "a b"}}],
        [{"type": "function", "function": {"name": "f", "parameters": []}}],
        [{"type": "function", "function": {"name": "f"}}] * 2,
        [{"type": "function", "function": {"name": f"f{i}"}} for i in range(129)],
    ],
    "tool_choice": [5, "always", {"type": "function"}, "required", {"type": "function", "function": {"name": "f"}}],
    "parallel_tool_calls": [1, "yes"],
    "metadata": [5, {"a": 5}, {"a": "x" * 513}, {"x" * 65: "a"}, {f"k{i}": "v" for i in range(17)}],
    "user": [5, ["me"]],
    "store": [1, "no"],
    "modalities": [5, ["audio"]],
    "functions": [[{"name": "f"}]],
    "function_call": ["auto"],
}


@pytest.mark.parametrize(("field", "value"), [(field, value) for field, values in WRONG.items() for value in values])
def test_a_wrong_value_is_refused_with_its_field_and_not_repeated(field: str, value: Any) -> None:
    engine = scripted()
    message = refused(response := chat(door(engine), **{field: value}))
    assert response.json()["error"]["param"].split(".")[0] == field
    assert SECRET not in response.text
    assert message
    assert engine.calls == 0


def test_the_path_leads_to_the_place() -> None:
    app = door(scripted())
    messages = [{"role": "user", "content": "a"}, {"role": "user", "content": [{"type": "text", "text": 5}]}]
    refused(chat(app, messages=messages), code="invalid_type", param="messages.1.content.0.text")
    refused(chat(app, messages=[{"role": "user", "content": 5}]), code="invalid_type", param="messages.0.content")
    refused(chat(app, reasoning={"max_tokens": 1.5}), code="invalid_type", param="reasoning.max_tokens")
    refused(chat(app, messages=[{"content": "a"}]), code="missing_required_parameter", param="messages.0.role")
    refused(ask(app, json={"model": "demo"}), code="missing_required_parameter", param="messages")


@pytest.mark.parametrize("kind", ["image_url", "input_audio", "file", "nonesuch"])
def test_parts_that_are_not_text_are_refused(kind: str) -> None:
    messages = [{"role": "user", "content": [{"type": kind, kind: {"url": "http://10.0.0.1/secret"}}]}]
    code = "invalid_value" if kind == "nonesuch" else "unsupported_content_part"
    assert "10.0.0.1" not in refused(chat(door(scripted()), messages=messages), code=code)


@pytest.mark.parametrize(
    ("messages", "param"),
    [
        ([{"role": "user", "content": None}], "messages.0.content"),
        ([{"role": "tool", "content": "x"}], "messages.0.tool_call_id"),
        (
            [{"role": "user", "content": "x", "tool_calls": [{"id": "a", "function": {"name": "f", "arguments": ""}}]}],
            "messages.0.tool_calls",
        ),
    ],
)
def test_messages_that_make_no_sense_are_refused(messages: list[Any], param: str) -> None:
    refused(chat(door(scripted()), messages=messages), param=param)


def called(arguments: str) -> list[dict[str, Any]]:
    """A conversation in which a tool was called."""
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": arguments}}
    return [
        {"role": "user", "content": "x"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": "4", "tool_call_id": "c1"},
    ]


@pytest.mark.parametrize("template", [None, SHOWS_CALLS], ids=["bundled", "shows calls"])
@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ("[" * 100_000, "too_deep"),
        ('{"a":' * 100_000 + "1" + "}" * 100_000, "too_deep"),
        ('{"a": ' + "[" * 32 + "]" * 32 + "}", "too_deep"),
        ('{"a": "\\ud800"}', "invalid_unicode"),
        ('{"\\udfff": 1}', "invalid_unicode"),
    ],
    ids=["brackets", "objects", "one too deep", "half a character", "half a character as a key"],
)
def test_arguments_of_a_call_that_no_prompt_can_hold_are_refused(
    arguments: str, code: str, template: str | None
) -> None:
    engine = ReadingEngine(always(CHAIN), reads=demo_prompts(template))
    param = "messages.1.tool_calls.0.function.arguments"
    refused(chat(door(engine), messages=called(arguments)), code=code, param=param)
    assert engine.calls == 0


@pytest.mark.parametrize(
    "arguments",
    ["", "no JSON", "[1]", '{"a": "\\ud83d\\ude00 [[[["}', "\\ud800", "{}}", "9" * 5000, '{"a": NaN, "a": 1e999}'],
)
def test_whatever_else_a_model_wrote_as_arguments_can_be_sent_back(arguments: str) -> None:
    for template in (None, SHOWS_CALLS):
        answered(door(ReadingEngine(always(CHAIN), reads=demo_prompts(template))), messages=called(arguments))


def wrapped(text: str) -> bytes:
    return b'{"model": "demo", "messages": [{"role": "user", "content": "x"}], "x": ' + text.encode() + b"}"


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "invalid_json"),
        (b"{", "invalid_json"),
        (b"null", "invalid_type"),
        (b"[]", "invalid_type"),
        (b'"text"', "invalid_type"),
        (b"\xff\xfe", "invalid_utf8"),
        (b'{"model": "\xc3\x28"}', "invalid_utf8"),
        (b"\xef\xbb\xbf{}", "invalid_json"),
        (wrapped("NaN"), "invalid_json"),
        (wrapped("-Infinity"), "invalid_json"),
        (wrapped("1e999"), "number_too_large"),
        (wrapped("9" * 10_000), "number_too_large"),
        (wrapped("-" + "9" * 10_000), "number_too_large"),
        (wrapped("1." + "9" * 10_000 + "e99999"), "number_too_large"),
        (wrapped("[" * 100_000), "too_deep"),
        (wrapped("[" * 100_000 + "]" * 100_000), "too_deep"),
        (wrapped('{"a":' * 100_000 + "1" + "}" * 100_000), "too_deep"),
        (b"[" * 100_000, "too_deep"),
        (wrapped('"' + '\\"' * 400_000), "invalid_json"),
        (wrapped('"\\ud800"'), "invalid_unicode"),
        (b'{"model": "demo", "model": "demo"}', "duplicate_key"),
        (b"{" + b",".join(b'"k%d": 1' % i for i in range(30_000)) + b"}", "too_many_fields"),
        (b"{" + b",".join(b'"k%d": 1' % i for i in range(50_000)) + b"}", "too_many"),
        (wrapped("[" + "[]," * 40_000 + "[]]"), "too_many"),
        (b'{"model": "demo",}', "invalid_json"),
        (b"{'model': 'demo'}", "invalid_json"),
    ],
    ids=lambda value: None if isinstance(value, str) else f"{value[:12]!r}",
)
def test_a_body_that_is_no_proper_json_is_refused(body: bytes, code: str) -> None:
    app = door(scripted())
    refused(ask(app, content=body, headers=JSON), code=code)
    answered(app)


def test_brackets_in_text_are_text() -> None:
    app = door(scripted())
    answered(app, messages=[{"role": "user", "content": "[{" * 5000 + '\\"' * 5000}])


def test_a_body_that_is_too_large_is_refused_announced_or_not() -> None:
    app = door(scripted())
    body = json.dumps(ASK | {"user": "x" * (2 << 20)}).encode()
    refused(ask(app, content=body, headers=JSON), 413, "body_too_large")

    async def parts() -> Any:
        for start in range(0, len(body), 65536):
            yield body[start : start + 65536]

    refused(ask(app, content=parts(), headers=JSON), 413, "body_too_large")
    answered(app)


def test_a_body_that_does_not_come_is_not_waited_for_long() -> None:
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    with (
        serving(door(scripted(), settings(body_timeout=0.2))) as place,
        socket.create_connection(("127.0.0.1", place.port), timeout=10) as line,
    ):
        line.sendall(head + b"Content-Length: 100\r\n\r\n{")
        assert line.recv(65536).startswith(b"HTTP/1.1 408")


def test_a_caller_who_leaves_while_sending_the_body_is_no_error() -> None:
    app = door(scripted())
    sent: list[Any] = []

    async def go() -> None:
        async def receive() -> Any:
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            sent.append(message)

        headers = [(b"content-type", b"application/json")]
        scope = {"type": "http", "method": "POST", "path": "/v1/chat/completions", "headers": headers}
        await app(scope | {"query_string": b"", "http_version": "1.1"}, receive, send)

    asyncio.run(go())
    assert sent == []
    assert counted(app, 'ponder_client_disconnects_total{phase="sending_body"}') == 1


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({"content-type": "text/plain"}, "unsupported_media_type"),
        ({"content-type": "application/x-www-form-urlencoded"}, "unsupported_media_type"),
        (JSON | {"content-encoding": "gzip"}, "unsupported_encoding"),
    ],
)
def test_only_plain_json_is_read(headers: dict[str, str], code: str) -> None:
    """A web page can send a form or plain text to a server on the visitor's machine, and no JSON."""
    refused(ask(door(scripted()), content=json.dumps(ASK), headers=headers), 415, code)


@pytest.mark.parametrize("header", ["x", "-1", "0", "nan", "1e9", "9" * 100])
def test_a_wrong_timeout_header_is_refused(header: str) -> None:
    refused(chat(door(scripted()), headers={"x-request-timeout": header}), param="X-Request-Timeout")


@pytest.mark.parametrize(
    ("body", "meant"),
    [
        ({"thinkng_budget": 5}, "thinking_budget"),
        ({"thinkingBudget": 5}, "thinking_budget"),
        ({"thinking-budget": 5}, "thinking_budget"),
        ({"thinking_budgets": 5}, "thinking_budget"),
        ({"reasoning_efort": "low"}, "reasoning_effort"),
        ({"stratgey": "direct"}, "strategy"),
        ({"max_anwser_tokens": 5}, "max_answer_tokens"),
        ({"maxCostUsd": 1}, "max_cost_usd"),
        ({"max_cots_usd": 1}, "max_cost_usd"),
        ({"max_cost": 1}, "max_cost_usd"),
        ({"metadata": {"max_cost_usd": "1"}}, "max_cost_usd"),
        ({"metadata": {"thinking_budget": "5"}}, "thinking_budget"),
        ({"metadata": {"thinkng_budget": "5"}}, "thinking_budget"),
        ({"extra_body": {"thinkng_budget": 5}}, "thinking_budget"),
        ({"chat_template_kwargs": {"thinking_budget": 5}}, "thinking_budget"),
        ({"reasoning": {"thinking_budget": 5}}, "thinking_budget"),
        ({"budget_tokens": 5}, "thinking_budget"),
        ({"max_thinking_tokens": 5}, "thinking_budget"),
        ({"thinkingConfig": {"thinkingBudget": 5}}, "thinking_config"),
        ({"thinking_config": {"thinkingBudget": 5}}, "thinking_config.thinking_budget"),
        ({"google": {"thinking_config": {"budget": 5}}}, "google.thinking_config.thinking_budget"),
        ({"google": {"thinking_budget": 5}}, "thinking_budget"),
        ({"reasoning": {"budget_tokens": 5}}, "reasoning.max_tokens"),
        ({"reasoning": {"max_token": 5}}, "reasoning.max_tokens"),
        ({"thinking": {"max_tokens": 5}}, "thinking.budget_tokens"),
        ({"chat_template_kwargs": {"enable_thinkng": False}}, "enable_thinking"),
        ({"stream": True, "stream_options": {"thinking_budget": 5}}, "thinking_budget"),
        ({"messages": [{"role": "user", "content": "x", "thinking_budget": 0}]}, "thinking_budget"),
    ],
)
def test_a_near_miss_is_refused_and_the_right_name_told(body: dict[str, Any], meant: str) -> None:
    assert meant in refused(chat(door(scripted()), **body), code="unknown_parameter")


def test_a_misplaced_budget_is_found_where_it_stands() -> None:
    messages = [{"role": "user", "content": "x"}, {"role": "user", "content": "x", "thinking_budget": 0}]
    refused(chat(door(scripted()), messages=messages), param="messages.1.thinking_budget")
    refused(chat(door(scripted()), google={"thinking_budget": 0}), param="google.thinking_budget")


def test_what_only_looks_alike_is_let_through() -> None:
    answered(
        door(scripted()),
        reasoning_format="hidden",
        metadata={"strategy": "growth", "topic": "thinking", "reasoning_tokens": "many"},
        best_guess=2,
        google={"safety": "low"},
    )


def test_schemas_and_conversations_have_bounds() -> None:
    deep: dict[str, Any] = {}
    for _ in range(40):
        deep = {"a": deep}
    app = door(scripted())
    form = {"type": "json_schema", "json_schema": {"name": "a", "schema": deep}}
    refused(chat(app, response_format=form), code="too_deep")
    tool = {"type": "function", "function": {"name": "f", "parameters": deep}}
    refused(chat(app, tools=[tool]), code="too_deep", param="tools.0.function.parameters")
    for _ in range(440):
        deep = {"a": deep}
    tool = {"type": "function", "function": {"name": "f", "parameters": deep}}
    refused(chat(door(scripted(), settings(json_depth=500)), tools=[tool]), code="too_deep")
    messages = [{"role": "user", "content": "x"}] * 11
    refused(chat(door(scripted(), settings(messages=10)), messages=messages), code="too_many", param="messages")


def test_random_bytes_never_make_a_500() -> None:
    lots = random.Random(7)
    app = door(scripted())
    whole = json.dumps(ASK | {"thinking_budget": 5, "tools": [], "stop": ["a"], "metadata": {"a": "b"}}).encode()
    for _ in range(300):
        body = bytearray(whole)
        for _ in range(lots.randint(1, 4)):
            body[lots.randrange(len(body))] = lots.choice(b'{}[]",:0-9eE\\u\x00\xff tfn')
        response = ask(app, content=bytes(body), headers=JSON)
        assert response.status_code in (200, 400, 404), response.text
        if response.status_code != 200:
            refused(response, response.status_code)
    answered(app)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("body", "code", "param"),
    [
        ({"logit_bias": {"1114113": 5}}, "invalid_value", "logit_bias"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "odd"}}}},
            "invalid_json_schema",
            "response_format.json_schema.schema",
        ),
        (
            {
                "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "odd"}}}],
                "tool_choice": "required",
            },
            "invalid_json_schema",
            "tools.0.function.parameters",
        ),
    ],
    ids=["token id", "schema", "tool"],
)
def test_what_the_model_cannot_fulfil_is_refused_before_anything_is_thought(
    body: dict[str, Any], code: str, param: str, stream: bool
) -> None:
    engine = scripted(unsupported="odd")
    refused(chat(door(engine), **body, stream=stream), code=code, param=param)
    assert engine.calls == 0
