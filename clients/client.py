"""A client for a Ponder server, for programs that want its thinking in types. Any OpenAI client works too.

    with Client("http://127.0.0.1:8000") as ponder:
        reply = ponder.chat("Tom has 12 apples and gets 7 more. How many now?", thinking_budget=256)
        print(reply.text, reply.usage.reasoning_tokens, reply.thinking.stopped_by)

It speaks HTTP and imports nothing of the server's. What can go wrong::

    AskError
    ├── Unsendable      what was asked cannot be written as JSON; nothing was sent. A ValueError, too
    ├── Unreachable     nobody answered, or not in time
    ├── Refused         the server said no: `status`, `code`, `param` and its own words
    └── CutOff          the answer ended in the middle, or was none
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator, Mapping
from contextlib import aclosing
from types import TracebackType
from typing import Any, TypeVar

import httpx
from httpx_sse import EventSource

from ponder.clients import exchange
from ponder.clients.answers import (
    AskError,
    Choice,
    CutOff,
    Function,
    Model,
    Piece,
    Refused,
    Reply,
    Strategy,
    Thinking,
    ToolCall,
    Unreachable,
    Unsendable,
    Usage,
)
from ponder.clients.exchange import Exchange, Gathering, Messages, Question, Request, in_our_words

__all__ = [
    "AskError",
    "AsyncClient",
    "Choice",
    "Client",
    "CutOff",
    "Function",
    "Messages",
    "Model",
    "Piece",
    "Refused",
    "Reply",
    "Strategy",
    "Thinking",
    "ToolCall",
    "Unreachable",
    "Unsendable",
    "Usage",
]

T = TypeVar("T")


def _address(url: str) -> str:
    """With or without `/v1` at its end, as people write it for OpenAI clients."""
    return url.rstrip("/").removesuffix("/v1")


def _headers(api_key: str | None) -> dict[str, str]:
    return {"authorization": f"Bearer {api_key}"} if api_key else {}


def _sent(request: Request) -> dict[str, Any]:
    """A request as arguments of httpx's methods."""
    headers = {"content-type": "application/json"} if request.content is not None else {}
    return {
        "method": request.method,
        "url": request.path,
        "content": request.content,
        "headers": headers,
        "timeout": request.timeout,
    }


class Client:
    """A client of one server, which blocks. `url` with or without `/v1`; `transport` is for tests.

    All methods raise `Unreachable`, `Refused` and `CutOff`; those that ask a question `Unsendable`, too.
    """

    def __init__(
        self,
        url: str = "http://127.0.0.1:8000",
        api_key: str | None = None,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self.address = _address(url)
        self._http = httpx.Client(base_url=self.address, headers=_headers(api_key), transport=transport)

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connections. Idempotent."""
        self._http.close()

    def models(self) -> list[Model]:
        """The models the server lists, `MODEL:STRATEGY` included."""
        with in_our_words(self.address):
            return self._result(exchange.models())

    def strategies(self) -> list[Strategy]:
        """The strategies the server lists."""
        with in_our_words(self.address):
            return self._result(exchange.strategies())

    def chat(
        self,
        messages: Messages,
        *,
        model: str | None = None,
        thinking_budget: int | str | None = None,
        max_cost_usd: float | None = None,
        strategy: str | Mapping[str, Any] | None = None,
        **fields: Any,
    ) -> Reply:
        """A whole answer. Without `model`, the first the server lists is asked. `thinking_budget` is in hidden tokens;
        -1 or "auto" leaves it to the server. `max_cost_usd` bounds what all of it costs. `fields` are any others of the
        API's."""
        question = Question(messages, model, thinking_budget, max_cost_usd, strategy, fields)
        with in_our_words(self.address):
            return self._result(exchange.chat(question))

    def stream(
        self,
        messages: Messages,
        *,
        model: str | None = None,
        thinking_budget: int | str | None = None,
        max_cost_usd: float | None = None,
        strategy: str | Mapping[str, Any] | None = None,
        **fields: Any,
    ) -> Generator[Piece | Reply]:
        """The answer's pieces as they are written, then the whole reply; parameters are those of `chat`. Closing it
        hangs up: the server stops."""
        question = Question(messages, model, thinking_budget, max_cost_usd, strategy, fields)
        with in_our_words(self.address):
            request = self._result(exchange.asked(question, streamed=True))
            with self._http.stream(**_sent(request)) as response:
                if not response.is_success:
                    response.read()
                gathering = Gathering(response)
                for event in EventSource(response).iter_sse():
                    yield from gathering.take(event.data)
                yield gathering.reply()

    def _result(self, flow: Exchange[T]) -> T:
        """Sends what an exchange yields, until it returns."""
        try:
            request = next(flow)
            while True:
                request = flow.send(self._http.request(**_sent(request)))
        except StopIteration as end:
            return end.value


class AsyncClient:
    """`Client`, for asyncio. Leave a stream early inside `contextlib.aclosing`, so that it hangs up at once."""

    def __init__(
        self,
        url: str = "http://127.0.0.1:8000",
        api_key: str | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self.address = _address(url)
        self._http = httpx.AsyncClient(base_url=self.address, headers=_headers(api_key), transport=transport)

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes the connections. Idempotent."""
        await self._http.aclose()

    async def models(self) -> list[Model]:
        """The models the server lists, `MODEL:STRATEGY` included."""
        with in_our_words(self.address):
            return await self._result(exchange.models())

    async def strategies(self) -> list[Strategy]:
        """The strategies the server lists."""
        with in_our_words(self.address):
            return await self._result(exchange.strategies())

    async def chat(
        self,
        messages: Messages,
        *,
        model: str | None = None,
        thinking_budget: int | str | None = None,
        max_cost_usd: float | None = None,
        strategy: str | Mapping[str, Any] | None = None,
        **fields: Any,
    ) -> Reply:
        """A whole answer. Without `model`, the first the server lists is asked. `thinking_budget` is in hidden tokens;
        -1 or "auto" leaves it to the server. `max_cost_usd` bounds what all of it costs. `fields` are any others of the
        API's."""
        question = Question(messages, model, thinking_budget, max_cost_usd, strategy, fields)
        with in_our_words(self.address):
            return await self._result(exchange.chat(question))

    async def stream(
        self,
        messages: Messages,
        *,
        model: str | None = None,
        thinking_budget: int | str | None = None,
        max_cost_usd: float | None = None,
        strategy: str | Mapping[str, Any] | None = None,
        **fields: Any,
    ) -> AsyncGenerator[Piece | Reply]:
        """The answer's pieces as they are written, then the whole reply; parameters are those of `chat`. Closing it
        hangs up: the server stops."""
        question = Question(messages, model, thinking_budget, max_cost_usd, strategy, fields)
        with in_our_words(self.address):
            request = await self._result(exchange.asked(question, streamed=True))
            async with self._http.stream(**_sent(request)) as response:
                if not response.is_success:
                    await response.aread()
                gathering = Gathering(response)
                async with aclosing(EventSource(response).aiter_sse()) as events:
                    async for event in events:
                        for piece in gathering.take(event.data):
                            yield piece
                yield gathering.reply()

    async def _result(self, flow: Exchange[T]) -> T:
        """Sends what an exchange yields, until it returns."""
        try:
            request = next(flow)
            while True:
                request = flow.send(await self._http.request(**_sent(request)))
        except StopIteration as end:
            return end.value
