"""Responses, which a server keeps: asked for at once or in the background, streamed, and read again by their id."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Generator, Iterator, Mapping
from contextlib import aclosing
from typing import Any, cast
from urllib.parse import quote

import httpx

from ponder.clients.answers import CutOff, Piece, Response
from ponder.clients.exchange import Exchange, Messages, Question, Request, asking, checked, refusal
from ponder.clients.sending import AsyncSender, Sender

PATH = "/v1/responses"
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


class Following:
    """Puts the events of a response's stream together."""

    def __init__(self, response: httpx.Response) -> None:
        self._headers = checked(response).headers
        self._whole: Response | None = None

    def take(self, data: str) -> Iterator[Piece]:
        """The pieces in the data of one event. Raises the server's refusal, and the failure of the response."""
        event: dict[str, Any] = json.loads(data) if data else {}
        match event.get("type"):
            case "response.output_text.delta":
                yield Piece(text=event["delta"])
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


def _retrieved(response_id: str) -> Exchange[Response]:
    told = checked((yield Request("GET", f"{PATH}/{quote(response_id, safe='')}")))
    return _response(told.json(), told.headers)


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
