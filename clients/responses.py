"""Responses, which a server keeps: asked for at once or in the background, streamed, and read again by their id."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Generator, Iterator, Mapping
from contextlib import aclosing
from functools import partial
from typing import Any, cast
from urllib.parse import quote

import httpx

from ponder.clients.answers import CutOff, Piece, Response
from ponder.clients.exchange import SILENCE, Exchange, Messages, Question, Request, asking, checked, refusal
from ponder.clients.sending import AsyncSender, Sender

PATH = "/v1/responses"
PAGE = 100
"""Input items that are asked for at a time."""
OVER = ("response.completed", "response.incomplete")
"""The events that end a stream with an answer; of one that was cut or cancelled `status` tells."""


class Responses:
    """The responses of a server, as `Client.responses`."""

    def __init__(self, sender: Sender) -> None:
        self._sender = sender

    def create(
        self,
        input: Messages,
        *,
        model: str | None = None,
        thinking_budget: int | str | None = None,
        max_cost_usd: float | None = None,
        strategy: str | Mapping[str, Any] | None = None,
        **fields: Any,
    ) -> Response:
        """A whole response; with `background=True` the beginning of one, to be retrieved later. `input` is a question
        or items, `fields` are any others of the API's, such as `previous_response_id`; the rest is as in `chat`."""
        question = Question(input, model, thinking_budget, max_cost_usd, strategy, fields)
        return self._sender.result(_created(question))

    def retrieve(self, response_id: str) -> Response:
        """A response that the server keeps, as it is now: `status` tells whether it is over."""
        return self._sender.result(_retrieved(response_id))

    def cancel(self, response_id: str) -> Response:
        """Ends a response that runs in the background, and gives back what it came to. One that is over stays as it
        is."""
        return self._sender.result(_cancelled(response_id))

    def delete(self, response_id: str) -> None:
        """The server keeps it no longer. One that runs is ended."""
        self._sender.result(_deleted(response_id))

    def input_items(self, response_id: str) -> tuple[dict[str, Any], ...]:
        """What the model was asked, as items of the API, the first first; all pages of them."""
        return self._sender.result(_input_items(response_id))

    def stream(
        self,
        input: Messages,
        *,
        model: str | None = None,
        thinking_budget: int | str | None = None,
        max_cost_usd: float | None = None,
        strategy: str | Mapping[str, Any] | None = None,
        **fields: Any,
    ) -> Generator[Piece | Response]:
        """The response's pieces as they are written, then the whole; parameters are those of `create`. Closing it
        hangs up: the server stops, unless it runs in the background."""
        question = Question(input, model, thinking_budget, max_cost_usd, strategy, fields)
        yield from self._sender.streamed(_asked(question, streamed=True), Following)

    def resume(self, response_id: str, *, starting_after: int | None = None) -> Generator[Piece | Response]:
        """The stream of a response in the background, from its beginning or behind the event of that number (a piece
        has it), then the whole. It was created with `background=True` and `stream`."""
        following = partial(Following, response_id=response_id)
        yield from self._sender.streamed(_resumed(response_id, starting_after), following)


class AsyncResponses:
    """`Responses`, for asyncio, as `AsyncClient.responses`."""

    def __init__(self, sender: AsyncSender) -> None:
        self._sender = sender

    async def create(
        self,
        input: Messages,
        *,
        model: str | None = None,
        thinking_budget: int | str | None = None,
        max_cost_usd: float | None = None,
        strategy: str | Mapping[str, Any] | None = None,
        **fields: Any,
    ) -> Response:
        """A whole response; with `background=True` the beginning of one, to be retrieved later. `input` is a question
        or items, `fields` are any others of the API's, such as `previous_response_id`; the rest is as in `chat`."""
        question = Question(input, model, thinking_budget, max_cost_usd, strategy, fields)
        return await self._sender.result(_created(question))

    async def retrieve(self, response_id: str) -> Response:
        """A response that the server keeps, as it is now: `status` tells whether it is over."""
        return await self._sender.result(_retrieved(response_id))

    async def cancel(self, response_id: str) -> Response:
        """Ends a response that runs in the background, and gives back what it came to. One that is over stays as it
        is."""
        return await self._sender.result(_cancelled(response_id))

    async def delete(self, response_id: str) -> None:
        """The server keeps it no longer. One that runs is ended."""
        await self._sender.result(_deleted(response_id))

    async def input_items(self, response_id: str) -> tuple[dict[str, Any], ...]:
        """What the model was asked, as items of the API, the first first; all pages of them."""
        return await self._sender.result(_input_items(response_id))

    async def stream(
        self,
        input: Messages,
        *,
        model: str | None = None,
        thinking_budget: int | str | None = None,
        max_cost_usd: float | None = None,
        strategy: str | Mapping[str, Any] | None = None,
        **fields: Any,
    ) -> AsyncGenerator[Piece | Response]:
        """The response's pieces as they are written, then the whole; parameters are those of `create`. Closing it
        hangs up: the server stops, unless it runs in the background."""
        question = Question(input, model, thinking_budget, max_cost_usd, strategy, fields)
        async with aclosing(self._sender.streamed(_asked(question, streamed=True), Following)) as stream:
            async for part in stream:
                yield part

    async def resume(self, response_id: str, *, starting_after: int | None = None) -> AsyncGenerator[Piece | Response]:
        """The stream of a response in the background, from its beginning or behind the event of that number (a piece
        has it), then the whole. It was created with `background=True` and `stream`."""
        following = partial(Following, response_id=response_id)
        async with aclosing(self._sender.streamed(_resumed(response_id, starting_after), following)) as stream:
            async for part in stream:
                yield part


class Following:
    """Puts the events of a response's stream together."""

    def __init__(self, response: httpx.Response, response_id: str | None = None) -> None:
        """`response_id`: of a stream that is gone on with, which does not begin with it."""
        self._headers = checked(response).headers
        self._id = response_id
        self._whole: Response | None = None

    def take(self, data: str) -> Iterator[Piece]:
        """The pieces in the data of one event. Raises the server's refusal, and the failure of the response."""
        event: dict[str, Any] = json.loads(data) if data else {}
        match event.get("type"):
            case "response.output_text.delta":
                yield Piece(text=event["delta"], response_id=self._id, sequence_number=event.get("sequence_number"))
            case "response.created":
                self._id = event["response"]["id"]
            case "error":
                raise refusal(event, 200, self._headers)
            case "response.failed":
                raise refusal(event["response"]["error"], 200, self._headers)
            case kind if kind in OVER:
                self._whole = _response(event["response"], self._headers)
            case _:
                """Items and parts that begin and end, and whatever a newer server tells: the whole has it, too."""

    def reply(self) -> Response:
        """The whole response. Raises `CutOff` where the stream ended before it."""
        if self._whole is None:
            raise CutOff("the stream ended before the response did")
        return self._whole


def _asked(question: Question, *, streamed: bool) -> Exchange[Request]:
    return (yield from asking(PATH, "input", question.messages, question, {"stream": True} if streamed else {}))


def _created(question: Question) -> Exchange[Response]:
    told = checked((yield (yield from _asked(question, streamed=False))))
    return _response(told.json(), told.headers)


def _path(response_id: str, more: str = "") -> str:
    return f"{PATH}/{quote(response_id, safe='')}{more}"


def _retrieved(response_id: str) -> Exchange[Response]:
    told = checked((yield Request("GET", _path(response_id))))
    return _response(told.json(), told.headers)


def _cancelled(response_id: str) -> Exchange[Response]:
    told = checked((yield Request("POST", _path(response_id, "/cancel"))))
    return _response(told.json(), told.headers)


def _deleted(response_id: str) -> Exchange[None]:
    checked((yield Request("DELETE", _path(response_id))))


def _input_items(response_id: str) -> Exchange[tuple[dict[str, Any], ...]]:
    found: list[dict[str, Any]] = []
    after = ""
    while True:
        path = _path(response_id, f"/input_items?order=asc&limit={PAGE}{after}")
        page: dict[str, Any] = checked((yield Request("GET", path))).json()
        found += page["data"]
        if not page["has_more"] or not page["data"]:
            return tuple(found)
        after = f"&after={quote(page['last_id'], safe='')}"


def _resumed(response_id: str, starting_after: int | None) -> Exchange[Request]:
    behind = "" if starting_after is None else f"&starting_after={starting_after}"
    return Request("GET", _path(response_id, f"?stream=true{behind}"), silence=SILENCE)
    yield  # an exchange that has nothing to ask before


def _response(data: dict[str, Any], headers: Mapping[str, str]) -> Response:
    texts: list[str] = []
    calls: list[dict[str, Any]] = []
    for item in cast("list[dict[str, Any]]", data["output"]):
        if item["type"] == "message":
            texts += [part["text"] for part in item["content"] if part["type"] == "output_text"]
        elif item["type"] == "function_call":
            calls.append({"id": item["call_id"], "function": {"name": item["name"], "arguments": item["arguments"]}})
    more: dict[str, Any] = {"text": "".join(texts), "tool_calls": calls, "request_id": headers.get("x-request-id")}
    if usage := data.get("usage"):
        more["usage"] = {
            "prompt_tokens": usage["input_tokens"],
            "completion_tokens": usage["output_tokens"],
            "prompt_tokens_details": usage["input_tokens_details"],
            "completion_tokens_details": usage["output_tokens_details"],
        }
    if fault := data.get("error"):
        more["error"] = fault["message"]
    if cut := data.get("incomplete_details"):
        more["cut_by"] = cut["reason"]
    return Response.model_validate({**data, "error": None, **more})
