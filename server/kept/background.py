"""A response that runs behind its caller: its events are written down as they come, and given to nobody before.

So whoever was sent an event finds it again, on any server and behind any end of this one, and a stream that is gone on
with has no gap and nothing twice. It is run, admitted, billed and ended at a drain like any other request; only a
hang-up does not end it, but the word that nobody wants it any more.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial

from starlette.types import Message, Scope

from ponder.compute.account import Account, Bill, Intent
from ponder.compute.errors import NotNow, Unavailable
from ponder.compute.groups import TaskGroup
from ponder.compute.usage import Usage
from ponder.metering.ledger import OPENING, SETTLING
from ponder.metering.responses import Opening
from ponder.server.beside import beside_if_large
from ponder.server.dialect import Item, Keeping
from ponder.server.idempotency.seal import Seal
from ponder.server.kept.responses import KeptResponses, content_bound, content_of, events_bound
from ponder.server.kept.shapes import failed, last_event
from ponder.server.respond import CompletionResponse, Withdrawn

PACE = 0.1
"""Seconds between two times that events of one response are written down."""
AGAIN = 0.5
"""The same while the database is away."""

log = logging.getLogger(__name__)


class BackgroundRun:
    """One of them, on the server that runs it."""

    def __init__(
        self,
        kept: KeptResponses,
        keeping: Keeping,
        opening: Opening,
        seal: Seal,
        run: Callable[[Account], CompletionResponse],
        account: Account,
        said: int,
    ) -> None:
        """`run`: answers the request as a stream, and settles with the account it is given. `said`: characters of its
        conversation."""
        self._said = said
        self._kept, self._keeping, self._opening, self._seal = kept, keeping, opening, seal
        self._run = run(_Opened(account, self._open))
        self.events: list[bytes] = []
        self.over = False
        self.started: Message | None = None
        """The status and the headers that its stream begins with."""
        self.refusal: list[Message] = []
        """All of what was sent instead of a stream."""
        self.error: Exception | None = None
        """Why it did not begin."""
        self._open_row = self._complete = self._stopped = self._large = False
        self._coming: list[bytes] = []
        """Events that are not written down yet."""
        self._rest = b""
        self._size = 0
        self._gone, self._changed = asyncio.Event(), asyncio.Event()

    # -- for those who look after it ----------------------------------------------------------------------------------

    @property
    def watched(self) -> bool:
        return self._open_row and not self.over and not self._complete

    @property
    def waits(self) -> bool:
        return self._run.waits

    async def news(self) -> None:
        await self._changed.wait()

    def withdraw(self) -> None:
        self._gone.set()

    async def begun(self) -> bool:
        """Whether it runs, when that is known: its first events are durable then, and its caller may know its id."""
        while not self.events and not self.over:
            await self.news()
        return bool(self.events)

    # -- the run ------------------------------------------------------------------------------------------------------

    async def go(self, scope: Scope) -> None:
        """Runs it to its end, and writes down what it came to."""
        # The connection it came on, and the span of that, may end before.
        scope = {**scope, "state": {"request_id": self._opening.request}}
        try:
            async with TaskGroup() as group:
                group.create_task(self._write())
                try:
                    await self._run(scope, self._receive, self._send)
                except Exception as error:  # noqa: BLE001 (its caller is told, who waits for its beginning)
                    self.error = self.error or error
                finally:
                    self._complete = True
                    self._tell()
            if self._open_row and not self.events:
                await self._dropped()
        finally:
            self.over = True
            self._tell()

    async def _open(self, seconds: float) -> None:
        await self._kept.store.open(self._opening, seconds)
        self._open_row = True

    async def _receive(self) -> Message:
        await self._gone.wait()
        raise Withdrawn

    async def _send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.started = message
        if self.started is None or self.started["status"] != 200:
            self.refusal.append(message)
            return
        *events, self._rest = (self._rest + message.get("body", b"")).split(b"\n\n")
        # What keeps a connection alive is for nobody here.
        coming = [event + b"\n\n" for event in events if event and not event.startswith(b":")]
        self._size += sum(map(len, coming))
        if self._size > self._most:
            self._large = True
            self.withdraw()
        elif coming:
            self._coming += coming
            self._tell()

    # -- what is written down -----------------------------------------------------------------------------------------

    async def _write(self) -> None:
        while not self._complete:
            await self._news()
            if self._coming and not await self._some():
                return
        while not self._stopped:
            if await self._last():
                return
            await asyncio.sleep(AGAIN)

    async def _news(self) -> None:
        """Returns when there is something to be written, but not too soon."""
        while not (self._coming or self._complete):
            await self.news()
        if self.events:
            with suppress(TimeoutError):
                async with asyncio.timeout(PACE):
                    while not self._complete:
                        await self.news()

    async def _some(self) -> bool:
        """Writes what has come; False where it is not to run any more."""
        events, number, content = list(self._coming), len(self.events), None
        if not self.events:
            content = await self._content(None)
        piece = await self._shut(b"".join(events), events_bound(self._opening.id, number, self._opening.key))
        try:
            wanted = await self._kept.store.append(
                self._opening.id, content, number, len(events), piece, OPENING if content else SETTLING
            )
        except Unavailable as error:
            if self.events:
                await asyncio.sleep(AGAIN)
                return True
            # Its caller, who waits, is told that; nobody knows of it.
            self.error, wanted = error, False
        if not wanted:
            self._stop()
            return False
        del self._coming[: len(events)]
        self.events += events
        self._tell()
        return True

    async def _last(self) -> bool:
        """Writes what it came to; False where that cannot be yet."""
        answer = self._keeping.answer
        if not self.events and not self._coming:
            # It was refused.
            return True
        if answer is None and self._gone.is_set() and not self._large:
            # Whoever has withdrawn it has written that down, or was its caller, who does not know of it.
            return await self._dropped()
        events, content = [*self.events, *self._coming], None
        if answer is not None:
            content = await self._content(answer)
            if content is None:
                # The last event tells what there is not.
                self._large, events = True, events[:-1]
        if content is None:
            why = f"it is larger than the {self._most} bytes that this server keeps" if self._large else "it broke off"
            answer = failed(self._created, f"the response came to no end: {why}")
            events.append(last_event(answer, len(events)))
            content = await self._content(answer)
        return await self._finish(answer or self._created, content, events)

    async def _dropped(self) -> bool:
        """Nothing is kept of it, where its row is open yet; False where that cannot be written yet."""
        try:
            await self._kept.store.drop(self._opening.id, SETTLING)
        except NotNow:
            return False
        return True

    async def _finish(self, answer: Item, content: bytes | None, events: list[bytes]) -> bool:
        id, key = self._opening.id, self._opening.key
        whole = await self._shut(b"".join(events), events_bound(id, 0, key))
        try:
            written = await self._kept.store.finish(
                id, answer["status"], content, len(events), whole, self._kept.seconds, SETTLING
            )
        except Unavailable:
            return False
        if written:
            self.events = events
            self._kept.bound(key)
        # Else it was cancelled meanwhile: whoever reads it learns that from the row.
        return True

    @property
    def _created(self) -> Item:
        """What the response was told to be when it began."""
        return self._keeping.created or {"id": self._opening.id, "object": "response", "output": []}

    async def _content(self, answer: Item | None) -> bytes | None:
        """What is kept beside the events, sealed; None: it is too large. That it failed is kept always."""
        bound = content_bound(self._opening.id, self._opening.request, self._opening.key)
        content = content_of(self._keeping, self._created, answer)
        most = None if answer is not None and answer["status"] == "failed" else self._most
        return await self._kept.shut(self._seal, content, bound, self._said + self._size, most)

    @property
    def _most(self) -> int:
        return self._kept.settings.response_bytes

    def _stop(self) -> None:
        """Nothing of it is to be written any more."""
        self._stopped = True
        self.withdraw()

    async def _shut(self, plain: bytes, bound: str) -> bytes:
        return await beside_if_large(len(plain), partial(self._seal.shut, plain, bound))

    def _tell(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


class _Opened:
    """An account that begins nothing before the row of the response is durable."""

    def __init__(self, account: Account, open: Callable[[float], Awaitable[None]]) -> None:
        self._account, self._open = account, open

    async def reserve(self, intent: Intent) -> Bill:
        bill = await self._account.reserve(intent)
        try:
            await self._open(min(OPENING, intent.timeout))
        except BaseException:
            await bill.settle(Usage(), "turned_away")
            raise
        return bill
