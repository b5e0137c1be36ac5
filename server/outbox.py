"""The way out of a stream: whoever has something to tell puts it here at once, one writer sends it.

Text that is taken is sent, whatever becomes of the one who told it: a deadline or a drain ends the telling, not the
sending. What is taken and not yet sent is bounded by those who tell: they wait for room afterwards.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

from starlette.types import Message, Send

KEEPALIVE = b": keep-alive\n\n"
ROOM = 1 << 15
"""Bytes that may be taken and unsent before those who tell have to wait."""
PIECE = 1 << 15
"""Bytes of one message at most, so that whoever reads slowly is not taken for one who does not read."""


class SlowReader(Exception):
    """The caller does not read what it is sent."""


class Outbox:
    """The events of one response, in the order they were put. `write` and `keep` run beside whoever puts them."""

    def __init__(
        self, send: Send, headers: Sequence[tuple[bytes, bytes]], *, keepalive: float, send_timeout: float
    ) -> None:
        """`keepalive`: seconds of silence before a comment. `send_timeout`: seconds one message may take to leave."""
        self._send, self._keepalive, self._send_timeout = send, keepalive, send_timeout
        self._start: Message = {"type": "http.response.start", "status": 200, "headers": list(headers)}
        self._taken: list[bytes] = []
        self._unsent = 0
        self._over = False
        self._more = asyncio.Event()
        self._room = asyncio.Event()
        self._gone = asyncio.Event()
        self._sending: float | None = None
        self._sent = time.monotonic()

    def put(self, events: bytes) -> None:
        """Takes events; they will be sent. Follow it with `room` where more is to come."""
        if events:
            self._taken.append(events)
            self._unsent += len(events)
            self._more.set()

    async def room(self) -> None:
        """Returns when no more than `ROOM` bytes are unsent."""
        while self._unsent > ROOM:
            self._room.clear()
            await self._room.wait()

    async def end(self, events: bytes) -> None:
        """Takes the last events, at least one; returns when all has been sent."""
        self._over = True
        self.put(events)
        await self._gone.wait()

    async def write(self) -> None:
        """Sends what is put, until the last of it has been sent."""
        await self._leave(self._start)
        while True:
            await self._more.wait()
            self._more.clear()
            events, last = b"".join(self._taken), self._over
            self._taken.clear()
            for at in range(0, len(events), PIECE):
                piece = events[at : at + PIECE]
                more = not last or at + PIECE < len(events)
                await self._leave({"type": "http.response.body", "body": piece, "more_body": more})
                self._unsent -= len(piece)
                if self._unsent <= ROOM:
                    self._room.set()
            if last:
                self._gone.set()
                return

    async def _leave(self, message: Message) -> None:
        self._sending = time.monotonic()
        try:
            await self._send(message)
        finally:
            self._sending = None
            self._sent = time.monotonic()

    async def keep(self) -> None:
        """Puts a comment when nothing was sent for a while; raises `SlowReader` when a message takes too long."""
        while True:
            now = time.monotonic()
            if self._sending is not None:
                wait = self._sending + self._send_timeout - now
                if wait <= 0:
                    raise SlowReader
            else:
                wait = self._sent + self._keepalive - now
                if wait <= 0:
                    self.put(KEEPALIVE)
                    wait = self._keepalive
            await asyncio.sleep(min(wait, self._send_timeout))
