"""Responses through our own client: made, streamed, read again, gone on with, run in the background, and how they
fail."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Generator
from typing import Any

import httpx
import pytest

from ponder.clients.client import AsyncClient, Client, CutOff, Piece, Refused, Response
from tests.clients.serving import comes_true
from tests.conformance.served import served

QUESTION = "What is 3 + 4?"
ADD: dict[str, Any] = {
    "type": "function",
    "name": "add",
    "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]},
}


@pytest.fixture(scope="module")
def url() -> Generator[str]:
    with served("demo") as address:
        yield address


@pytest.fixture(scope="module")
def client(url: str) -> Generator[Client]:
    with Client(url) as made:
        yield made


def test_a_response_has_its_text_its_usage_and_its_thinking_in_types_and_is_kept(client: Client) -> None:
    made = client.responses.create(QUESTION, thinking_budget=12, strategy="direct")
    assert (made.status, made.over, made.text, made.cut_by, made.error) == ("completed", True, QUESTION, None, None)
    assert (made.thinking.budget, made.thinking.spent, made.thinking.strategy) == (12, 12, "direct")
    assert (made.usage.reasoning_tokens, made.usage.visible_tokens) == (12, len(QUESTION))
    again = client.responses.retrieve(made.id)
    assert again.model_copy(update={"request_id": made.request_id}) == made
    assert again.request_id != made.request_id
    after = client.responses.create("And then?", thinking_budget=0, previous_response_id=made.id)
    assert after.text == "And then?"
    assert after.usage.prompt_tokens > made.usage.prompt_tokens


def test_a_stream_gives_pieces_and_then_the_same_response(client: Client) -> None:
    whole = client.responses.create(QUESTION, thinking_budget=12)
    *pieces, last = client.responses.stream(QUESTION, thinking_budget=12)
    assert "".join(piece.text for piece in pieces if isinstance(piece, Piece)) == QUESTION
    assert isinstance(last, Response)
    assert (last.text, last.usage, last.thinking.spent) == (whole.text, whole.usage, whole.thinking.spent)
    assert client.responses.retrieve(last.id).text == QUESTION


@pytest.mark.parametrize("streamed", [False, True])
def test_an_answer_that_was_cut_says_by_what(client: Client, streamed: bool) -> None:
    more: dict[str, Any] = {"thinking_budget": 0, "max_output_tokens": 4}
    if streamed:
        *_, cut = client.responses.stream(QUESTION, **more)
    else:
        cut = client.responses.create(QUESTION, **more)
    assert isinstance(cut, Response)
    assert (cut.status, cut.cut_by, cut.text) == ("incomplete", "max_output_tokens", QUESTION[:4])


def test_a_call_goes_out_and_its_result_comes_back(client: Client) -> None:
    asks = client.responses.create(QUESTION, tools=[ADD], store=False)
    (call,) = asks.tool_calls
    assert (call.function.name, json.loads(call.function.arguments)) == ("add", {"a": 0})
    result = {"type": "function_call_output", "call_id": call.id, "output": "seven"}
    question = {"role": "user", "content": QUESTION}
    assert client.responses.create([question, *asks.output, result], tools=[ADD], store=False).text


def test_one_in_the_background_is_asked_for_until_it_is_over(client: Client) -> None:
    begun = client.responses.create(QUESTION, thinking_budget=12, background=True)
    assert begun.status in ("queued", "in_progress")
    assert not begun.over
    comes_true("the response", 120, lambda: client.responses.retrieve(begun.id).over)
    ended = client.responses.retrieve(begun.id)
    assert (ended.status, ended.text, ended.thinking.spent) == ("completed", QUESTION, 12)


LONG = "It is a long way from here to there. " * 60


def test_one_that_runs_is_cancelled_and_deleted(client: Client) -> None:
    begun = client.responses.create(LONG, thinking_budget=4000, background=True)
    ended = client.responses.cancel(begun.id)
    assert (ended.id, ended.over) == (begun.id, True)
    assert client.responses.retrieve(begun.id).status == ended.status
    client.responses.delete(begun.id)
    for gone in (client.responses.retrieve, client.responses.cancel, client.responses.delete):
        with pytest.raises(Refused) as caught:
            gone(begun.id)
        assert (caught.value.status, caught.value.code) == (404, "response_not_found")


def test_all_of_its_input_comes_back_page_by_page(client: Client) -> None:
    turns = [{"role": "user" if n % 2 == 0 else "assistant", "content": f"turn {n}"} for n in range(241)]
    made = client.responses.create(turns, thinking_budget=0)
    items = client.responses.input_items(made.id)
    assert [item["content"][0]["text"] for item in items] == [turn["content"] for turn in turns]


def test_a_stream_is_gone_on_with_behind_any_of_its_pieces(client: Client) -> None:
    *pieces, last = client.responses.stream(QUESTION, thinking_budget=12, background=True)
    assert isinstance(last, Response)
    told = [(piece.text, piece.sequence_number) for piece in pieces if isinstance(piece, Piece)]
    assert {piece.response_id for piece in pieces if isinstance(piece, Piece)} == {last.id}
    for behind in (None, told[0][1], told[-1][1]):
        *again, whole = client.responses.resume(last.id, starting_after=behind)
        expected = [one for one in told if behind is None or (one[1] or 0) > behind]
        assert [(piece.text, piece.sequence_number) for piece in again if isinstance(piece, Piece)] == expected
        assert {piece.response_id for piece in again if isinstance(piece, Piece)} <= {last.id}
        assert isinstance(whole, Response)
        assert (whole.id, whole.text, whole.usage) == (last.id, last.text, last.usage)
    with pytest.raises(Refused):
        list(client.responses.resume("resp_none"))


def test_the_asynchronous_client_does_the_same(url: str) -> None:
    async def talk() -> None:
        async with AsyncClient(url) as client:
            made = await client.responses.create(QUESTION, thinking_budget=12)
            assert (await client.responses.retrieve(made.id)).text == made.text == QUESTION
            *pieces, last = [part async for part in client.responses.stream(QUESTION, thinking_budget=12)]
            assert "".join(piece.text for piece in pieces if isinstance(piece, Piece)) == QUESTION
            assert isinstance(last, Response)
            assert last.usage == made.usage
            (asked,) = await client.responses.input_items(made.id)
            assert asked["content"][0]["text"] == QUESTION
            begun = await client.responses.create(LONG, thinking_budget=4000, background=True)
            assert (await client.responses.cancel(begun.id)).over
            *_, ran = [part async for part in client.responses.stream(QUESTION, background=True)]
            assert isinstance(ran, Response)
            *_, resumed = [part async for part in client.responses.resume(ran.id, starting_after=0)]
            assert isinstance(resumed, Response)
            assert (resumed.id, resumed.text) == (ran.id, ran.text)
            await client.responses.delete(made.id)
            with pytest.raises(Refused):
                await client.responses.retrieve(made.id)

    asyncio.run(talk())


def test_what_is_refused_is_told_in_the_servers_words(client: Client) -> None:
    with pytest.raises(Refused) as gone:
        client.responses.retrieve("resp_none?stream=true")
    assert (gone.value.status, gone.value.code) == (404, "response_not_found")
    with pytest.raises(Refused) as whole:
        client.responses.create("?", thinking_budget=-7)
    with pytest.raises(Refused) as streamed:
        list(client.responses.stream("?", thinking_budget=-7))
    for caught in (whole, streamed):
        assert (caught.value.status, caught.value.param) == (400, "thinking_budget")


FAILED = {"type": "response.failed", "response": {"error": {"code": "server_error", "message": "The model failed."}}}
BROKEN = {"type": "error", "code": "server_error", "message": "The model failed.", "param": None}


@pytest.mark.parametrize("event", [FAILED, BROKEN], ids=["failed", "error"])
def test_a_stream_that_fails_is_no_answer(event: dict[str, Any]) -> None:
    with pytest.raises(Refused, match=r"The model failed\.") as caught:
        _streamed(event)
    assert caught.value.code == "server_error"


def test_a_stream_that_ends_early_was_cut_off() -> None:
    with pytest.raises(CutOff):
        _streamed({"type": "response.output_text.delta", "delta": "It is"})


def _streamed(*events: dict[str, Any]) -> list[Piece | Response]:
    """What the client makes of these events."""
    text = "".join(f"data: {json.dumps(event)}\n\n" for event in events)
    told = httpx.MockTransport(lambda _: httpx.Response(200, text=text, headers={"content-type": "text/event-stream"}))
    with Client(transport=told) as client:
        return list(client.responses.stream("?", model="demo"))
