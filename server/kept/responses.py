"""Responses that a server keeps: found, opened and gone on with, for the API key that they are of.

They lie in the ledger's database (`ponder.metering.responses`), sealed as answers for an `Idempotency-Key` are. What
runs behind its caller (`ponder.server.kept.background`) is known here while it does, and looked after: another server
may cancel or delete it.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from ponder.compute.errors import NotFound, NotNow, RequestError
from ponder.metering.ledger import OPENING
from ponder.metering.responses import ResponseStore, StoredResponse
from ponder.server.beside import beside_if_large
from ponder.server.dialect import Item, Keeping
from ponder.server.errors import Unreadable
from ponder.server.idempotency.seal import Seal, Sealing
from ponder.server.kept.shapes import ended, joined, listed, parted
from ponder.server.settings import ResponseSettings

T = TypeVar("T")

DAY = 86400.0
"""Seconds."""
LOOK = 0.5
"""Seconds between two looks at whether what runs here is to run on."""

log = logging.getLogger(__name__)


class Running(Protocol):
    """A response that runs here, behind its caller."""

    @property
    def watched(self) -> bool:
        """Its row is there, and it is not over."""
        ...

    @property
    def waits(self) -> bool:
        """Its turn has not come yet."""
        ...

    @property
    def events(self) -> Sequence[bytes]:
        """Of its stream, those that are durable."""
        ...

    @property
    def over(self) -> bool: ...

    async def news(self) -> None:
        """Returns when more events are durable, or it is over."""
        ...

    def withdraw(self) -> None:
        """Ends it: nobody wants it any more."""
        ...


@dataclass(frozen=True, slots=True)
class Content:
    """What is kept of a response beside the events of its stream."""

    items: Sequence[Item]
    """Its input, and what it went on with."""
    created: Item
    """The response as it was told at its beginning."""
    answer: Item | None = None
    """For good; None: it runs, or its writer did not come to an end."""
    sealed: dict[str, str] = field(default_factory=dict[str, str])
    """Thoughts of the answer, by the ids of their items."""

    def dumped(self) -> bytes:
        return json.dumps([self.items, self.created, self.answer, self.sealed]).encode()

    def response(self, status: str) -> dict[str, Any]:
        """The response, which has this status."""
        return ended(self.created, status) if self.answer is None else dict(self.answer)

    def answered(self, model: str) -> list[Item]:
        """The items of the answer, as a model goes on with them: another one cannot read its thoughts."""
        if self.answer is None:
            return []
        return joined(self.answer["output"], self.sealed if self.answer.get("model") == model else {})


def content_of(keeping: Keeping, created: Item, answer: Item | None) -> Content:
    """What is to be kept. `created` is the answer where no beginning was told."""
    if answer is None:
        return Content(keeping.items, created)
    plain, sealed = parted(answer, keeping.sealed)
    return Content(keeping.items, {} if created is answer else created, plain, sealed)


class KeptResponses:
    """The responses of a server's ledger, and those that run here."""

    def __init__(self, settings: ResponseSettings, store: ResponseStore | None, sealing: Sealing) -> None:
        """`store`: None where there is no ledger."""
        self.settings, self.sealing = settings, sealing
        self._store = store
        self.runs: dict[str, Running] = {}
        """Those that run here, by their ids."""
        self.closing = False
        self._tasks: set[asyncio.Task[Any]] = set()
        self._looking: asyncio.Task[None] | None = None

    @property
    def store(self) -> ResponseStore:
        """Raises `NotFound` where nothing is kept."""
        if self._store is None or not self._keeps:
            raise NotFound(f"no response is kept: {self._why}", param="id", code="responses_not_kept")
        return self._store

    @property
    def _keeps(self) -> bool:
        """Responses are kept here."""
        return self._store is not None and self.settings.retention_days > 0

    @property
    def _why(self) -> str:
        return (
            "this server has no ledger ([ledger] url is none)"
            if self._store is None
            else "this server keeps no responses ([responses] retention_days is 0)"
        )

    @property
    def seconds(self) -> float:
        """For which a response is kept."""
        return self.settings.retention_days * DAY

    def bound(self, key: str) -> None:
        """One more of a key's is kept and over: it may be one too many."""
        self.store.bound(key, self.settings.most_per_key)

    # -- what a request wants -----------------------------------------------------------------------------------------

    def kept(self, keeping: Keeping, *, shows_thought: bool) -> bool:
        """Whether the response to a request is kept. Raises `RequestError` for what cannot be had here."""
        if not self._keeps:
            instead = {
                "background": (keeping.background, "leave background out, and wait for the answer"),
                "previous_response_id": (keeping.previous is not None, "send the whole conversation in input"),
                "store": (bool(keeping.store), "leave store out, or send false"),
            }
            for name, (wanted, what) in instead.items():
                if wanted:
                    raise RequestError(
                        f"{name} is not offered, for {self._why}: {what}", param=name, code="responses_not_kept"
                    )
            return False
        if keeping.background and keeping.store is False:
            raise RequestError(
                "background keeps the response until it is asked for, so it cannot go with store: false",
                param="background",
                code="conflicting_parameters",
            )
        if keeping.background and shows_thought:
            raise RequestError(
                "include_reasoning cannot go with background: what runs there is kept, and thoughts are not",
                param="include_reasoning",
                code="conflicting_parameters",
            )
        return keeping.store is not False

    async def seal(self) -> Seal:
        """What is kept is sealed with it. Raises `Unavailable`."""
        return await self.sealing.seal("it keeps no responses", "responses_unavailable")

    async def conversation(self, id: str, key: str, model: str) -> list[Item]:
        """What a request to a model goes on with. Raises `RequestError` where there is no such response of the key."""
        try:
            found, content = await self.find(id, key)
        except NotFound:
            raise RequestError(
                "previous_response_id names no response that is kept for this API key: it was never stored, was "
                "deleted, or its time is over; send the whole conversation in input instead",
                param="previous_response_id",
                code="previous_response_not_found",
            ) from None
        if found.open:
            raise RequestError(
                "previous_response_id names a response that runs yet: go on with it when it is over",
                param="previous_response_id",
                code="previous_response_not_finished",
            )
        if content.answer is None or content.answer.get("model") == model:
            return [*content.items, *content.answered(model)]
        # Another model cannot read its thoughts, nor those before.
        return listed([*content.items, *content.answered(model)], ())

    async def items(self, named: Mapping[str, str], key: str, model: str) -> dict[str, Item]:
        """Items of answers that are kept for a key, by their ids, as far as they are there. `named`: their ids, and
        those of the responses they are of."""
        found: dict[str, Item] = {}
        if not self._keeps:
            return found
        for id in dict.fromkeys(named.values()):
            with suppress(NotFound):
                _, content = await self.find(id, key)
                found |= {item["id"]: item for item in content.answered(model) if item["id"] in named}
        return found

    # -- what is kept -------------------------------------------------------------------------------------------------

    async def find(self, id: str, key: str) -> tuple[StoredResponse, Content]:
        """A response of a key. Raises `NotFound`, `Unavailable`, and `Unreadable`."""
        found = await self.row(id, key)
        return found, await self.content(found)

    async def row(self, id: str, key: str) -> StoredResponse:
        """The same, sealed as it is. Raises `NotFound` and `Unavailable`."""
        return _known(await self.store.find(id, key, OPENING))

    async def cancel(self, id: str, key: str) -> tuple[StoredResponse, Content]:
        """Ends one that runs in the background, wherever it does. Raises as `find` does."""
        found = _known(await self.store.cancel(id, key, OPENING))
        content = await self.content(found)
        await self._withdrawn(id)
        return found, content

    async def delete(self, id: str, key: str) -> None:
        """Forgets one. Raises `NotFound` and `Unavailable`."""
        if not await self.store.delete(id, key, OPENING):
            raise _unknown()
        await self._withdrawn(id)

    async def content(self, found: StoredResponse) -> Content:
        """What is kept of a response beside its events. Raises as `find` does."""
        bound = content_bound(found.id, found.request, found.key)
        content = await self._read(found, bound, found.content, lambda plain: Content(*json.loads(plain)))
        if content.answer is not None and content.answer["status"] != found.status:
            raise _altered()
        return content

    async def events(self, found: StoredResponse, number: int) -> list[bytes]:
        """The events of a response from a number on, as far as they are there. Raises as `find` does."""
        pieces = await self.store.events(found.id, number, OPENING)
        events, begin = list[bytes](), None
        for at, sealed in pieces:
            begin = at if begin is None else begin
            if at != begin + len(events):
                raise _altered()
            events += await self._read(found, events_bound(found.id, at, found.key), sealed, split)
        if begin is None or begin > number or (not found.open and begin + len(events) != found.events):
            raise _altered()
        return events[number - begin :]

    async def _withdrawn(self, id: str) -> None:
        """Ends what runs here; returns when the model makes nothing more for it, as long as that is soon."""
        run = self.runs.get(id)
        if run is not None:
            run.withdraw()
            with suppress(TimeoutError):
                async with asyncio.timeout(OPENING):
                    while not run.over:
                        await run.news()

    async def _read(self, found: StoredResponse, bound: str, sealed: bytes, read: Callable[[bytes], T]) -> T:
        """What was sealed, opened and read. Raises `Unreadable`."""
        seal = await self.seal()
        if seal.name != found.secret:
            raise Unreadable(
                "this response was kept by a server with another secret ([idempotency] secret), and this one cannot "
                "open it: servers that share a ledger want the same secret",
                code="response_unreadable",
            )

        def opened() -> T:
            plain = seal.unshut(sealed, bound)
            if plain is None:
                raise _altered()
            return read(plain)

        return await beside_if_large(len(sealed), opened)

    async def shut(self, seal: Seal, content: Content, bound: str, size: int, most: int | None) -> bytes | None:
        """What is kept of a response, sealed; None where it has more than `most` bytes. `size`: about how many
        characters it has."""

        def shut() -> bytes | None:
            plain = content.dumped()
            return None if most is not None and len(plain) > most else seal.shut(plain, bound)

        return await beside_if_large(size, shut)

    # -- what runs here -----------------------------------------------------------------------------------------------

    def begin(self, id: str, run: Running, work: Coroutine[Any, Any, None]) -> None:
        """Runs a response behind its caller."""
        self.runs[id] = run

        def ended(_: asyncio.Task[None]) -> None:
            self.runs.pop(id, None)

        self.beside(work).add_done_callback(ended)
        if self._looking is None or self._looking.done():
            self._looking = asyncio.get_running_loop().create_task(self._look())

    def beside(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Does something that its caller need not wait for."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def close(self, seconds: float) -> None:
        """The server goes down, and has no requests any more: waits until what ran has been written, so long at most;
        what still runs then is cut off, and fails."""
        self.closing = True
        if self._looking is not None:
            self._looking.cancel()
        for wait, cut in ((seconds / 2, False), (seconds / 2, True)):
            if cut:
                for task in self._tasks:
                    task.cancel()
            if self._tasks:
                await asyncio.wait(self._tasks, timeout=wait)

    async def _look(self) -> None:
        """Ends what was cancelled or deleted elsewhere, and says whose turn has come, while anything runs."""
        said = set[str]()
        while self.runs and not self.closing:
            watched = {id: run for id, run in self.runs.items() if run.watched}
            begun = {id for id, run in watched.items() if not run.waits}
            if watched:
                with suppress(NotNow):
                    wanted = await self.store.wanted(list(watched), begun - said, OPENING)
                    said = begun
                    for id, run in watched.items():
                        if id not in wanted and run.watched:
                            run.withdraw()
            await asyncio.sleep(LOOK)


def split(events: bytes) -> list[bytes]:
    """The single events of a stream."""
    return [event + b"\n\n" for event in events.split(b"\n\n") if event]


def content_bound(id: str, request: str, key: str) -> str:
    """What a response is sealed for."""
    return f"response {id} {request} {key}"


def events_bound(id: str, number: int, key: str) -> str:
    """What a piece of its stream is sealed for."""
    return f"response events {id} {number} {key}"


def _known(found: StoredResponse | None) -> StoredResponse:
    if found is None:
        raise _unknown()
    return found


def _unknown() -> NotFound:
    return NotFound("no response of that id is kept for this API key", param="id", code="response_not_found")


def _altered() -> Unreadable:
    return Unreadable(
        "what is kept of this response was altered in the database, so it is not given", code="response_altered"
    )
