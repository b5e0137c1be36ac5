"""The answer to a request whose dialect keeps responses: the same as any other, and kept; or one that runs on behind
its caller."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial

from starlette.types import Message, Receive, Scope, Send

from ponder.compute.account import Account
from ponder.compute.errors import RequestError, Unavailable, first
from ponder.compute.groups import TaskGroup
from ponder.metering.ledger import RETRY, SETTLING
from ponder.metering.metrics import Metrics
from ponder.metering.responses import Opening
from ponder.server.beside import beside_if_large
from ponder.server.bounds import characters
from ponder.server.dialect import Item, Keeping, Reading
from ponder.server.idempotency.seal import Seal
from ponder.server.kept.background import BackgroundRun
from ponder.server.kept.event_stream import EventStream, follow
from ponder.server.kept.responses import Content, KeptResponses, content_bound, content_of
from ponder.server.respond import CompletionResponse, HungUp, hang_up

NOT_OF_A_STREAM = (b"content-type", b"cache-control", b"x-accel-buffering", b"content-length")
"""Headers that an answer in one piece does not take over from a stream."""
AGAIN = 1.0
"""Seconds between two tries to keep an answer while the database is away."""


@dataclass(frozen=True, slots=True)
class Asking:
    """Who asks, and how it is answered without being kept."""

    key: str
    """The id of the API key."""
    behind: Callable[[Keeping, list[Item], Mapping[str, Item]], Awaitable[Reading]]
    """The request behind an earlier conversation and with the items that it names, within its bounds."""
    run: Callable[[Reading, Account], CompletionResponse]
    stream: bool
    """The caller wants a stream."""
    keepalive: float
    send_timeout: float


class KeptResponse:
    """Answers one request."""

    def __init__(
        self,
        kept: KeptResponses,
        reading: Reading,
        keeping: Keeping,
        asking: Asking,
        account: Account,
        metrics: Metrics,
    ) -> None:
        self._kept, self._reading, self._keeping, self._asking = kept, reading, keeping, asking
        self._account, self._metrics = account, metrics
        self._inner: CompletionResponse | None = None
        self._opened = False
        """Its caller knows of a response that runs behind it."""

    @property
    def billed(self) -> bool:
        """Something was used that is to be paid for, or will be."""
        return self._opened or (self._inner is not None and self._inner.billed)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Raises what planning does, and what is to be said of what cannot be kept here, in the dialect's words."""
        keeping, kept, key = self._keeping, self._kept, self._asking.key
        stored = kept.kept(keeping, shows_thought=self._reading.request.show_thought)
        if keeping.previous is not None or keeping.named:
            model, items = self._reading.request.model, list[Item]()
            if keeping.previous is not None:
                items = await kept.conversation(keeping.previous, key, model)
            named = await kept.items(keeping.named, key, model)
            self._reading = await self._asking.behind(keeping, items, named)
            keeping = self._reading.keeping or keeping
        if not stored:
            self._inner = self._asking.run(self._reading, self._account)
            await self._inner(scope, receive, send)
            return
        seal = await kept.seal()
        request = self._reading.request
        id = str(scope["state"]["request_id"])
        opening = Opening(keeping.id, id, key, request.user, seal.name, kept.seconds)
        # A model that goes on with it may want its thought.
        self._reading = replace(self._reading, request=replace(request, seals_thought=True))
        if keeping.background:
            await self._behind(keeping, opening, seal, scope, receive, send)
        else:
            await self._before(keeping, opening, seal, scope, receive, send)

    # -- its caller waits for it --------------------------------------------------------------------------------------

    async def _before(
        self, keeping: Keeping, opening: Opening, seal: Seal, scope: Scope, receive: Receive, send: Send
    ) -> None:
        inner = self._inner = self._asking.run(self._reading, self._account)

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.body" and not message.get("more_body", False):
                await self._keep(keeping, opening, seal)
            await send(message)

        await inner(scope, receive, sending)

    async def _keep(self, keeping: Keeping, opening: Opening, seal: Seal) -> None:
        """Before the last byte of the answer leaves, as far as that does not take long."""
        answer = keeping.answer
        if answer is None:
            return
        content, bound = content_of(keeping, answer, answer), content_bound(opening.id, opening.request, opening.key)
        most = self._kept.settings.response_bytes
        sealed = await self._kept.shut(seal, content, bound, said(self._reading), most)
        if sealed is None:
            return
        keep = partial(self._kept.store.keep, opening, answer["status"], sealed)
        try:
            await keep(SETTLING)
        except Unavailable:
            self._kept.beside(self._later(keep, opening.key))
        else:
            self._kept.bound(opening.key)

    async def _later(self, keep: Callable[[float], Awaitable[None]], key: str) -> None:
        """Where the database is away, the answer goes out all the same."""
        while True:
            await asyncio.sleep(AGAIN)
            try:
                await keep(SETTLING)
            except Unavailable:
                if self._kept.closing:
                    return
            else:
                self._kept.bound(key)
                return

    # -- it runs behind its caller ------------------------------------------------------------------------------------

    async def _behind(
        self, keeping: Keeping, opening: Opening, seal: Seal, scope: Scope, receive: Receive, send: Send
    ) -> None:
        reading = replace(self._reading, request=replace(self._reading.request, stream=True))
        most = self._kept.settings.response_bytes
        dumped = await beside_if_large(said(reading), Content(keeping.items, {}).dumped)
        if len(dumped) > most:
            raise RequestError(
                f"background keeps the input, which is larger than the {most} bytes that this server keeps: wait for "
                "the answer, or send less",
                param="background",
                code="response_too_large",
            )
        run = BackgroundRun(
            self._kept, keeping, opening, seal, partial(self._asking.run, reading), self._account, said(reading)
        )
        self._kept.begin(opening.id, run, run.go(scope))
        try:
            async with TaskGroup() as group:
                watch = group.create_task(hang_up(receive))
                self._opened = await run.begun()
                watch.cancel()
        except BaseExceptionGroup as group:
            # Its caller does not know of it, and never will.
            run.withdraw()
            error = first(group)
            if not isinstance(error, HungUp):
                raise error from None
            return
        if not self._opened:
            await self._refused(run, send)
        elif self._asking.stream:
            events = follow(self._kept, opening.id, opening.key, 0)
            stream = EventStream(
                events,
                self._headers(run, whole=False),
                self._metrics,
                keepalive=self._asking.keepalive,
                send_timeout=self._asking.send_timeout,
            )
            await stream(scope, receive, send)
        else:
            body = json.dumps({**(keeping.created or {}), "status": "queued"}).encode()
            headers = [
                (b"content-type", b"application/json"),
                (b"content-length", str(len(body)).encode()),
                *self._headers(run, whole=True),
            ]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": "http.response.body", "body": body})

    def _headers(self, run: BackgroundRun, *, whole: bool) -> list[tuple[bytes, bytes]]:
        headers = list((run.started or {}).get("headers", ()))
        return [(name, value) for name, value in headers if name not in NOT_OF_A_STREAM] if whole else headers

    async def _refused(self, run: BackgroundRun, send: Send) -> None:
        """It came to nothing before it began."""
        if run.error is not None:
            raise run.error
        if not run.refusal:
            raise Unavailable(
                "the response was ended before it had begun: send the request again",
                code="response_lost",
                retry_after=RETRY,
            )
        for message in run.refusal:
            await send(message)


def said(reading: Reading) -> int:
    """About how many characters are kept of a request: its images are kept, too."""
    images = sum(len(image.data) for message in reading.request.messages for _, image in message.images)
    return characters(reading.request) + images
