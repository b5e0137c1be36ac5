"""The stream of a response that runs, or ran, behind its caller: from any of its events on, on any server.

What runs here is sent as soon as it is written down; what runs on another server is looked for in the database, at most
`POLL` seconds after it was written there.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from ponder.compute.errors import NotFound, Unavailable, first
from ponder.compute.groups import TaskGroup
from ponder.metering.metrics import Metrics
from ponder.server.http.outbox import Outbox, SlowReader
from ponder.server.kept.responses import KeptResponses
from ponder.server.kept.shapes import last_event
from ponder.server.respond import HungUp, hang_up

POLL = (0.05, 1.0)
"""Seconds between two looks at a response of another server: the first, and the most."""
HEADERS: Sequence[tuple[bytes, bytes]] = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
)
SILENCE = b": keep-alive\n\n"
END = b": end\n\n"
"""Behind the last event."""


async def follow(kept: KeptResponses, id: str, key: str, at: int) -> AsyncIterator[list[bytes]]:
    """The events of a response from number `at` on, until it is over. Where it is deleted or cannot be read meanwhile,
    they end without one that says what became of it."""
    pause = POLL[0]
    while True:
        run = kept.runs.get(id)
        while run is not None and not run.over:
            if len(run.events) > at:
                events = list(run.events[at:])
                at += len(events)
                yield events
            else:
                await run.news()
        try:
            found = await kept.row(id, key)
            content = None if found.open else await kept.content(found)
            events = await kept.events(found, at) if found.events > at else []
        except NotFound:
            return
        except Unavailable:
            await asyncio.sleep(POLL[1])
            continue
        if events:
            at, pause = at + len(events), POLL[0]
            yield events
        if content is not None:
            if content.answer is None and at == found.events:
                yield [last_event(content.response(found.status), at)]
            return
        await asyncio.sleep(pause)
        pause = min(2 * pause, POLL[1])


class EventStream(Response):
    """Sends them, while its caller is there."""

    def __init__(
        self,
        events: AsyncIterator[list[bytes]],
        headers: Sequence[tuple[bytes, bytes]],
        metrics: Metrics,
        *,
        keepalive: float,
        send_timeout: float,
    ) -> None:
        """`keepalive` and `send_timeout` as for an `Outbox`."""
        super().__init__()
        self._events, self._headers, self._metrics = events, headers, metrics
        self._keepalive, self._send_timeout = keepalive, send_timeout

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        out = Outbox(
            send, self._headers, keepalive=self._keepalive, keep_alive=SILENCE, send_timeout=self._send_timeout
        )
        try:
            async with TaskGroup() as group:
                watch = group.create_task(hang_up(receive))
                group.create_task(out.write()).add_done_callback(out.stopped)
                keeper = group.create_task(out.keep())
                async for events in self._events:
                    out.put(b"".join(events))
                    await out.room()
                await out.end(END)
                for task in (watch, keeper):
                    task.cancel()
        except BaseExceptionGroup as group:
            error = first(group)
            if isinstance(error, SlowReader):
                self._metrics.disconnected("slow_reader")
            elif not isinstance(error, HungUp):
                raise error from None
