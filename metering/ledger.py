"""The ledger: an account whose rows outlive the server, one for each request, counted in tokens.

A row is durable before the request is begun, with what it may spend at most. It is settled once, before the last byte
of the answer leaves, with what was made. In between, a checkpoint is written whenever every chain may have made so many
tokens: should the server be killed, the next one settles the row from that. Where the database is away, no request is
begun, and those that run are answered all the same and settled when it is back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from sqlalchemy import Connection, Engine, bindparam, select, update
from sqlalchemy.exc import SQLAlchemyError

from ponder.compute.account import Intent, Progress
from ponder.compute.clock import now
from ponder.compute.errors import PonderError, Unavailable
from ponder.compute.price import Price
from ponder.compute.quota import Drawing
from ponder.compute.usage import Usage
from ponder.metering import leases
from ponder.metering.clock import SharedClock, milliseconds
from ponder.metering.database import Database
from ponder.metering.leases import PLACES, Ask, Kind, Lease, Window
from ponder.metering.limits import Holding, Limits
from ponder.metering.migrate import OtherVersion, prepare
from ponder.metering.processes import LEASE, Process, this_process
from ponder.metering.response_rows import fail_responses
from ponder.metering.tables import counts_of, requests
from ponder.metering.writer import Away, Change, Entry, Leasing, Settled, Writer

CHECKPOINT = 256
"""Tokens of a live chain that may be uncertain after a crash."""
OPENING = 5.0
"""Seconds to wait for a row to be durable before the request is refused."""
SETTLING = 2.0
"""Seconds to wait for a settlement before the answer goes out without it; it is written later."""
IN_TIME = 30.0
"""Seconds before others may have its places in which a request of a server that is cut off has ended."""
RETRY = 5
"""Seconds after which a refused request may be sent again."""
LONGEST = 512
"""Characters of a caller's own words that a row takes."""


class NoLedger(PonderError):
    """The ledger cannot be used; the message says why."""


class Watch(Protocol):
    """Who is told what the ledger does: the metrics."""

    def settled(self, row: Settled) -> None:
        """A row was settled durably, by this server. On the event loop."""
        ...

    def drifted(self, tokens: int) -> None:
        """So many tokens were made and are in no row."""
        ...

    def committed(self, seconds: float) -> None:
        """A commit took so long. In the ledger's thread."""
        ...

    def limited(self, key: str, kind: Kind, limit: int, left: int) -> None:
        """So much is left of a limit of a key, in tokens, nano-USD or requests, as far as this server knows."""
        ...


class Ledger:
    """An `Account` that is durable. Made by `open_ledger`."""

    def __init__(
        self,
        place: Database,
        engine: Engine,
        watch: Watch,
        *,
        checkpoint: int = CHECKPOINT,
        days: int | None = None,
        clock: Callable[[], int] = milliseconds,
        lease: float = LEASE,
        writer: type[Writer] = Writer,
    ) -> None:
        """`checkpoint`: tokens of each live chain that may be uncertain after a crash. `days`: how long settled rows
        are kept; None is for ever. `clock` gives milliseconds since 1970. `lease`: seconds of silence after which
        another server is dead, the same for all that share the ledger. `writer` commits what is told it."""
        self.place = place
        self.process: Process = this_process()
        self.reserved = 0
        """Tokens that requests with an open row may make at most."""
        self._checkpoint, self._watch, self._clock = checkpoint, watch, clock
        self._writer = writer(
            engine,
            self.process,
            checkpoint,
            self._settled,
            watch.drifted,
            watch.committed,
            _recover,
            days,
            clock,
            lease,
        )
        alone = place.file is not None
        left = None if alone else lambda: lease + PLACES / 1000 - IN_TIME - self._writer.silent
        self._limits = Limits(_Leases(self._writer), clock, watch.limited, left)

    async def start(self) -> None:
        """Signs this server in, and settles what dead ones have left open. Raises `NoLedger`."""
        try:
            await asyncio.to_thread(self._writer.start)
        except SQLAlchemyError as error:
            raise NoLedger(f"the ledger ({self.place}) cannot be written to: {_kind(error)}") from None

    async def close(self) -> None:
        """Writes what is owed and signs this server out."""
        self._limits.close()
        await self._writer.close()

    @property
    def away(self) -> bool:
        """The database does not answer, or cannot write: no request is begun."""
        return self._writer.away

    @property
    def now_ms(self) -> int:
        """The moment by the clock that windows of limits go by, in milliseconds since 1970."""
        return self._clock()

    @property
    def unsettled(self) -> int:
        """Requests with an open row: those that run, and those whose settlement waits for the database."""
        return self._writer.unsettled

    async def reserve(self, intent: Intent) -> LedgerBill:
        """Opens a row, durably, and reserves from the limits of its key. Raises `Unavailable` where that cannot be in
        the time the request has, `UsedUp` and `TooBusy` where a limit does not allow it."""
        if self.away:
            raise _unavailable()
        values = _opened(intent, self._clock())
        if intent.quota is None:
            return await self._open(intent, values, None)
        try:
            async with asyncio.timeout(min(OPENING, intent.timeout)):
                holding = await self._limits.begin(intent, values["begun_ms"])
        except TimeoutError:
            raise _unavailable() from None
        try:
            return await self._open(intent, values, holding)
        except BaseException:
            if holding is not None:
                holding.drop()
            raise

    async def _open(self, intent: Intent, values: dict[str, Any], holding: Holding | None) -> LedgerBill:
        entry = Entry(values, _counts(Usage(), 0, None) | _ending(values, None, "turned_away", 0.0, self._clock()))
        if holding is not None:
            entry.windows = holding.windows
        opened = asyncio.get_running_loop().create_future()
        self._writer.put(Change("open", entry, done=opened))
        try:
            async with asyncio.timeout(min(OPENING, intent.timeout)):
                await opened
        except Away:
            raise _unavailable() from None
        except TimeoutError:
            self._undo(entry)
            raise _unavailable() from None
        except asyncio.CancelledError:
            self._undo(entry)
            raise
        if holding is not None and not holding.of(entry.epoch):
            # What was reserved has gone to others, who took this process for dead.
            self._limits.fenced(entry.epoch)
            self._undo(entry)
            raise _unavailable()
        self._writer.unsettled += 1
        self.reserved += entry.values["reserved"]
        holds = None if holding is None else (holding, not intent.whole)
        return LedgerBill(self._writer, entry, intent.price, self._checkpoint, self._closed, self._clock, holds)

    def _undo(self, entry: Entry) -> None:
        """Closes a row that was opened for nothing, or may be yet."""
        entry.void = True
        self._writer.put(Change("settle", entry, entry.nothing))

    def _closed(self, entry: Entry) -> None:
        self.reserved -= entry.values["reserved"]

    def _settled(self, rows: Sequence[Settled]) -> None:
        for row in rows:
            self._watch.settled(row)


class LedgerBill:
    """The row of one request. A `Bill` that follows its request."""

    used: Callable[[Usage], None] | None = None

    def __init__(
        self,
        writer: Writer,
        entry: Entry,
        price: Price | None,
        checkpoint: int,
        closed: Callable[[Entry], None],
        clock: Callable[[], int],
        holds: tuple[Holding, bool] | None,
    ) -> None:
        """`holds`: what is reserved from the limits of its key, and whether its calls draw from them."""
        self._writer, self._entry, self._price, self._closed = writer, entry, price, closed
        self._clock, self._holds = clock, holds
        self.every = max(1, checkpoint // 2)
        """The other half is for what is made until the row is durable."""
        self._began = now()
        self._progress: Callable[[], Progress] | None = None
        self._looking = self._again = False
        self._settling: asyncio.Future[None] | None = None

    @property
    def drawing(self) -> Drawing | None:
        return self._holds[0] if self._holds is not None and self._holds[1] else None

    def headers(self) -> Mapping[str, str]:
        return {} if self._holds is None else self._holds[0].headers()

    def when_revoked(self, stop: Callable[[], None]) -> None:
        if self._holds is not None:
            self._holds[0].when_revoked(stop)

    def follow(self, progress: Callable[[], Progress]) -> None:
        self._progress = progress

    def look(self) -> None:
        """Has a checkpoint written; one at a time, and what has happened meanwhile by the next."""
        if self._looking:
            self._again = True
        elif self._settling is None:
            self._looking = True
            asyncio.get_running_loop().call_soon(self._write)

    def _write(self) -> None:
        """All that begins at the same moment is seen together."""
        if self._progress is None or self._settling is not None:
            return
        progress = self._progress()
        self._again = False
        written: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        written.add_done_callback(self._written)
        values = _counts(progress.usage, max(1, progress.open), self._price)
        self._writer.put(Change("checkpoint", self._entry, values, written))

    def _written(self, written: asyncio.Future[None]) -> None:
        self._looking = False
        if written.exception() is None and self._again:
            self.look()

    async def settle(self, usage: Usage, ending: str) -> None:
        """Returns when the row is durable; where that takes long it is written later, and the answer need not wait."""
        if self._settling is None:
            progress = None if self._progress is None else self._progress()
            ended = _ending(self._entry.values, progress, ending, now() - self._began, self._clock())
            values = _counts(usage, 0, self._price) | ended
            self._settling = asyncio.get_running_loop().create_future()
            self._settling.add_done_callback(_heard)
            self._writer.put(Change("settle", self._entry, values, self._settling))
            self._closed(self._entry)
            if self._holds is not None:
                self._holds[0].settle(values)
        if self._writer.away:
            return
        try:
            async with asyncio.timeout(SETTLING):
                await asyncio.shield(self._settling)
        except (Away, TimeoutError):
            return


def _heard(future: asyncio.Future[None]) -> None:
    """What went wrong is known: the settlement is owed."""
    if not future.cancelled():
        future.exception()


class _Leases:
    """Leases by way of the writer."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer

    def lease(self, ask: Ask, heard: Callable[[Lease | None, int], None]) -> None:
        self._writer.lease(Leasing(ask, heard))

    def give_back(self, window: Window, amount: int, epoch: int, lost: Callable[[], None]) -> None:
        self._writer.lease(Leasing(Ask(window, 0, 0, first=False), lambda _, __: lost(), amount, epoch))


async def open_ledger(
    place: Database,
    watch: Watch,
    *,
    checkpoint: int = CHECKPOINT,
    days: int | None = None,
    owners: Mapping[str, str] | None = None,
    clock: Callable[[], int] | None = None,
    wall: Callable[[], int] = milliseconds,
    lease: float = LEASE,
) -> Ledger:
    """A ledger that is ready: its tables made or brought to this version, what dead servers left settled. The numbers
    are as for `Ledger`, `owners` as for `migrate`. `wall`: the time as this machine has it; `clock` left out, that of a
    PostgreSQL goes before. Raises `NoLedger`."""

    def prepared() -> Engine:
        engine = place.engine(long=True)
        prepare(place, engine, owners)
        engine.dispose()
        return place.engine()

    try:
        engine = await asyncio.to_thread(prepared)
    except OtherVersion as error:
        raise NoLedger(str(error)) from None
    except OSError as error:
        raise NoLedger(
            f"the ledger ({place}) cannot be opened: {_kind(error)}. [ledger] url names another place, or none"
        ) from None
    except SQLAlchemyError as error:
        raise NoLedger(f"the ledger ({place}) cannot be opened: {_kind(error)}") from None
    here = wall if place.file is not None else SharedClock(wall)
    ledger = Ledger(place, engine, watch, checkpoint=checkpoint, days=days, clock=clock or here, lease=lease)
    await ledger.start()
    return ledger


def _kind(error: Exception) -> str:
    """An error in words, without what it quotes."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    original = getattr(error, "orig", None) or error
    first = str(original).partition("\n")[0]
    return f"{type(original).__name__}: {first}" if "password" not in first else type(original).__name__


def _unavailable() -> Unavailable:
    return Unavailable(
        "the ledger of this server cannot be written to, so nothing is begun: try again later",
        code="ledger_unavailable",
        retry_after=RETRY,
    )


# -- rows -------------------------------------------------------------------------------------------------------------


def _opened(intent: Intent, now_ms: int) -> dict[str, Any]:
    price = intent.price
    return {
        "id": intent.request,
        "begun_ms": now_ms,
        "key": intent.owner,
        "key_id": intent.key_id,
        "model": intent.model,
        "strategy": intent.strategy,
        "verifier": intent.verifier,
        "budget_asked": intent.asked,
        "budget": intent.thinking,
        "reserved": intent.thinking + intent.answer,
        "chains": intent.answers,
        "user": None if intent.user is None else storable(intent.user),
        "metadata": {storable(name): storable(value) for name, value in intent.metadata.items()} or None,
        "price_version": price and price.version,
        "price_prompt": price and price.prompt,
        "price_cached": price and price.cached,
        "price_thinking": price and price.thinking,
        "price_answer": price and price.answer,
        "price_verifier": price and price.verifier,
    }


def storable(text: str) -> str:
    """A caller's word as rows have it, which PostgreSQL and UTF-8 can take: no NUL, no half of a surrogate pair, of
    bounded length. Whoever looks for one looks for it so."""
    if not text.isascii():
        text = text.encode("utf-8", "replace").decode()
    return text.replace("\0", "\ufffd")[:LONGEST]


def _counts(usage: Usage, chains: int, price: Price | None) -> dict[str, int]:
    return {
        "chains": chains,
        **counts_of(usage),
        "cost_nano_usd": 0 if price is None else price.cost(usage),
    }


def _ending(
    opened: Mapping[str, Any], progress: Progress | None, ending: str, seconds: float, now_ms: int
) -> dict[str, Any]:
    return {
        "samples": 0 if progress is None else progress.samples,
        # A clock that was set back meanwhile makes no request end before it began.
        "settled_ms": max(now_ms, opened["begun_ms"]),
        "stopped_by": None if progress is None else progress.stopped_by,
        "receipt": None if progress is None else progress.receipt(),
        "outcome": ending,
        "seconds": round(seconds, 6),
    }


_RECOVERED = update(requests).where(requests.c.id == bindparam("_id"), requests.c.settled_ms.is_(None))


def _recover(connection: Connection, process: Process, epoch: int, checkpoint: int | None) -> Sequence[Settled]:
    """Settles the open rows of a dead process from their last checkpoints, which were so far apart; None: it was
    silent, and may not have been able to write them. What it ran behind its callers has failed."""
    fail_responses(connection, process.id, epoch)
    rows = connection.execute(
        select(requests).where(
            requests.c.owner == process.id, requests.c.epoch <= epoch, requests.c.settled_ms.is_(None)
        )
    ).mappings()
    settled = [{**row, **as_last_seen(row, checkpoint)} for row in rows]
    if settled:
        changed = ("settled_ms", "outcome", "uncertain", "chains")
        connection.execute(
            _RECOVERED,
            [{"_id": row["id"], **{name: row[name] for name in changed}} for row in settled],
        )
    leases.leave(connection, process.id, settled, silent=checkpoint is None)
    return settled


def as_last_seen(row: Mapping[Any, Any], checkpoint: int | None) -> dict[str, Any]:
    """What a row becomes whose server died: the tokens that were seen, and at most how many were not. `checkpoint` is
    that server's; where it is not known, all that is left of what was reserved is uncertain."""
    unseen = max(0, row["reserved"] - row["thinking"] - row["answer"])
    return {
        "settled_ms": max(milliseconds(), row["begun_ms"]),
        "outcome": "lost",
        "uncertain": unseen if checkpoint is None else min(unseen, row["chains"] * checkpoint),
        "chains": 0,
    }
