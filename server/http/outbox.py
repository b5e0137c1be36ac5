"""The way out of a stream: producers put events here at once, one writer sends them.

Text that was put is sent, whatever becomes of its producer: a deadline or a drain ends the producing, not the sending.
What was put and not yet sent is bounded by the producers: they wait for room afterwards.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from starlette.types import Message, Send

from ponder.compute.clock import now

ROOM = 1 << 15
"""Bytes that may be unsent before producers have to wait."""
PIECE = 1 << 15
"""Bytes of one message at most, so that a caller who reads slowly is told apart from one who does not read."""


class SlowReader(Exception):
    """The caller does not read what it is sent."""


class Outbox:
    """The events of one response, in the order they were put. `write` and `keep` run beside the producers."""

    def __init__(
        self,
        send: Send,
        headers: Sequence[tuple[bytes, bytes]],
        *,
        keepalive: float,
        keep_alive: bytes,
        send_timeout: float,
    ) -> None:
        """`keepalive`: seconds of silence before `keep_alive` is put. `send_timeout`: seconds for one to leave."""
        self._send, self._keepalive, self._send_timeout = send, keepalive, send_timeout
        self._keep_alive = keep_alive
        self._start: Message = {"type": "http.response.start", "status": 200, "headers": list(headers)}
        self._taken: list[bytes] = []
        self._unsent = 0
        self._over = False
        self.begun = False
        """The status and headers are out."""
        self._idle: asyncio.Future[None] | None = None
        """The writer waits for this, when it has nothing to send."""
        self._room = asyncio.Event()
        self.all_sent = False
        """The last of it has been sent."""
        self._stopped = asyncio.Event()
        """Nothing is sent any more."""
        self._sending: float | None = None
        self._sent = now()

    @property
    def full(self) -> bool:
        """More than `ROOM` bytes are unsent: wait for `room` before more is put."""
        return self._unsent > ROOM

    def put(self, events: bytes) -> None:
        """Takes events; they will be sent. Where it is `full` then, wait for `room` before the next."""
        if events:
            self._taken.append(events)
            self._unsent += len(events)
            idle, self._idle = self._idle, None
            if idle is not None and not idle.done():
                idle.set_result(None)

    async def room(self) -> None:
        """Returns when no more than `ROOM` bytes are unsent. Cancelled as `end` is."""
        while self.full:
            self._sends()
            self._room.clear()
            await self._room.wait()

    async def end(self, events: bytes) -> None:
        """Takes the last events, at least one; returns when all has been sent. Cancelled where nobody sends it: its
        request was, and what ran for it has raised an error over that."""
        self._over = True
        self.put(events)
        await self._stopped.wait()
        self._sends()

    def stopped(self, writing: asyncio.Task[None]) -> None:
        """The task of `write` has ended, however; it may never have begun."""
        self._stopped.set()
        self._room.set()

    def _sends(self) -> None:
        if self._stopped.is_set() and not self.all_sent:
            raise asyncio.CancelledError

    async def write(self) -> None:
        """Sends what is put, until the last of it has been sent. Whoever makes its task has that call `stopped`."""
        loop = asyncio.get_running_loop()
        clock = loop.time
        self._sending = clock()
        await self._send(self._start)
        self.begun = True
        self._sent, self._sending = clock(), None
        while True:
            if not self._taken:
                self._idle = loop.create_future()
                await self._idle
            events, last = self._taken[0] if len(self._taken) == 1 else b"".join(self._taken), self._over
            self._taken.clear()
            at = 0
            while at < len(events):
                piece = events[at : at + PIECE]
                at += len(piece)
                body: Message = {"type": "http.response.body", "body": piece, "more_body": not last or at < len(events)}
                self._sending = clock()
                await self._send(body)
                self._sent, self._sending = clock(), None
                self._unsent -= len(piece)
                if not self.full:
                    self._room.set()
            if last:
                self.all_sent = True
                self._stopped.set()
                return

    async def keep(self) -> None:
        """Puts the keep-alive when nothing was sent for a while; raises `SlowReader` when a message takes too long."""
        # The first text, if it is there at once, does not wait for a timer to be set.
        await asyncio.sleep(0)
        while True:
            at = now()
            if self._sending is not None:
                wait = self._sending + self._send_timeout - at
                if wait <= 0:
                    raise SlowReader
            else:
                wait = self._sent + self._keepalive - at
                if wait <= 0:
                    if not self._over:
                        self.put(self._keep_alive)
                    wait = self._keepalive
            await asyncio.sleep(min(wait, self._send_timeout))
