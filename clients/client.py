"""A client for a Ponder server, for programs that want its thinking in types. Any OpenAI client works too.

    with Client("http://127.0.0.1:8000") as ponder:
        reply = ponder.chat("Tom has 12 apples and gets 7 more. How many now?", thinking_budget=256)
        print(reply.text, reply.usage.reasoning_tokens, reply.thinking.stopped_by)
        begun = ponder.responses.create("And with 3 more?", thinking_budget=256, background=True)
        print(ponder.responses.retrieve(begun.id).status)

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
from typing import Any

import httpx

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
    Response,
    Strategy,
    Thinking,
    ToolCall,
    Unreachable,
    Unsendable,
    Usage,
)
from ponder.clients.exchange import Gathering, Messages, Question
from ponder.clients.responses import AsyncResponses, Responses
from ponder.clients.sending import AsyncSender, Sender

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
    "Response",
    "Strategy",
    "Thinking",
    "ToolCall",
    "Unreachable",
    "Unsendable",
    "Usage",
]


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
        self._sender = Sender(url, api_key, transport)
        self.address = self._sender.address
        self.responses = Responses(self._sender)

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connections. Idempotent."""
        self._sender.close()

    def models(self) -> list[Model]:
        """The models the server lists, `MODEL:STRATEGY` included."""
        return self._sender.result(exchange.models())

    def strategies(self) -> list[Strategy]:
        """The strategies the server lists."""
        return self._sender.result(exchange.strategies())

    def trace(self, request_id: str) -> dict[str, Any]:
        """What became of a request of this key, by its `request_id`; a key wants the scope `trace` for it."""
        return self._sender.result(exchange.trace(request_id))

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
        return self._sender.result(exchange.chat(question))

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
        yield from self._sender.streamed(exchange.asked(question, streamed=True), Gathering)


class AsyncClient:
    """`Client`, for asyncio. Leave a stream early inside `contextlib.aclosing`, so that it hangs up at once."""

    def __init__(
        self,
        url: str = "http://127.0.0.1:8000",
        api_key: str | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._sender = AsyncSender(url, api_key, transport)
        self.address = self._sender.address
        self.responses = AsyncResponses(self._sender)

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes the connections. Idempotent."""
        await self._sender.close()

    async def models(self) -> list[Model]:
        """The models the server lists, `MODEL:STRATEGY` included."""
        return await self._sender.result(exchange.models())

    async def strategies(self) -> list[Strategy]:
        """The strategies the server lists."""
        return await self._sender.result(exchange.strategies())

    async def trace(self, request_id: str) -> dict[str, Any]:
        """What became of a request of this key, by its `request_id`; a key wants the scope `trace` for it."""
        return await self._sender.result(exchange.trace(request_id))

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
        return await self._sender.result(exchange.chat(question))

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
        async with aclosing(self._sender.streamed(exchange.asked(question, streamed=True), Gathering)) as stream:
            async for part in stream:
                yield part
