"""What runs now: `GET /v1/requests`, and the calls of one request as they come, `GET /v1/requests/{id}/events`.

Who watches a request looks at its reservations, some times a second, and is told what has changed since the look
before. Where the watcher reads slowly, the next look comes later: nothing waits in memory but one.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Mapping, Sequence
from itertools import islice
from typing import Any, Literal

from pydantic import BaseModel, Field
from starlette.responses import JSONResponse, Response

from ponder.compute.budget import Reservation, Spending
from ponder.compute.clock import now
from ponder.compute.errors import NotFound, TooBusy
from ponder.metering.metrics import Metrics
from ponder.server import unseal
from ponder.server.auth.access import Caller
from ponder.server.auth.keys import Key
from ponder.server.kept.event_stream import HEADERS, EventStream
from ponder.server.reload import LiveSettings
from ponder.server.running import Running, RunningTable
from ponder.server.trace_shapes import TracedCall
from ponder.server.traces import Calls, texts_of

LOOK = 0.25
"""Seconds between two looks."""
WATCHERS = 64
"""Streams of events at a time."""
LISTED = 1000
"""Requests that are listed."""
ROWS = 256
"""Calls that are looked at in one piece: other requests have their turn between two."""

State = Literal["queued", "running"]
CHANGES = ("hidden", "visible", "calls", "seconds", "ending", "score", "answer_group")
"""Of a call that goes on, and afterwards."""


class RunningTokens(BaseModel):
    """What a request has used so far. What is hidden is so until an answer is chosen."""

    hidden: int
    visible: int
    verifier: int


class RunningRequest(BaseModel):
    """A request that runs or waits."""

    id: str
    object: Literal["request"] = "request"
    key: str = Field(description="The name of its API key")
    model: str
    strategy: str
    budget: int = Field(description="Hidden tokens that it may use")
    state: State
    began_at: int = Field(description="Unix seconds")
    seconds: float = Field(description="Since it came")
    samples: int = Field(description="Calls to the model that have ended")
    open: int = Field(description="Calls to the model that are being made")
    tokens: RunningTokens


class RunningRequests(BaseModel):
    """What runs or waits now, the oldest first."""

    object: Literal["list"] = "list"
    data: list[RunningRequest]


class RequestEvent(BaseModel):
    """How far a request is, where that has changed."""

    type: Literal["request"]
    request: RunningRequest


class CallEvent(BaseModel):
    """A call that was begun, has grown, has ended, was scored or has voted: as its trace would have it now."""

    type: Literal["call"]
    choice: int = Field(description="Which answer of the request it is for")
    call: TracedCall


class EndEvent(BaseModel):
    """The request is over, and its trace is kept."""

    type: Literal["end"]
    ended: str


class EventsShape(JSONResponse):
    """For FastAPI's description of the route alone: JSON, in server-sent events."""

    media_type = "text/event-stream"


EVENTS: dict[int | str, dict[str, Any]] = {
    200: {"model": RequestEvent | CallEvent | EndEvent, "description": "Its events, as `text/event-stream`"}
}
"""The answer of `LiveRequests.events`, as FastAPI's routes are told of it."""


class LiveRequests:
    """The endpoints."""

    def __init__(self, running: RunningTable, live: LiveSettings, metrics: Metrics) -> None:
        self._running, self._live, self._metrics = running, live, metrics
        self._watchers = 0

    async def requests(self, key: Caller) -> RunningRequests:
        """Lists what runs or waits on this server, the oldest first, a thousand at most. A key sees its own requests,
        with the scope `admin` all."""
        mine = (one for one in self._running if _sees(key, one))
        return RunningRequests(data=[_told(one) for one in islice(mine, LISTED)])

    async def events(self, id: str, key: Caller) -> Response:
        """Streams the calls of a request that runs or waits, as they come: first those there are, then what changes, a
        few times a second, until it ends. Text of a call comes when that has ended, where texts are kept, for keys with
        the scope `reveal`."""
        one = self._running.get(id)
        if one is None or not _sees(key, one):
            raise NotFound(
                "no request with this id runs on this server; GET /v1/traces/{id} tells of one that is over",
                param="id",
                code="request_not_found",
            )
        if self._watchers >= WATCHERS:
            raise TooBusy(
                f"{self._watchers} others watch requests, which is all this server shows at a time",
                code="server_busy",
                retry_after=5,
            )
        settings = self._live.now
        return EventStream(
            self._watched(one, key.may("reveal")),
            HEADERS,
            self._metrics,
            keepalive=settings.keepalive,
            send_timeout=settings.limits.send_timeout,
        )

    async def _watched(self, one: Running, reveals: bool) -> AsyncGenerator[list[bytes]]:
        self._watchers += 1
        try:
            async for events in watched(one, reveals=reveals):
                yield events
        finally:
            self._watchers -= 1


async def watched(one: Running, *, reveals: bool) -> AsyncGenerator[list[bytes]]:
    """The events of a request, some at a time, until it is over."""
    seen: dict[tuple[int, int], tuple[Any, ...]] = {}
    before: RunningRequest | None = None
    while True:
        ended = one.ended
        told = _told(one)
        if before is None or told.model_copy(update={"seconds": before.seconds}) != before:
            before = told
            yield [_event({"type": "request", "request": told.model_dump()})]
        for choice, spending in enumerate(one.look()[1]):
            line = spending.line(spending.chosen)
            for begin in range(0, len(spending.reservations), ROWS):
                rows = spending.reservations[begin : begin + ROWS]
                changed = [row for row in rows if _changed(seen, choice, row, row.number in line, spending)]
                if changed:
                    yield [_event(event) for event in _calls(choice, spending, changed, reveals=reveals)]
                else:
                    await asyncio.sleep(0)
        if ended is not None:
            yield [_event({"type": "end", "ended": ended})]
            return
        await asyncio.sleep(LOOK)


def _changed(
    seen: dict[tuple[int, int], tuple[Any, ...]], choice: int, row: Reservation, chosen: bool, spending: Spending
) -> bool:
    """It is not as it was seen last; from now on it was."""
    is_ = (*(getattr(row, name) for name in CHANGES), chosen, row.number in spending.texts)
    place = choice, row.number
    if seen.get(place) == is_:
        return False
    seen[place] = is_
    return True


def _calls(choice: int, spending: Spending, rows: Sequence[Reservation], *, reveals: bool) -> list[Mapping[str, Any]]:
    calls = Calls(spending, rows)
    texts = texts_of(spending, None) if reveals else {}
    events: list[Mapping[str, Any]] = []
    for place, row in enumerate(rows):
        call = calls.told(place) | {"number": row.number}
        if row.number in texts:
            call["text"] = unseal.shown(texts[row.number])
        events.append({"type": "call", "choice": choice, "call": call})
    return events


def _event(event: Mapping[str, Any]) -> bytes:
    return f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode()


def _sees(key: Key, one: Running) -> bool:
    return key.may("admin") or one.resolved.key_id == key.id


def _told(one: Running) -> RunningRequest:
    queued, spendings = one.look()
    resolved, spent = one.resolved, [spending.spent for spending in spendings]
    opened = sum(spending.open for spending in spendings)
    return RunningRequest(
        id=one.id,
        key=resolved.owner,
        model=resolved.base,
        strategy=resolved.strategy,
        budget=resolved.budget,
        state="queued" if queued else "running",
        began_at=one.began_ms // 1000,
        seconds=round(now() - one.began, 3),
        samples=sum(len(spending.reservations) for spending in spendings) - opened,
        open=opened,
        tokens=RunningTokens(
            hidden=sum(one.hidden for one in spent),
            visible=sum(one.visible for one in spent),
            verifier=sum(one.verifier for one in spent),
        ),
    )
