"""The Responses API: what is answered, whole and in streams, held to the types of OpenAI's SDK and read by it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import httpx
import openai
import pytest
from fastapi import FastAPI
from openai.types.responses import Response, ResponseStreamEvent
from openai.types.responses.input_token_count_response import InputTokenCountResponse
from pydantic import BaseModel

from ponder.compute.text import Message, ToolCall
from ponder.server.auth.keys import digest
from ponder.server.sealed_thoughts import SealedThoughts
from ponder.server.settings import KeySettings, Settings
from ponder.testing import MARKER, Chain, ScriptedEngine, always, in_virtual_time
from tests.server.keeping import keeping
from tests.server.sdk_types import strange
from tests.server.serving import PATH, Line, ask, asked, counted, door, its_door, refused, scripted, written
from tests.server.test_description import answer_of, described, fits
from tests.server.test_dialects import turns
from tests.server.test_hangups import LONG
from tests.server.test_loop_thoughts import READS

URL = "/v1/responses"
ASK: dict[str, Any] = {"model": "demo", "input": "What is 3 + 4?"}
ADD: dict[str, Any] = {
    "type": "function",
    "name": "add",
    "description": "Adds",
    "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}},
}
CALL = 'So: <tool_call>{"name": "add", "arguments": {"a": 3}}</tool_call>'
CALLS = '<tool_call>{"name": "add", "arguments": {"a": 3}}</tool_call>\n' * 2
SCHEMA = {"type": "object", "properties": {"sum": {"type": "integer"}}, "required": ["sum"]}
KEYS = [KeySettings(name="ann", hash=digest("pk-ann"), scopes=frozenset({"infer", "reveal"}))]
ANN = {"authorization": "Bearer pk-ann"}


def respond(app: FastAPI, headers: dict[str, str] | None = None, **body: Any) -> httpx.Response:
    return ask(app, url=URL, json=ASK | body, headers=headers)


def answered(app: FastAPI, headers: dict[str, str] | None = None, **body: Any) -> dict[str, Any]:
    """A response that was given whole, as the SDK's types have it."""
    answer = respond(app, headers, **body)
    assert answer.status_code == 200, answer.text
    return as_typed(answer.json())


def as_typed(told: dict[str, Any]) -> dict[str, Any]:
    assert strange(told, Response, extension=frozenset({"thinking"})) is None
    return told


def events(raw: str) -> list[dict[str, Any]]:
    """The events of a stream, each as the SDK's types have it: named, numbered without a gap, begun by
    `response.created`."""
    assert raw.endswith("\n\n")
    told: list[dict[str, Any]] = []
    for block in raw.split("\n\n"):
        if not block or block.startswith(":"):
            continue
        name, _, data = block.partition("\n")
        event = json.loads(data.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        told.append(event)
        if "response" in event:
            as_typed(event["response"])
            event = {**event, "response": {key: v for key, v in event["response"].items() if key != "thinking"}}
        assert strange(event, ResponseStreamEvent) is None, event
    assert [event["sequence_number"] for event in told] == list(range(len(told)))
    assert [event["type"] for event in told[:2]] == ["response.created", "response.in_progress"]
    assert len({event["response"]["id"] for event in told if "response" in event}) == 1
    return told


def streamed(app: FastAPI, headers: dict[str, str] | None = None, **body: Any) -> list[dict[str, Any]]:
    answer = respond(app, headers, stream=True, **body)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    return events(answer.text)


def kinds(told: Sequence[dict[str, Any]]) -> list[str]:
    return [event["type"].removeprefix("response.") for event in told]


def timeless(response: dict[str, Any]) -> dict[str, Any]:
    """The same without what differs from one time to the next."""
    told = json.loads(json.dumps(response))
    for name in ("id", "created_at", "completed_at"):
        told.pop(name, None)
    for item in told["output"]:
        del item["id"]
        item.pop("call_id", None)
    told["thinking"].pop("receipt", None)
    return told


BODIES: dict[str, dict[str, Any]] = {
    "plain": {},
    "no thinking": {"thinking_budget": 0},
    "many chains": {"strategy": "majority_vote", "thinking_budget": 900},
    "cut": {"max_answer_tokens": 3},
    "log-probabilities": {"include": ["message.output_text.logprobs"], "top_logprobs": 2},
    "document": {"text": {"format": {"type": "json_schema", "name": "sum", "schema": SCHEMA, "strict": True}}},
    "call": {"tools": [ADD], "tool_choice": "auto"},
    "calls": {"tools": [{**ADD, "strict": False}], "tool_choice": {"type": "function", "name": "add"}},
    "some tools": {
        "tools": [ADD, {**ADD, "name": "sub"}],
        "tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "add"}]},
    },
    "all that is told again": {
        "instructions": "Be brief.",
        "metadata": {"a": "b"},
        "max_output_tokens": 500,
        "max_tool_calls": 3,
        "parallel_tool_calls": False,
        "reasoning": {"effort": "low", "context": "current_turn"},
        "text": {"format": {"type": "text"}, "verbosity": "low"},
        "temperature": 0.5,
        "top_p": 0.9,
        "user": "ann",
        "safety_identifier": "a1",
        "prompt_cache_key": "k",
        "service_tier": "flex",
        "truncation": "disabled",
        "store": False,
    },
    "shown": {"include_reasoning": True},
}
WRITES = {"call": CALL, "some tools": CALL, "calls": CALLS, "document": '{"sum": 7}'}


@pytest.mark.parametrize("name", BODIES)
def test_a_response_is_of_the_sdk_s_types_and_its_stream_ends_in_the_same(name: str) -> None:
    body, thought = BODIES[name], "three and four" if name == "shown" else f"{MARKER}: three and four"
    chain = Chain(thought, WRITES.get(name, "It is 7."))

    def one() -> FastAPI:
        return door(scripted(chain), Settings(keys=KEYS))

    whole, told = answered(one(), ANN, **body), streamed(one(), ANN, **body)
    final = told[-1]["response"]
    assert timeless(final) == timeless(whole)
    assert told[-1]["type"] == f"response.{final['status']}"
    assert final["status"] == ("incomplete" if name == "cut" else "completed")
    assert whole["incomplete_details"] == ({"reason": "max_output_tokens"} if name == "cut" else None)
    assert [event["item"] for event in told if event["type"].endswith("item.done")] == final["output"]
    assert {event["item"]["id"] for event in told if event["type"].endswith("item.added")} == {
        item["id"] for item in final["output"]
    }
    assert final["usage"]["total_tokens"] == final["usage"]["input_tokens"] + final["usage"]["output_tokens"]
    assert final["usage"]["output_tokens_details"]["reasoning_tokens"] == final["thinking"]["spent"]
    assert MARKER not in f"{whole} {told}"


def test_a_stream_has_its_events_in_order() -> None:
    item = ["output_item.added", "content_part.added"]
    rest = ["output_text.done", "content_part.done", "output_item.done"]
    told = kinds(streamed(door(scripted())))
    deltas = told.count("output_text.delta")
    begin = ["created", "in_progress", "output_item.added", "output_item.done"]
    assert deltas > 1
    assert told == [*begin, *item, *["output_text.delta"] * deltas, *rest, "completed"]
    silent = kinds(streamed(door(scripted()), thinking_budget=0))
    assert silent == ["created", "in_progress", *item, *["output_text.delta"] * deltas, *rest, "completed"]


def test_a_call_has_events_of_its_own_behind_the_text() -> None:
    told = streamed(door(scripted(Chain("t", CALL))), tools=[ADD])
    after = kinds(told)[kinds(told).index("output_text.done") :]
    assert after == [
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "output_item.added",
        *["function_call_arguments.delta"] * after.count("function_call_arguments.delta"),
        "function_call_arguments.done",
        "output_item.done",
        "completed",
    ]
    reasoning, message, call = told[-1]["response"]["output"]
    assert (reasoning["type"], reasoning["summary"]) == ("reasoning", [])
    assert message["content"] == [{"type": "output_text", "text": "So:", "annotations": []}]
    assert {key: call[key] for key in ("type", "name", "arguments", "status")} == {
        "type": "function_call",
        "name": "add",
        "arguments": '{"a": 3}',
        "status": "completed",
    }
    pieces = [event["delta"] for event in told if event["type"].endswith("arguments.delta")]
    assert "".join(pieces) == call["arguments"]


def test_several_calls_have_ids_of_their_own() -> None:
    output = answered(door(scripted(Chain("t", CALLS))), tools=[ADD], tool_choice="required")["output"]
    assert [item["type"] for item in output] == ["reasoning", "function_call", "function_call"]
    assert len({item["id"] for item in output} | {item["call_id"] for item in output[1:]}) == 5


def test_the_thought_is_shown_to_a_key_that_may_see_it_as_content_of_its_item() -> None:
    app = door(scripted(Chain("three and four", "It is 7.")), Settings(keys=KEYS))
    told = streamed(app, ANN, include_reasoning=True)
    item = told[-1]["response"]["output"][0]
    assert item["content"] == [{"type": "reasoning_text", "text": "three and four"}]
    assert [event["text"] for event in told if event["type"] == "response.reasoning_text.done"] == ["three and four"]
    others = door(scripted())
    assert "content" not in answered(others, include_reasoning=True)["output"][0]
    assert respond(others, include_reasoning=True).headers["x-ignored-parameters"] == "include_reasoning"


def test_a_summary_is_told_in_the_item_of_the_thought_behind_the_answer_it_was_written_after() -> None:
    def one() -> FastAPI:
        return door(scripted(Chain(f"{MARKER}: three and four make seven", "It adds.")))

    asked: dict[str, Any] = {"reasoning": {"summary": "auto"}}
    whole, told = answered(one(), **asked), streamed(one(), **asked)
    assert whole["reasoning"]["summary"] == "auto"
    assert whole["output"][0]["summary"] == [{"type": "summary_text", "text": "It adds."}]
    assert MARKER not in f"{whole} {told}"
    assert timeless(whole) == timeless(told[-1]["response"])
    assert kinds(told)[-6:] == [
        "reasoning_summary_part.added",
        "reasoning_summary_text.delta",
        "reasoning_summary_text.done",
        "reasoning_summary_part.done",
        "output_item.done",
        "completed",
    ]
    assert told[-2]["item"] == whole["output"][0] | {"id": told[-2]["item"]["id"]}
    document = described(one())
    for event in told:
        fits(event, answer_of(document, URL, "post")["text/event-stream"]["schema"], document)


def test_a_stream_tells_its_progress_to_whoever_asks_and_its_numbers_have_no_gap() -> None:
    async def go() -> tuple[str, dict[str, Any]]:
        app = door(scripted(delay=0.5))
        body = {"stream": True, "strategy": "majority_vote", "thinking_budget": 900}
        told = await asked(app, "POST", URL, json=ASK | body | {"stream_options": {"include_progress": True}})
        return told.text, (await asked(app, "GET", "/openapi.json")).json()

    raw, document = in_virtual_time(go())
    blocks = [block for block in raw.split("\n\n") if block and not block.startswith(":")]
    told = [json.loads(block.partition("\ndata: ")[2]) for block in blocks]
    assert [event["sequence_number"] for event in told] == list(range(len(told)))
    progress = [event for event in told if event["type"] == "response.progress"]
    assert {"thinking"} <= {event["progress"]["phase"] for event in progress}
    assert {event["response_id"] for event in progress} == {told[0]["response"]["id"]}
    assert MARKER not in raw
    for event in told:
        fits(event, answer_of(document, URL, "post")["text/event-stream"]["schema"], document)
    assert "response.progress" not in {event["type"] for event in streamed(door(scripted()))}


# -- OpenAI's own client ----------------------------------------------------------------------------------------------


class Sum(BaseModel):
    sum: int


def client(app: FastAPI) -> openai.AsyncOpenAI:
    http = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://door")
    return openai.AsyncOpenAI(api_key="none", base_url="http://door/v1", http_client=cast("Any", http), max_retries=0)


def test_the_sdk_reads_answers_and_its_helpers_stream_and_parse() -> None:
    async def go() -> None:
        sdk = client(door(scripted()))
        whole = await sdk.responses.create(model="demo", input="What is 3 + 4?")
        assert (whole.output_text, whole.status) == ("It is 7.", "completed")
        assert whole.usage
        assert whole.usage.output_tokens_details.reasoning_tokens > 0
        async with sdk.responses.stream(model="demo", input="What is 3 + 4?") as stream:
            texts = [event.delta async for event in stream if event.type == "response.output_text.delta"]
            final = await stream.get_final_response()
        assert "".join(texts) == final.output_text == "It is 7."
        parser = client(door(scripted(Chain("t", '{"sum": 7}'))))
        parsed = await parser.responses.parse(model="demo", input="What is 3 + 4?", text_format=Sum)
        assert parsed.output_parsed == Sum(sum=7)
        async with parser.responses.stream(model="demo", input="What?", text_format=Sum) as stream:
            assert (await stream.get_final_response()).output_parsed == Sum(sum=7)
        tool = openai.pydantic_function_tool(Sum, name="add")
        function = {"type": "function", **tool["function"]}
        caller = client(door(scripted(Chain("t", '<tool_call>{"name": "add", "arguments": {"sum": 7}}</tool_call>'))))
        async with caller.responses.stream(model="demo", input="What?", tools=[function]) as stream:  # pyright: ignore[reportArgumentType]
            kinds = [event.type async for event in stream]
            called = (await stream.get_final_response()).output[-1]
        assert called.type == "function_call"
        assert json.loads(called.arguments) == {"sum": 7}
        assert kinds.count("response.function_call_arguments.done") == 1

    asyncio.run(go())


def test_the_sdk_reads_streams_that_were_cut_and_that_failed() -> None:
    async def go() -> None:
        sdk = client(door(scripted()))
        stream = await sdk.responses.create(
            model="demo", input="What is 3 + 4?", stream=True, extra_body={"max_answer_tokens": 3}
        )
        last = [event async for event in stream][-1]
        assert last.type == "response.incomplete"
        assert last.response.incomplete_details
        assert last.response.incomplete_details.reason == "max_output_tokens"
        sdk = client(door(scripted(fail_at=0)))
        stream = await sdk.responses.create(model="demo", input="What?", stream=True)
        last = [event async for event in stream][-1]
        assert last.type == "response.failed"
        assert last.response.error
        assert last.response.error.code == "server_error"
        sdk = client(door(scripted(fail_at=0)))
        with pytest.raises(openai.InternalServerError):
            await sdk.responses.create(model="demo", input="What?")

    asyncio.run(go())


# -- ends that are none -----------------------------------------------------------------------------------------------


def test_an_answer_that_was_cut_is_incomplete_in_its_item_too() -> None:
    for told in (answered(door(scripted()), max_answer_tokens=3), streamed(door(scripted()), max_answer_tokens=3)[-1]):
        response = told.get("response", told)
        assert (response["status"], response["output"][-1]["status"]) == ("incomplete", "incomplete")
        assert response["output"][-1]["content"][0]["text"] == "It "
        assert "completed_at" not in response


def test_a_model_that_fails_in_the_middle_is_told_with_what_there_was() -> None:
    engine = ScriptedEngine(lambda p, t, c: Chain(MARKER, "It is 7, " * 20), vanish_at={0: len(MARKER) + 40})
    told = streamed(door(engine))
    assert told[-1]["type"] == "response.failed"
    response = told[-1]["response"]
    assert response["status"] == "failed"
    assert response["error"]["code"] == "server_error"
    assert response["error"]["type"] == "service_unavailable_error"
    (message,) = [item for item in response["output"] if item["type"] == "message"]
    deltas = [event["delta"] for event in told if event["type"] == "response.output_text.delta"]
    assert message["status"] == "incomplete"
    assert message["content"][0]["text"] == "".join(deltas) != ""
    assert response["usage"]["output_tokens"] == engine.produced
    assert MARKER not in json.dumps(told)


def test_a_request_that_fails_before_it_began_is_an_error_of_http_with_its_usage() -> None:
    answer = respond(door(scripted(fail_at=0)))
    told = answer.json()
    assert (answer.status_code, told["error"]["code"]) == (500, "engine_error")
    assert told["usage"]["output_tokens"] > 0
    assert set(told["usage"]) == {
        "input_tokens",
        "input_tokens_details",
        "output_tokens",
        "output_tokens_details",
        "total_tokens",
    }
    assert MARKER not in answer.text


class ResponsesLine(Line):
    """A connection held in the hand."""

    def __init__(self, **body: Any) -> None:
        super().__init__()
        self._body = json.dumps(ASK | body).encode()

    async def call(self, app: FastAPI, key: str | None = None) -> None:
        await app(PATH | {"path": URL, "headers": [(b"content-type", b"application/json")]}, self.receive, self.send)


def test_a_server_that_goes_down_at_once_ends_its_streams_as_failed() -> None:
    async def go() -> bytes:
        engine = ScriptedEngine(lambda p, t, c: LONG, delay=0.01)
        app, line = door(engine), ResponsesLine(stream=True)
        async with asyncio.TaskGroup() as group:
            task = group.create_task(line.call(app))
            await asyncio.sleep(1)
            task.cancel()
        return line.text

    told = events(in_virtual_time(go()).decode())
    assert told[-1]["type"] == "response.failed"
    assert "completed" not in kinds(told)


@pytest.mark.parametrize("live", [False, True])
def test_who_hangs_up_stops_the_model(live: bool) -> None:
    async def go() -> None:
        engine = ScriptedEngine(lambda p, t, c: LONG, tail=3)
        app, line = door(engine), ResponsesLine(stream=live)
        async with asyncio.TaskGroup() as group:
            group.create_task(line.call(app))
            await turns(lambda: engine.running > 0 and engine.produced >= 70)
            line.gone.set()
        assert engine.running == 0
        assert written(app) == engine.produced
        assert counted(app, "ponder_client_disconnects_total") == 1
        assert its_door(app).admission.inside == 0

    asyncio.run(go())


# -- what comes in ----------------------------------------------------------------------------------------------------


def heard(**body: Any) -> tuple[Message, ...]:
    engine = scripted()
    answered(door(engine), **body)
    return engine.prompts[-1].messages


def part(kind: str, text: str) -> dict[str, Any]:
    return {"type": kind, "text": text, "annotations": []}


def test_items_of_one_turn_are_one_turn_again() -> None:
    items: list[dict[str, Any]] = [
        {"role": "developer", "content": "Be brief."},
        {"type": "message", "role": "user", "content": [part("input_text", "What is "), part("input_text", "3 + 4?")]},
        {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "Hm."}]},
        {"type": "message", "id": "msg_1", "role": "assistant", "content": [part("output_text", "I add.")]},
        {"type": "function_call", "id": "fc_1", "call_id": "call_1", "name": "add", "arguments": '{"a": 3}'},
        {"type": "function_call", "call_id": "call_2", "name": "add", "arguments": '{"a": 4}'},
        {"type": "function_call_output", "call_id": "call_1", "output": "7"},
        {"type": "function_call_output", "call_id": "call_2", "output": [{"type": "input_text", "text": "8"}]},
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]},
        {"role": "assistant", "content": "<think>secret</think>Yes."},
        {"role": "user", "content": "And?"},
    ]
    calls = (ToolCall("call_1", "add", '{"a": 3}'), ToolCall("call_2", "add", '{"a": 4}'))
    assert heard(instructions="You add.", input=items) == (
        Message("system", "You add."),
        Message("developer", "Be brief."),
        Message("user", "What is 3 + 4?"),
        Message("assistant", "I add.", tool_calls=calls),
        Message("tool", "7", tool_call_id="call_1"),
        Message("tool", "8", tool_call_id="call_2"),
        Message("assistant", "No."),
        Message("assistant", "Yes."),
        Message("user", "And?"),
    )


def test_an_answer_can_be_sent_back_as_it_came() -> None:
    output = answered(door(scripted(Chain(MARKER, CALL))), tools=[ADD])["output"]
    call = output[-1]
    result = {"type": "function_call_output", "call_id": call["call_id"], "output": "7"}
    messages = heard(input=[{"role": "user", "content": "What?"}, *output, result], tools=[ADD])
    assert messages == (
        Message("user", "What?"),
        Message("assistant", "So:", tool_calls=(ToolCall(call["call_id"], "add", '{"a": 3}'),)),
        Message("tool", "7", tool_call_id=call["call_id"]),
    )


def test_only_tools_that_are_allowed_are_shown_to_the_model() -> None:
    engine = scripted()
    names = {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "sub"}]}
    answered(door(engine), tools=[ADD, {**ADD, "name": "sub"}], tool_choice=names)
    assert [tool.name for tool in engine.prompts[-1].tools] == ["sub"]
    broken = {**ADD, "name": "sub", "parameters": json.loads(DEEP)}
    refused(respond(door(scripted()), tools=[ADD, broken], tool_choice=names), param="tools.1.parameters")


def test_our_fields_work_and_a_budget_is_found_however_it_is_written() -> None:
    wishes: list[tuple[dict[str, Any], int, str]] = [
        ({"thinking_budget": 40}, 40, "thinking_budget"),
        ({"reasoning": {"effort": "low"}}, 2048, "reasoning.effort"),
        ({"reasoning": {"effort": "none"}}, 0, "reasoning.effort"),
        ({"reasoning": {"max_tokens": 41}}, 41, "reasoning.max_tokens"),
        ({"thinking_budget": 42, "reasoning": {"effort": "high"}}, 42, "thinking_budget"),
        ({"chat_template_kwargs": {"enable_thinking": False}}, 0, "chat_template_kwargs.enable_thinking"),
        ({"extra_body": {"thinking_budget": 43}}, 43, "thinking_budget"),
    ]
    for body, budget, source in wishes:
        told = answered(door(scripted()), **body)["thinking"]
        assert (told["budget"], told["budget_source"]) == (budget, source)
    told = answered(door(scripted()), strategy={"name": "best_of_n", "n": 3}, thinking_budget=900, verifier="agreement")
    assert (told["thinking"]["strategy"], told["thinking"]["verifier"]) == ("best_of_n", "agreement")
    clamped = respond(door(scripted()), thinking_budget=10_000_000)
    assert clamped.headers["x-thinking-budget-clamped"]
    over = respond(door(scripted()), thinking_budget=10_000_000, on_overflow="error")
    refused(over, 400, "thinking_budget_too_large", "thinking_budget")


def test_the_mode_pro_is_the_strategy_that_the_operator_has_chosen_for_it() -> None:
    app = door(scripted(), thinking_budget=900, strategy="direct", pro_strategy={"name": "majority_vote", "n": 3})
    told = answered(app, reasoning={"mode": "pro"})
    assert (told["thinking"]["strategy"], told["thinking"]["samples_requested"]) == ("majority_vote", 3)
    assert told["reasoning"] == {"effort": None, "summary": None, "mode": "pro"}
    assert answered(app, reasoning={"mode": "standard"})["thinking"]["strategy"] == "direct"
    assert answered(app, reasoning={"mode": "pro"}, strategy="direct")["thinking"]["strategy"] == "direct"
    assert answered(door(scripted()), reasoning={"mode": "pro"})["thinking"]["strategy"] == "best_of_n"
    key = KeySettings(name="ann", hash=digest("pk-ann"), strategies=frozenset({"direct"}))
    answer = respond(door(scripted(), Settings(keys=[key])), ANN, reasoning={"mode": "pro"})
    refused(answer, 403, "strategy_not_permitted", "reasoning.mode")


@pytest.mark.parametrize("stream", [False, True])
def test_a_sealed_thought_comes_in_its_item_and_goes_back_in_it(stream: bool) -> None:
    engine = ScriptedEngine(always(Chain(f"{MARKER} one\nand", CALL)), card=READS)
    settings = Settings(loop_thoughts=0, keys=[*KEYS, KeySettings(name="bob", hash=digest("pk-bob"))])
    app = door(engine, settings, seals=SealedThoughts([b"s" * 32]))
    asked: dict[str, Any] = {"tools": [ADD], "include": ["reasoning.encrypted_content"]}
    told = streamed(app, ANN, **asked) if stream else []
    response = told[-1]["response"] if stream else answered(app, ANN, **asked)
    output = response["output"]
    assert MARKER not in f"{told} {response}"
    assert output[0]["encrypted_content"]
    if stream:
        # It is over, sealed and all, before the text that it led to.
        assert [e["output_index"] for e in told if e["type"] == "response.output_item.done"] == [0, 1, 2]
    result = {"type": "function_call_output", "call_id": output[-1]["call_id"], "output": "7"}
    items = [{"role": "user", "content": "What?"}, *output, result]
    assert answered(app, ANN, **(asked | {"input": items}))["output"][0]["encrypted_content"]
    thought = engine.prompts[-1].messages[1].thought
    assert thought is not None
    assert thought.unseal().startswith(f"{MARKER} one\nand")
    seal = output[0]["encrypted_content"]
    other = {**output[0], "encrypted_content": ("B" if seal[40] == "A" else "A").join([seal[:40], seal[41:]])}
    for key, first in ((ANN, other), ({"authorization": "Bearer pk-bob"}, output[0])):
        answer = respond(app, key, input=[items[0], first, *output[1:], result], tools=[ADD])
        refused(answer, 400, "invalid_encrypted_content", "input.1.encrypted_content")
    answered(app, ANN, tools=[ADD], input=[items[0], {**output[0], "encrypted_content": None}, *output[1:], result])
    assert engine.prompts[-1].messages[1].thought is None
    answered(
        app,
        ANN,
        input=[*items, {"role": "assistant", "content": "7."}, {"role": "user", "content": "And?"}],
        tools=[ADD],
        reasoning={"context": "current_turn"},
    )
    assert engine.prompts[-1].messages[1].thought is None


def test_what_is_known_and_changes_nothing_is_named_in_the_header() -> None:
    said: dict[str, Any] = {
        "service_tier": "priority",
        "text": {"verbosity": "low"},
        "prompt_cache_key": "k",
        "weird": 1,
    }
    answer = respond(door(scripted()), **said)
    assert set(answer.headers["x-ignored-parameters"].split(", ")) == {
        "service_tier",
        "text.verbosity",
        "prompt_cache_key",
        "weird",
    }
    item = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Hi", "odd": 1}]}
    assert respond(door(scripted()), input=[item]).headers["x-ignored-parameters"] == "input.content.odd"
    plain: dict[str, Any] = {
        "service_tier": "auto",
        "store": False,
        "include": ["file_search_call.results"],
        "truncation": "disabled",
    }
    assert "x-ignored-parameters" not in respond(door(scripted()), **plain).headers


DEEP = '{"a":' * 40 + "1" + "}" * 40
USER = {"role": "user", "content": "Hi"}


WRONG: list[tuple[dict[str, Any], str | None, str]] = [
    ({"input": []}, None, "input"),
    ({"input": None}, "invalid_type", "input"),
    ({"input": [3]}, "invalid_type", "input.0"),
    ({"input": [{"type": "poem", "text": "x"}]}, "invalid_value", "input.0"),
    ({"input": [{"role": "tool", "content": "x"}]}, "invalid_value", "input.0.role"),
    ({"input": [USER, {"type": "function_call", "call_id": "c"}]}, "missing_required_parameter", "input.1.name"),
    ({"input": [{"type": "function_call_output", "output": "x"}]}, "missing_required_parameter", "input.0.call_id"),
    ({"input": [USER, {"type": "item_reference", "id": "msg_1"}]}, "item_not_found", "input.1.id"),
    ({"input": [USER, {"id": "msg_1"}]}, "item_not_found", "input.1.id"),
    ({"input": [{"type": "web_search_call", "id": "ws_1"}]}, "unsupported_parameter", "input.0.type"),
    ({"input": [{"type": "custom_tool_call", "id": "x"}]}, "unsupported_parameter", "input.0.type"),
    (
        {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "https://a.example/b.png"}]}]},
        "unsupported_content_part",
        "input.0.content.0.image_url",
    ),
    (
        {"input": [{"role": "user", "content": [{"type": "input_text", "text": 3}]}]},
        "invalid_type",
        "input.0.content.0.text",
    ),
    (
        {"input": [{"type": "reasoning", "id": "rs", "summary": [], "encrypted_content": "x"}, USER]},
        "invalid_value",
        "input.0",
    ),
    ({"input": "x" * 100_001}, "context_length_exceeded", "input"),
    ({"input": [USER] * 1025}, "too_many", "input"),
    (
        {"input": [USER, {"type": "function_call", "call_id": "c", "name": "f", "arguments": DEEP}]},
        "too_deep",
        "input.1.arguments",
    ),
    ({"tools": [{"type": "web_search"}]}, "unsupported_parameter", "tools.0.type"),
    ({"tools": [ADD, {"type": "custom", "name": "x"}]}, "unsupported_parameter", "tools.1.type"),
    ({"tools": [{"type": "juggling"}]}, "invalid_value", "tools.0.type"),
    ({"tools": [{"type": "function"}]}, "missing_required_parameter", "tools.0.name"),
    ({"tools": [ADD], "tool_choice": {"type": "web_search"}}, "unsupported_parameter", "tool_choice.type"),
    ({"tools": [ADD], "tool_choice": {"type": "function", "name": "f"}}, None, "tool_choice.name"),
    (
        {"tools": [ADD], "tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": [{**ADD, "name": "f"}]}},
        "invalid_value",
        "tool_choice.tools.0.name",
    ),
    ({"text": {"format": {"type": "json_schema", "name": "x"}}}, None, "text.format.schema"),
    ({"text": {"format": {"type": "grammar"}}}, "invalid_value", "text.format"),
    ({"truncation": "auto"}, "unsupported_parameter", "truncation"),
    ({"background": True}, "responses_not_kept", "background"),
    ({"previous_response_id": "resp_1"}, "responses_not_kept", "previous_response_id"),
    ({"conversation": "conv_1"}, "unsupported_parameter", "conversation"),
    ({"prompt": {"id": "p"}}, "unsupported_parameter", "prompt"),
    ({"context_management": [{"type": "compaction"}]}, "unsupported_parameter", "context_management"),
    ({"max_tokens": 5}, "unsupported_parameter", "max_tokens"),
    ({"messages": [USER]}, "unsupported_parameter", "messages"),
    ({"response_format": {"type": "json_object"}}, "unsupported_parameter", "response_format"),
    ({"n": 2}, "unsupported_parameter", "n"),
    ({"include": ["everything"]}, "invalid_value", "include.0"),
    ({"top_logprobs": 21}, "above_max_value", "top_logprobs"),
    ({"reasoning": {"context": "all_turns"}}, "invalid_value", "reasoning.context"),
    ({"reasoning": {"effort": "wild"}}, "invalid_value", "reasoning.effort"),
    ({"reasoning": {"summary": "auto", "generate_summary": "concise"}}, None, "reasoning.generate_summary"),
    ({"reasoning": {"budget": 5}}, "unknown_parameter", "reasoning.budget"),
    ({"thinkng_budget": 5}, "unknown_parameter", "thinkng_budget"),
    ({"metadata": {"thinking_budget": "5"}}, "unknown_parameter", "metadata.thinking_budget"),
    ({"stream_options": {"include_obfuscation": False}}, "invalid_value", "stream_options"),
    ({"model": "none"}, "model_not_found", "model"),
    ({"max_output_tokens": 0}, "invalid_value", "max_output_tokens"),
    ({"metadata": {"a": "b" * 513}}, "invalid_value", "metadata"),
]


@pytest.mark.parametrize(("body", "code", "param"), WRONG, ids=str)
def test_what_is_wrong_is_told_where_it_stands(body: dict[str, Any], code: str | None, param: str) -> None:
    answer = respond(door(scripted()), **body)
    words = refused(answer, 404 if code == "model_not_found" else 400, code, param)
    assert "messages" not in words or "messages" in body
    # Of what the caller wrote it quotes nothing.
    assert not any(word in words for word in ("poem", "juggling", "grammar", "everything", "wild"))


def test_the_tokens_of_a_prompt_are_counted_as_its_answer_has_them() -> None:
    engine = scripted()
    app = door(engine)
    body: dict[str, Any] = {"instructions": "Be brief.", "input": [USER, {"role": "assistant", "content": "Hm."}, USER]}
    counted = ask(app, url=f"{URL}/input_tokens", json={"model": "demo"} | body)
    assert engine.calls == 0
    assert counted.json() == {
        "object": "response.input_tokens",
        "input_tokens": answered(app, **body)["usage"]["input_tokens"],
    }
    assert strange(counted.json(), InputTokenCountResponse) is None
    document = described(app)
    fits(counted.json(), answer_of(document, f"{URL}/input_tokens", "post")["application/json"]["schema"], document)
    wrong = ask(app, url=f"{URL}/input_tokens", json={"model": "demo", "previous_response_id": "resp_1"} | body)
    refused(wrong, 400, "unsupported_parameter", "previous_response_id")


def test_items_of_answers_that_are_kept_may_be_named_alone(tmp_path: Path) -> None:
    def names(answer: dict[str, Any]) -> list[dict[str, Any]]:
        return [{"type": "item_reference", "id": item["id"]} for item in answer["output"]]

    async def go() -> None:
        engine = ScriptedEngine(always(Chain(f"{MARKER} one\nand", CALL)), card=READS)
        settings = Settings(loop_thoughts=0, keys=[*KEYS, KeySettings(name="bob", hash=digest("pk-bob"))])
        seals = SealedThoughts([b"s" * 32])
        async with keeping(engine, f"sqlite:///{tmp_path}/ledger.db", settings, seals=seals) as on:
            answer = (await on.create(ANN, tools=[ADD])).json()
            call = answer["output"][-1]
            result = {"type": "function_call_output", "call_id": call["call_id"], "output": "7"}
            told = await on.create(ANN, tools=[ADD], input=[USER, *names(answer), result])
            assert told.status_code == 200, told.text
            calls = (ToolCall(call["call_id"], "add", '{"a": 3}'),)
            messages = engine.prompts[-1].messages
            assert [(m.role, m.content, m.tool_calls) for m in messages] == [
                ("user", "Hi", ()),
                ("assistant", "So:", calls),
                ("tool", "7", ()),
            ]
            thought = messages[1].thought
            assert thought is not None
            assert thought.unseal().startswith(f"{MARKER} one\nand")
            # What went on is kept whole, so it can be gone on with again when the first is gone.
            listed = (await on.one(told.json()["id"], "/input_items", headers=ANN)).json()["data"]
            assert [item["type"] for item in listed] == [
                "function_call_output",
                "function_call",
                "message",
                "reasoning",
                "message",
            ]
            assert MARKER not in f"{told.text} {listed}"
            bob = {"authorization": "Bearer pk-bob"}
            refused(await on.create(bob, input=[USER, *names(answer)]), 400, "item_not_found", "input.1.id")
            await on.delete(answer["id"], headers=ANN)
            refused(await on.create(ANN, input=[USER, *names(answer)]), 400, "item_not_found", "input.1.id")
            more = await on.create(ANN, tools=[ADD], input="And?", previous_response_id=told.json()["id"])
            assert more.status_code == 200, more.text
            assert [m.content for m in engine.prompts[-1].messages[:3]] == ["Hi", "So:", "7"]

    asyncio.run(go())


# -- the description --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", BODIES)
def test_a_response_is_as_described_whole_and_in_a_stream(name: str) -> None:
    app = door(scripted(Chain("three and four", WRITES.get(name, "It is 7."))), Settings(keys=KEYS))
    document = described(app, ANN)
    content = answer_of(document, URL, "post")
    fits(answered(app, ANN, **BODIES[name]), content["application/json"]["schema"], document)
    for event in streamed(app, ANN, **BODIES[name]):
        fits(event, content["text/event-stream"]["schema"], document)
    fits(ASK | BODIES[name], {"$ref": "#/components/schemas/ResponsesRequest"}, document)


def test_a_refusal_and_a_failed_stream_are_as_described() -> None:
    app = door(scripted(fail_at=0))
    document = described(app)
    fits(respond(app).json(), answer_of(document, URL, "post", "5XX")["application/json"]["schema"], document)
    app = door(scripted(fail_at=0))
    for event in streamed(app):
        fits(event, answer_of(document, URL, "post")["text/event-stream"]["schema"], document)


def test_a_silent_stream_is_kept_alive_by_comments() -> None:
    async def go() -> str:
        app = door(ScriptedEngine(lambda p, t, c: LONG, delay=0.5), Settings(keepalive=2))
        return (await asked(app, "POST", URL, json=ASK | {"stream": True})).text

    raw = in_virtual_time(go())
    assert ": keep-alive\n\n" in raw
    assert events(raw)[-1]["type"] == "response.completed"
