"""One caller's way to the server: JSON in and out, answers as they are written, its own words where it refuses."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from contextlib import aclosing, suppress
from typing import Any, cast

import httpx
from httpx_sse import EventSource

from ponder.clients import exchange
from ponder.clients.answers import AskError, Model, Piece, Refused, Reply, Strategy
from ponder.clients.client import AsyncClient
from ponder.clients.exchange import Exchange, Gathering, Question, Request, checked
from ponder.clients.sending import AsyncSender

__all__ = ["Api", "passes", "words"]

Watch = Callable[[dict[str, Any]], None]


class Api:
    """The server, asked with one key, or with none. All methods raise `ponder.clients.answers.AskError`."""

    def __init__(self, url: str, key: str | None, transport: httpx.AsyncBaseTransport | None = None) -> None:
        self._sender = AsyncSender(url, key, transport)
        self._url, self._key, self._transport = url, key, transport
        self.address = self._sender.address

    async def close(self) -> None:
        """Hangs up. Idempotent."""
        await self._sender.close()

    def client(self) -> AsyncClient:
        """A client of its own with the same key, for what asks much; to be closed."""
        return AsyncClient(self._url, self._key, self._transport)

    async def get(self, path: str, **query: object) -> Any:
        """What is at a path, such as `/v1/usage`; a query without those that are None."""
        wanted = httpx.QueryParams({name: str(value) for name, value in query.items() if value is not None})
        return await self._sender.result(_called(Request("GET", f"{path}?{wanted}" if wanted else path)))

    async def send(self, method: str, path: str, body: object | None = None) -> Any:
        """What comes of sending a body to a path; None where that is nothing."""
        content = None if body is None else json.dumps(body).encode()
        return await self._sender.result(_called(Request(method, path, content)))

    async def health(self) -> dict[str, Any]:
        """What `/healthz` says, also where that is a 503: beside the error it says how everything is."""
        return await self._sender.result(_health())

    async def text(self, path: str) -> str:
        """What is at a path and is no JSON, such as `/metrics`."""
        return await self._sender.result(_read(Request("GET", path)))

    async def events(self, path: str) -> AsyncGenerator[tuple[str, Any]]:
        """Events of a stream at a path: the name of each and its JSON. Closing it hangs up."""
        request = Request("GET", path, silence=exchange.SILENCE)
        headers = {"authorization": f"Bearer {self._key}"} if self._key else {}
        with exchange.in_our_words(self.address):
            async with (
                httpx.AsyncClient(base_url=self.address, headers=headers, transport=self._transport) as http,
                http.stream("GET", path, timeout=request.timeout) as response,
            ):
                if not response.is_success:
                    await response.aread()
                checked(response)
                async with aclosing(EventSource(response).aiter_sse()) as events:
                    async for event in events:
                        if event.data and event.data != "[DONE]":
                            yield event.event, json.loads(event.data)

    async def models(self) -> list[Model]:
        """What the server lists, `MODEL:STRATEGY` included."""
        return await self._sender.result(exchange.models())

    async def strategies(self) -> list[Strategy]:
        """The ways to spend a budget, each with the JSON schema of its parameters."""
        return await self._sender.result(exchange.strategies())

    async def ask(self, question: Question, watch: Watch) -> AsyncGenerator[Piece | Reply]:
        """The answer's pieces, then the whole; `watch` is told how far it is. Closing it hangs up: the server stops."""

        def gathering(response: httpx.Response) -> Gathering:
            return _Watched(response, watch)

        asked = exchange.asked(question, streamed=True)
        async with aclosing(self._sender.streamed(asked, gathering)) as stream:
            async for part in stream:
                yield part


class _Watched(Gathering):
    """An answer whose progress is looked at."""

    def __init__(self, response: httpx.Response, watch: Watch) -> None:
        super().__init__(response)
        self._watch = watch

    def take(self, data: str) -> Iterator[Piece]:
        if '"progress"' in data:
            told: dict[str, Any] = json.loads(data)
            if isinstance(told.get("progress"), dict):
                self._watch(told["progress"])
        yield from super().take(data)


def _called(request: Request) -> Exchange[Any]:
    response = checked((yield request))
    return response.json() if response.content else None


def _health() -> Exchange[dict[str, Any]]:
    response = yield Request("GET", "/healthz")
    if response.status_code == 503:
        # Another 503 is of a proxy before the server, and says nothing of it.
        with suppress(ValueError):
            told = response.json()
            if isinstance(told, dict) and "models" in told:
                return cast("dict[str, Any]", told)
    return checked(response).json()


def _read(request: Request) -> Exchange[str]:
    return checked((yield request)).text


def passes(error: AskError) -> bool:
    """Whether the same may be answered later: nobody was there, or the server was not able to."""
    return not isinstance(error, Refused) or error.status >= 500 or error.status == 429


def words(error: AskError) -> str:
    """An error as a page says it: the server's own sentence, the field at fault and what can be asked about it by."""
    if not isinstance(error, Refused):
        return str(error)
    more: Mapping[str, str | None] = {"field": error.param, "code": error.code, "request": error.request_id}
    told = ", ".join(f"{name} {value}" for name, value in more.items() if value)
    return f"{error.message} ({told})" if told else error.message
