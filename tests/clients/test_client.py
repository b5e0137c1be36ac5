"""The client against a real server over a scripted engine: what it asks, what it gives back, and how it fails."""

from __future__ import annotations

import ast
import asyncio
import json
import socket
from collections import UserDict, UserList
from collections.abc import Generator
from contextlib import aclosing, closing
from pathlib import Path
from typing import Any

import httpx
import pytest

import ponder.clients.client
from ponder.clients.client import (
    AskError,
    AsyncClient,
    Client,
    CutOff,
    Piece,
    Refused,
    Reply,
    Unreachable,
    Unsendable,
)
from ponder.server.auth import keys
from ponder.server.settings import KeySettings
from ponder.testing import MARKER, Chain, ScriptedEngine, always
from tests.clients.serving import comes_true, serving

THOUGHT = f"12 and 7 {MARKER}\nare 19"
HIDDEN = len(THOUGHT) + 1
ANSWER = "The answer is 19."


@pytest.fixture(scope="module")
def url() -> Generator[str]:
    with serving(ScriptedEngine(always(Chain(THOUGHT, ANSWER)))) as address:
        yield address


def test_a_reply_has_its_text_its_usage_and_its_thinking_in_types(url: str) -> None:
    with Client(url) as client:
        reply = client.chat("12 + 7?", model="scripted", thinking_budget=256, strategy="direct")
    assert reply.text == ANSWER
    assert reply.choices[0].finish_reason == "stop"
    assert (reply.usage.reasoning_tokens, reply.usage.visible_tokens) == (HIDDEN, len(ANSWER))
    assert reply.usage.prompt_tokens > 0
    assert (reply.thinking.strategy, reply.thinking.budget, reply.thinking.spent) == ("direct", 256, HIDDEN)
    assert reply.thinking.stopped_by == "finished"
    assert reply.request_id is not None
    assert reply.request_id.startswith("req_")
    assert MARKER not in repr(reply)


def test_a_stream_gives_pieces_and_then_the_same_reply(url: str) -> None:
    with Client(url) as client:
        whole = client.chat("12 + 7?", thinking_budget=256, seed=1)
        *pieces, reply = client.stream("12 + 7?", thinking_budget=256, seed=1)
    assert len(pieces) > 1
    assert "".join(p.text for p in pieces if isinstance(p, Piece)) == ANSWER
    assert isinstance(reply, Reply)
    assert (reply.text, reply.usage, reply.choices) == (whole.text, whole.usage, whole.choices)
    assert reply.thinking == whole.thinking


def test_the_choices_of_a_stream_are_kept_apart(url: str) -> None:
    with Client(url) as client:
        *pieces, reply = client.stream("12 + 7?", thinking_budget=256, n=3)
    assert isinstance(reply, Reply)
    assert [choice.text for choice in reply.choices] == [ANSWER] * 3
    assert {p.choice for p in pieces if isinstance(p, Piece)} == {0, 1, 2}


def test_a_conversation_and_an_address_with_v1_do_as_well(url: str) -> None:
    with Client(url + "/v1/") as client:
        reply = client.chat([{"role": "system", "content": "Be brief."}, {"role": "user", "content": "12 + 7?"}])
    assert reply.text == ANSWER


def test_models_and_strategies_are_listed(url: str) -> None:
    with Client(url) as client:
        ids = [model.id for model in client.models()]
        strategies = {strategy.name: strategy for strategy in client.strategies()}
    assert ids[0] == "scripted"
    assert "scripted:direct" in ids
    assert strategies["direct"].description
    assert strategies["best_of_n"].parameters["properties"]


def test_the_asynchronous_client_does_the_same(url: str) -> None:
    async def talk() -> None:
        async with AsyncClient(url) as client:
            assert (await client.models())[0].id == "scripted"
            assert "direct" in [strategy.name for strategy in await client.strategies()]
            whole = await client.chat("12 + 7?", thinking_budget=256, seed=1)
            parts = [part async for part in client.stream("12 + 7?", thinking_budget=256, seed=1)]
            assert "".join(p.text for p in parts if isinstance(p, Piece)) == whole.text == ANSWER
            with pytest.raises(Refused):
                await client.chat("?", thinking_budget=-7)
            with pytest.raises(Refused):
                [part async for part in client.stream("?", thinking_budget=-7)]

    asyncio.run(talk())


@pytest.mark.parametrize("streamed", [False, True])
def test_a_refusal_carries_the_servers_words_code_and_place(url: str, streamed: bool) -> None:
    with Client(url) as client, pytest.raises(Refused) as caught:
        list(client.stream("?", thinking_budget=-7)) if streamed else client.chat("?", thinking_budget=-7)
    error = caught.value
    assert (error.status, error.param) == (400, "thinking_budget")
    assert error.code
    assert error.request_id
    assert "thinking_budget" in str(error)


def test_a_key_opens_a_server_that_wants_one() -> None:
    secret, digest = keys.make()
    engine = ScriptedEngine(always(Chain(THOUGHT, ANSWER)))
    with serving(engine, [KeySettings(name="a", hash=digest)]) as address:
        with Client(address, secret) as client:
            assert client.chat("12 + 7?").text == ANSWER
        with Client(address) as client, pytest.raises(Refused) as caught:
            client.chat("12 + 7?")
        assert caught.value.status == 401


def test_leaving_a_stream_stops_the_model() -> None:
    engine = ScriptedEngine(always(Chain("x" * 50, "y" * 5000)), delay=0.002)
    with serving(engine) as address:
        with Client(address) as client, closing(client.stream("?", thinking_budget=100)) as stream:
            assert isinstance(next(stream), Piece)
            assert engine.running == 1
        comes_true("no stream runs", 60, lambda: engine.running == 0)
        assert engine.produced < 1000

        async def leave() -> None:
            async with AsyncClient(address) as client, aclosing(client.stream("?", thinking_budget=100)) as stream:
                assert isinstance(await anext(stream), Piece)

        asyncio.run(leave())
        comes_true("no stream runs", 60, lambda: engine.running == 0)
        assert engine.produced < 2000


def test_an_engine_that_dies_in_the_middle_of_a_stream_is_a_refusal() -> None:
    with serving(ScriptedEngine(always(Chain(THOUGHT, ANSWER)), fail_at=0)) as address:
        with Client(address) as client, pytest.raises(AskError) as caught:
            list(client.stream("?", thinking_budget=100))
        assert MARKER not in str(caught.value)


def test_nobody_there_is_said_with_the_address() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}"
        with Client(address) as client, pytest.raises(Unreachable, match=f"no server answers at {address}"):
            client.chat("?")
    with Client("nonsense://x") as client, pytest.raises(Unreachable, match="is no address"):
        client.models()


def answering(body: str, status: int = 200) -> Client:
    """A client of a server that always says this."""
    kind = "text/event-stream" if body.startswith(("data:", ":")) else "application/json"
    headers = {"retry-after": "3", "content-type": kind}
    transport = httpx.MockTransport(lambda _: httpx.Response(status, text=body, headers=headers))
    return Client("http://server", transport=transport)


LOOP: list[Any] = []
LOOP.append(LOOP)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"stop": {"a", "b"}}, "stop cannot be written as JSON: set is nothing that JSON has"),
        ({"metadata": {"when": b"now"}}, "metadata cannot be written as JSON: bytes is nothing that JSON has"),
        ({"temperature": float("nan")}, "temperature cannot be written as JSON: "),
        ({"user": "\ud800"}, "user cannot be written as JSON: it has half of a surrogate pair"),
        ({"tools": LOOP}, "tools cannot be written as JSON: "),
        ({"thinking_budget": 5 + 1j}, "thinking_budget cannot be written as JSON: complex is nothing that JSON has"),
        ({"messages": 5j}, "messages cannot be written as JSON: "),
    ],
)
@pytest.mark.parametrize("model", ["m", None])
def test_what_cannot_be_json_is_the_caller_s_fault_and_nothing_is_sent(
    fields: dict[str, Any], words: str, model: str | None
) -> None:
    sent: list[httpx.Request] = []

    def server(request: httpx.Request) -> httpx.Response:
        sent.append(request)
        return httpx.Response(200, json={"data": [{"id": "m"}]})

    def wrong(error: pytest.ExceptionInfo[Unsendable]) -> None:
        assert str(error.value).startswith(words)
        assert isinstance(error.value, ValueError)

    messages, more = fields.get("messages", "?"), {name: v for name, v in fields.items() if name != "messages"}
    with Client("http://server", transport=httpx.MockTransport(server)) as client:
        with pytest.raises(Unsendable) as caught:
            client.chat(messages, model=model, **more)
        wrong(caught)
        with pytest.raises(Unsendable) as caught:
            list(client.stream(messages, model=model, **more))
        wrong(caught)

    async def awaited() -> None:
        async with AsyncClient("http://server", transport=httpx.MockTransport(server)) as client:
            with pytest.raises(Unsendable) as caught:
                await client.chat(messages, model=model, **more)
            wrong(caught)

    asyncio.run(awaited())
    assert not sent


def test_mappings_and_sequences_of_any_kind_are_objects_and_lists() -> None:
    sent: list[Any] = []

    def server(request: httpx.Request) -> httpx.Response:
        assert request.headers["content-type"] == "application/json"
        sent.append(json.loads(request.content))
        return httpx.Response(400, json={"error": {"message": "no"}})

    talk = UserList([UserDict(role="user", content="é?")])
    with Client("http://server", transport=httpx.MockTransport(server)) as client, pytest.raises(Refused):
        client.chat(talk, model="m", thinking_budget=5, stop=("a", "b"), strategy=UserDict(name="direct"))
    assert sent == [
        {
            "model": "m",
            "messages": [{"role": "user", "content": "é?"}],
            "thinking_budget": 5,
            "strategy": {"name": "direct"},
            "stop": ["a", "b"],
        }
    ]


def test_a_stream_that_ends_early_is_cut_off_and_not_an_answer() -> None:
    chunk = json.dumps({"id": "a", "model": "m", "choices": [{"index": 0, "delta": {"content": "12"}}]})
    with answering(f"data: {chunk}\n\n") as client, pytest.raises(CutOff, match="ended before the answer did"):
        list(client.stream("?", model="m"))


def test_the_parts_of_a_streamed_tool_call_are_put_together() -> None:
    deltas = [
        {"content": "I look."},
        {"tool_calls": [{"index": 0, "id": "call_1", "function": {"name": "look", "arguments": '{"a"'}}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": ": 1}"}}]},
    ]
    chunks = [json.dumps({"choices": [{"index": 0, "delta": delta}]}) for delta in deltas]
    last = json.dumps({"choices": [{"index": 0, "delta": {}, "finish_reason": "tool_calls"}]})
    text = "".join(f": still here\n\ndata: {chunk}\n\n" for chunk in [*chunks, last]) + "data: [DONE]\n\n"
    with answering(text) as client:
        *_, reply = client.stream("?", model="m")
    assert isinstance(reply, Reply)
    (call,) = reply.choices[0].tool_calls
    assert (call.id, call.function.name, call.function.arguments) == ("call_1", "look", '{"a": 1}')
    assert reply.choices[0].finish_reason == "tool_calls"


def test_what_ends_a_line_in_a_text_only_ends_none_in_a_stream() -> None:
    """JSON may hold U+2028 and its like as they are; the lines of an event stream end at CR and LF alone."""
    text = "one\u2028two\x85three"
    delta = {"index": 0, "delta": {"content": text}, "finish_reason": "stop"}
    chunk = json.dumps({"choices": [delta]}, ensure_ascii=False)
    with answering(f"data: {chunk}\r\n\r\ndata: [DONE]\r\n\r\n") as client:
        *_, reply = client.stream("?", model="m")
    assert isinstance(reply, Reply)
    assert reply.text == text


def test_a_stream_of_something_else_is_cut_off() -> None:
    with answering("{}") as client, pytest.raises(CutOff, match="something else than a stream of events"):
        list(client.stream("?", model="m"))


@pytest.mark.parametrize("body", ["<html>", "{}", "[]", '{"choices": 3}', '{"choices": []}', "null"])
def test_an_answer_that_is_none_is_cut_off(body: str) -> None:
    with answering(body) as client, pytest.raises(AskError):
        print(client.chat("?", model="m").text)


def test_an_error_of_somebody_in_between_is_a_refusal_too() -> None:
    with answering("<html>Bad Gateway</html>", 502) as client, pytest.raises(Refused) as caught:
        client.models()
    assert (caught.value.status, caught.value.retry_after) == (502, 3.0)
    assert str(caught.value) == "the server answered 502"


def test_the_client_imports_nothing_of_the_servers() -> None:
    rooms = {"compute", "strategies", "verifiers", "engines", "metering", "server", "models"}
    for path in Path(ponder.clients.client.__file__).parent.glob("*.py"):
        names: set[str] = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module:
                names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
            elif isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
        ours = {name.removeprefix("ponder.").split(".")[0] for name in names}
        assert not ours & rooms, path
