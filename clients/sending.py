"""Sends what exchanges yield, blocking or on asyncio's loop: the only files of the client that open connections."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Generator, Iterator
from contextlib import aclosing
from typing import Any, Protocol, TypeVar

import httpx
from httpx_sse import EventSource

from ponder.clients.answers import Piece
from ponder.clients.exchange import Exchange, Request, in_our_words

T = TypeVar("T")
Made = Callable[[httpx.Response], "Gathers[T]"]
Whole = TypeVar("Whole", covariant=True)


class Gathers(Protocol[Whole]):
    """Puts the events of one stream together. Made of its response, whose body is read where it is no success."""

    def take(self, data: str) -> Iterator[Piece]:
        """The pieces in the data of one event."""
        ...

    def reply(self) -> Whole:
        """The whole answer, at the end. Raises `CutOff` where that has not come."""
        ...


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


class Sender:
    """Connections to one server, which block."""

    def __init__(self, url: str, api_key: str | None, transport: httpx.BaseTransport | None) -> None:
        self.address = _address(url)
        self._http = httpx.Client(base_url=self.address, headers=_headers(api_key), transport=transport)

    def close(self) -> None:
        self._http.close()

    def result(self, flow: Exchange[T]) -> T:
        """Sends what an exchange yields, until it returns."""
        with in_our_words(self.address):
            return self._result(flow)

    def streamed(self, flow: Exchange[Request], kind: Made[T]) -> Generator[Piece | T]:
        """The pieces of a stream and then the whole; the exchange returns the request for it. Closing hangs up."""
        with in_our_words(self.address), self._http.stream(**_sent(self._result(flow))) as response:
            if not response.is_success:
                response.read()
            gathering = kind(response)
            for event in EventSource(response).iter_sse():
                yield from gathering.take(event.data)
            yield gathering.reply()

    def _result(self, flow: Exchange[T]) -> T:
        try:
            request = next(flow)
            while True:
                request = flow.send(self._http.request(**_sent(request)))
        except StopIteration as end:
            return end.value


class AsyncSender:
    """`Sender`, for asyncio."""

    def __init__(self, url: str, api_key: str | None, transport: httpx.AsyncBaseTransport | None) -> None:
        self.address = _address(url)
        self._http = httpx.AsyncClient(base_url=self.address, headers=_headers(api_key), transport=transport)

    async def close(self) -> None:
        await self._http.aclose()

    async def result(self, flow: Exchange[T]) -> T:
        """Sends what an exchange yields, until it returns."""
        with in_our_words(self.address):
            return await self._result(flow)

    async def streamed(self, flow: Exchange[Request], kind: Made[T]) -> AsyncGenerator[Piece | T]:
        """The pieces of a stream and then the whole; the exchange returns the request for it. Closing hangs up."""
        with in_our_words(self.address):
            async with self._http.stream(**_sent(await self._result(flow))) as response:
                if not response.is_success:
                    await response.aread()
                gathering = kind(response)
                async with aclosing(EventSource(response).aiter_sse()) as events:
                    async for event in events:
                        for piece in gathering.take(event.data):
                            yield piece
                yield gathering.reply()

    async def _result(self, flow: Exchange[T]) -> T:
        try:
            request = next(flow)
            while True:
                request = flow.send(await self._http.request(**_sent(request)))
        except StopIteration as end:
            return end.value
