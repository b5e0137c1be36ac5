"""A run that several requests may wait for: what it sends is recorded, and each of them is sent it.

It is not held up by who reads slowly, and does not end with whoever asked first: it runs on for a while, so that a
caller whose connection broke finds it when asking again. It is ended when nobody waits for it any more.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

from starlette.types import Message, Receive, Send

from ponder.compute.clock import now
from ponder.compute.errors import NotNow
from ponder.compute.groups import TaskGroup
from ponder.metering.idempotency import Claim
from ponder.server.http.outbox import PIECE, ROOM, SlowReader
from ponder.server.respond import HungUp, hang_up

REPLAYED = (b"idempotent-replayed", b"true")
"""Header of an answer that another request was given, too."""


class Live:
    """A run of this process, from the moment on at which somebody asks whether it may begin."""

    def __init__(self, claim: Claim, most: int) -> None:
        """`most`: bytes of an answer that is kept, and so of what whoever comes late can be sent."""
        self.claim = claim
        """Of the request that runs, or asks whether it may."""
        self.confirmed = False
        """The key belongs to its body."""
        self.released = False
        """It came to nothing that is kept: the key is to be asked for anew."""
        self.over = False
        self.started: Message | None = None
        self.gone = asyncio.Event()
        """Set: nobody wants it any more."""
        self._most = most
        self._chunks: list[bytes] = []
        self._size = 0
        self._dropped = 0
        """Chunks that are not there any more, for all who are sent it have had them."""
        self._complete = False
        self._readers: dict[object, int] = {}
        """Whoever is sent it, and how many chunks they have had."""
        self._changed = asyncio.Event()

    # -- for the run --------------------------------------------------------------------------------------------------

    async def receive(self) -> Message:
        """What the run hears of its caller: nothing, until nobody is left."""
        await self.gone.wait()
        return {"type": "http.disconnect"}

    def start(self, message: Message) -> None:
        """The status and the headers."""
        self.started = {**message, "headers": list(message.get("headers", ()))}
        self._tell()

    async def put(self, chunk: bytes, *, last: bool) -> None:
        """A part of the body. What is too large to be kept is held no longer than until those who are there have it."""
        if chunk:
            self._chunks.append(chunk)
            self._size += len(chunk)
        self._complete = self.over = last
        self._tell()
        while self._size > self._most and not last:
            self._drop()
            if not self._readers:
                self.gone.set()
            if sum(map(len, self._chunks)) <= ROOM or self.gone.is_set():
                return
            await self._news()

    @property
    def givable(self) -> bool:
        """Whoever comes now can be sent it."""
        return self.started is not None and not self.released and not self._dropped

    def whole(self, last: bytes) -> bytes | None:
        """The body, with its last part, which nobody was sent yet; None where it is too large to be kept."""
        if self._dropped or self._size + len(last) > self._most:
            return None
        return b"".join([*self._chunks, last])

    def confirm(self) -> None:
        self.confirmed = True
        self._tell()

    def release(self) -> None:
        self.released = True
        self._tell()

    def end(self) -> None:
        """Nothing comes any more."""
        self.over = True
        self._tell()

    async def linger(self, seconds: float, wanted: Callable[[], Awaitable[int]]) -> None:
        """Ends the run when nobody has waited for it for so many seconds, neither here nor, as `wanted` grows, on
        another server."""
        while not self.over:
            while self._readers and not self.over:
                await self._news()
            before = await _number(wanted)
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    while not self._readers and not self.over:
                        await self._news()
            if not self._readers and not self.over and await _number(wanted) == before:
                self.gone.set()
                return

    # -- for those who are sent it ------------------------------------------------------------------------------------

    async def known(self) -> bool:
        """Whether the key belongs to the body of this run, when that is known."""
        while not (self.confirmed or self.over):
            await self._news()
        return self.confirmed

    async def give(self, receive: Receive, send: Send, *, first: bool, until: float, patience: float) -> bool:
        """Sends what the run sends, as it comes, to its own caller (`first`) or to another; False: there is nothing to
        be sent, and nothing was sent. True also when the caller has gone. `until`: `now()` at which an answer must
        have begun, raises `TimeoutError`. `patience`: seconds for a message to leave; raises `SlowReader`."""
        reader, given, late = object(), False, self._dropped > 0
        if not late:
            # Whoever comes too late to be sent all of it keeps nothing of it here.
            self._readers[reader] = 0
            self._tell()
        try:
            async with TaskGroup() as group:
                watch = group.create_task(hang_up(receive))
                async with asyncio.timeout(None if first else max(0.001, until - now())):
                    while not (self.over or (self._begun(first=first) and not late)):
                        await self._news()
                if self._begun(first=first) and not late:
                    await self._send(reader, send, [] if first else [REPLAYED], patience)
                    given = True
                watch.cancel()
        except BaseExceptionGroup as errors:
            gone, others = errors.split(HungUp)
            if gone is None or others is not None:
                raise errors.exceptions[0] from None
            given = True
        finally:
            self._readers.pop(reader, None)
            self._tell()
        return given

    async def _send(self, reader: object, send: Send, more: list[tuple[bytes, bytes]], patience: float) -> None:
        start = self.started or {}
        await _in_time(send({**start, "headers": [*start["headers"], *more]}), patience)
        while True:
            body, complete = b"".join(self._chunks[self._readers[reader] - self._dropped :]), self._complete
            self._readers[reader] = self._dropped + len(self._chunks)
            for at in range(0, len(body), PIECE):
                last = complete and at + PIECE >= len(body)
                piece: Message = {"type": "http.response.body", "body": body[at : at + PIECE], "more_body": not last}
                await _in_time(send(piece), patience)
            if complete:
                if not body:
                    await _in_time(send({"type": "http.response.body", "body": b""}), patience)
                return
            self._tell()
            while self._readers[reader] == self._dropped + len(self._chunks) and not self._complete:
                if self.over:
                    # It was broken off, and so is what was sent of it.
                    return
                await self._news()

    def _begun(self, *, first: bool) -> bool:
        """What there is to be sent is known. Others than the run's own caller are sent no refusal that is kept for
        nobody, for they may try it themselves, and so none before it is over."""
        if self.started is None:
            return False
        return first or self.started["status"] == 200 or (self.over and not self.released)

    # -- inside -------------------------------------------------------------------------------------------------------

    def _drop(self) -> None:
        had = min(self._readers.values(), default=self._dropped + len(self._chunks))
        del self._chunks[: had - self._dropped]
        self._dropped = max(self._dropped, had)

    def _tell(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def _news(self) -> None:
        await self._changed.wait()


async def _number(wanted: Callable[[], Awaitable[int]]) -> int:
    """Where nobody can say, nobody waits."""
    try:
        return await wanted()
    except NotNow:
        return 0


async def _in_time(sending: Awaitable[Any], patience: float) -> None:
    try:
        async with asyncio.timeout(patience):
            await sending
    except TimeoutError:
        raise SlowReader from None
