"""How much work runs and how much waits: bounded in requests and chains, fair between keys, closed while the server
drains.

Whose turn is next is decided by `ponder.compute.fair_queue`: a turn costs the tokens that the request is likely to
take. Within a key the smaller requests go first, and one turn in eight to whoever has waited longest. A sixteenth of
the places is kept for requests of one chain and for keys that have nothing running: where all others are taken by large
requests for minutes, a small one need not wait for them.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager

from ponder.compute.clock import now
from ponder.compute.errors import TooBusy, Unavailable
from ponder.compute.execute import GRACE
from ponder.compute.fair_queue import FairQueue, Line, Member
from ponder.compute.slots import Slots, kept_of
from ponder.compute.stop import StopSignal
from ponder.metering.metrics import Metrics
from ponder.server.ending import ANSWERING
from ponder.server.plan import Work

MARGIN = 1.5
"""So much longer than reckoned may a request take: one turn in eight is the eldest's, and smaller ones may come."""
RECENT = 16
"""Requests that a running mean is of."""


class Turn(Member):
    """A request's turn: it has come already, or the request waits for it in the queue."""

    def __init__(self, line: Line[Turn], work: Work, metrics: Metrics, seconds: float) -> None:
        super().__init__(line)
        self.work = work
        self.comes: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.kept = False
        """It has one of the places that are kept."""
        self.began: float | None = None
        """`now()` when the place was taken."""
        self.timed = True
        """How long it kept its place says how quick the model is: the model did not go away meanwhile."""
        self._metrics, self._seconds, self._asked = metrics, seconds, now()

    @property
    def size(self) -> int:
        """Its work by powers of two: those of one size go in the order they came."""
        return int(self.work.tokens).bit_length()

    @property
    def has_come(self) -> bool:
        """True also for a request that was cancelled before it noticed."""
        return self.comes.done() and not self.comes.cancelled() and self.comes.exception() is None

    async def wait(self, patience: float) -> None:
        """Returns when it has come. Raises `TooBusy` after `patience` seconds, `Unavailable` when the server goes
        down meanwhile."""
        if not self.has_come:
            try:
                async with asyncio.timeout(patience):
                    await self.comes
            except TimeoutError:
                self._metrics.rejected("waited")
                raise TooBusy(
                    "no place became free in the time this request has", code="server_busy", retry_after=self._seconds
                ) from None
        self.began = now()
        self._metrics.waited(self.began - self._asked)


class _Places:
    """Places of one kind: so many requests, with so many chains together."""

    def __init__(self, requests: int, chains: int) -> None:
        self.requests, self.chains = requests, chains

    def has(self, chains: int) -> bool:
        """There is room for a request that may ask for so many chains."""
        return self.requests > 0 and self.chains >= chains

    def take(self, chains: int) -> None:
        self.requests -= 1
        self.chains -= chains

    def give(self, chains: int) -> None:
        self.requests += 1
        self.chains += chains


class Admission:
    """The places of one server, and the stop signals of those who have one."""

    def __init__(self, running: int, waiting: int, metrics: Metrics, *, chains: int = 4096, keys: int = 1) -> None:
        """`running` requests at a time with `chains` together, and `waiting` beside them; of so many `keys`."""
        self.draining = False
        self.inside = 0
        """Requests that run."""
        self.queued = 0
        """Requests that wait."""
        self._most, self._queue_most, self._keys, self._metrics = running, waiting, keys, metrics
        kept, kept_chains = kept_of(running), kept_of(chains)
        self._largest = chains - kept_chains
        self._free = _Places(running - kept, self._largest)
        self._kept = _Places(kept, max(kept, kept_chains))
        self._queue: FairQueue[Turn] = FairQueue(1.0)
        self._sizes: dict[Line[Turn], Counter[int]] = {}
        """Tokens that wait, by key and size."""
        self._inside: dict[Line[Turn], set[Turn]] = {}
        """Those that run, by key."""
        self._stop_signals: set[StopSignal] = set()
        self._hurried = asyncio.Event()
        self._seconds = 1.0
        """How long a place is kept, running mean."""
        self._tokens = 0.0
        """What a request takes, running mean."""
        self._ended = 0

    def expect(self, keys: int) -> None:
        """There are so many keys from now on."""
        self._keys = max(1, keys)

    def check(self, owner: str, weight: float = 1.0) -> None:
        """Raises `Unavailable` while draining and `TooBusy` where nobody, or nobody more of this key, may come in.
        Called before a body is read."""
        if self.draining:
            self._metrics.rejected("draining")
            raise Unavailable("the server is going down; ask another or try again", code="draining", retry_after=5)
        if self.inside >= self._most:
            self._may_wait(self._queue.line(owner, weight))

    @asynccontextmanager
    async def place(self, stop_signals: Sequence[StopSignal], work: Work, patience: float) -> AsyncGenerator[Turn]:
        """A place, or a position in the queue, until the block is left. Await the turn before any work. The stop
        signals are set when a drain takes too long. Raises `TooBusy` and `Unavailable` at once, also where it is not
        likely to be answered within `patience` seconds."""
        self.check(work.owner, work.weight)
        turn = Turn(self._queue.line(work.owner, work.weight), work, self._metrics, self._seconds)
        self._come(turn, patience)
        self._stop_signals.update(stop_signals)
        try:
            yield turn
        finally:
            self._stop_signals.difference_update(stop_signals)
            if turn.began is not None and turn.timed:
                self._ended += 1
                part = 1 / min(self._ended, RECENT)
                self._seconds += (now() - turn.began - self._seconds) * part
                self._tokens += (work.tokens - self._tokens) * part
            if turn.has_come:
                self._leave(turn)
            elif turn in turn.line.waiting:
                self._out_of_queue(turn)
                self._grant()

    def waiting_for(self, slots: Slots) -> int:
        """Chains of a model that the requests which wait may ask for at the same time."""
        waiting = (turn for line in self._queue.lines for turn in line.eldest)
        return sum(self._chains(turn) for turn in waiting if (of := turn.work.share) is not None and of.slots is slots)

    # -- in ----------------------------------------------------------------------------------------------------------

    def _come(self, turn: Turn, patience: float) -> None:
        self._in_time(turn, patience)
        chains = self._chains(turn)
        small = turn.work.chains <= 1 or turn.line.held == 0
        if not self.queued and self._free.has(chains):
            self._give(turn, self._free)
            return
        if small and self._kept.has(chains) and not turn.line.small:
            turn.kept = True
            self._give(turn, self._kept)
            return
        self._may_wait(turn.line)
        self.queued += 1
        self._sizes.setdefault(turn.line, Counter())[turn.size] += int(turn.work.tokens) + 1
        self._queue.enter(turn, turn.size, small=small)
        self._metrics.queued(self.queued)
        self._grant()

    def _chains(self, turn: Turn) -> int:
        """What it counts for: one with more chains than may ever run at a time runs alone."""
        return min(turn.work.chains, self._largest)

    def _may_wait(self, line: Line[Turn]) -> None:
        """Raises `TooBusy` where nobody, or nobody more of this key, may wait."""
        if self.queued >= self._queue_most:
            self._metrics.rejected("busy")
            raise TooBusy(
                f"{self.inside} requests run and {self.queued} wait, which is all this server takes",
                code="server_busy",
                retry_after=self._seconds * (self.queued + 1) / self._most,
            )
        if self._keys > 1 and (own := len(line.waiting)) >= (share := self._share(line)):
            self._metrics.rejected("key_share")
            raise TooBusy(
                f"{own} requests of this API key wait, which is its share of {share} of this server's queue",
                code="server_busy",
                retry_after=self._seconds * (own + 1) / self._most,
            )

    def _share(self, line: Line[Turn]) -> int:
        """How many requests of a key may wait, as things are. Nobody has the whole queue: there is room for one key
        more than wait."""
        waiting = [other for other in self._queue.lines if other.waiting or other is line]
        weights = sum(other.weight for other in waiting)
        more = line.weight if len(waiting) < self._keys else 0.0
        return max(1, int(self._queue_most * line.weight / (weights + more)))

    def _in_time(self, turn: Turn, patience: float) -> None:
        """Raises `TooBusy` for a request that is not likely to be answered, or to begin, in the time it has."""
        share = turn.work.share
        if share is not None and share.slots.waiting:
            wait = self._answered(turn, share.slots)
        elif self.inside >= self._most:
            wait = self._begun(turn)
        else:
            return
        if wait > patience - min(GRACE, patience / 10):
            self._metrics.rejected("deadline")
            raise TooBusy(
                f"there is so much to do that this request would take about {wait:.0f} s, and it has {patience:.0f}: "
                "give it more time, or send it later",
                code="deadline_out_of_reach",
                retry_after=wait - patience,
            )

    def _answered(self, turn: Turn, slots: Slots) -> float:
        """Seconds until it is likely to have its tokens: those that the requests of its key still want come first, of
        each as many as it wants itself, and its key has its part of all the model makes."""
        line, wants = turn.line, turn.work.tokens
        weights = sum(other.weight for other in self._queue.lines if other.held or other.waiting or other is line)
        before = self._waiting_before(turn)
        for other in self._inside.get(line, ()):
            if other.work.share is not None and other.work.share.slots is slots:
                before += min(wants, max(0.0, other.work.tokens - other.work.share.served))
        return MARGIN * (before + wants) * weights / line.weight / slots.rate if slots.rate else 0.0

    def _begun(self, turn: Turn) -> float:
        """Seconds until its turn, by how fast places became free lately; 0 where that is not known yet."""
        if not self._ended or not self.inside:
            return 0.0
        weights = sum(other.weight for other in self._queue.lines if other.waiting or other is turn.line)
        rate = self._tokens * self.inside / max(1e-6, self._seconds)
        return (self._waiting_before(turn) * weights / turn.line.weight + self._tokens) / rate

    def _waiting_before(self, turn: Turn) -> float:
        """Tokens of those of its key who wait and go before it."""
        sizes = self._sizes.get(turn.line, Counter())
        return float(sum(tokens for size, tokens in sizes.items() if size <= turn.size))

    # -- out ----------------------------------------------------------------------------------------------------------

    def _give(self, turn: Turn, places: _Places) -> None:
        places.take(self._chains(turn))
        self.inside += 1
        self._inside.setdefault(turn.line, set()).add(turn)
        self._queue.charge(turn, max(1.0, turn.work.tokens))
        turn.comes.set_result(None)

    def _out_of_queue(self, turn: Turn) -> None:
        self.queued -= 1
        sizes = self._sizes[turn.line]
        sizes[turn.size] -= int(turn.work.tokens) + 1
        if not sizes[turn.size]:
            del sizes[turn.size]
        self._queue.leave(turn)
        self._metrics.queued(self.queued)

    def _leave(self, turn: Turn) -> None:
        (self._kept if turn.kept else self._free).give(self._chains(turn))
        self.inside -= 1
        self._inside[turn.line].discard(turn)
        cost = max(1.0, turn.work.tokens)
        self._queue.settle(turn, cost, cost)
        self._grant()

    def _grant(self) -> None:
        """Gives what is free to those who wait."""
        for places, kept in ((self._free, False), (self._kept, True)):
            while (turn := self._queue.next(small=kept)) is not None and places.has(self._chains(turn)):
                self._out_of_queue(turn)
                if not turn.comes.done():
                    turn.kept = kept
                    self._give(turn, places)

    # -- the end ------------------------------------------------------------------------------------------------------

    async def drain(self, seconds: float) -> None:
        """Takes no new requests and refuses those that wait. Those that run have `seconds` to finish; of these a tenth
        is kept for answering with their best so far (`GRACE` seconds at most, as before a deadline). Returns when all
        have ended, at the latest `ANSWERING` seconds behind that."""
        self.draining = True
        for turn in [turn for line in self._queue.lines for turn in line.eldest]:
            self._out_of_queue(turn)
            if not turn.comes.done():
                turn.comes.set_exception(Unavailable("the server is going down", code="draining", retry_after=5))
        kept = min(GRACE, seconds / 10)
        await self._empty(seconds - kept, self._hurried)
        for stop_signal in list(self._stop_signals):
            stop_signal.set("draining", kept + ANSWERING / 2)
        await self._empty(kept + ANSWERING, asyncio.Event())

    def hurry(self) -> None:
        """A drain no longer waits: those that run answer with their best so far."""
        self._hurried.set()

    async def _empty(self, seconds: float, enough: asyncio.Event) -> None:
        end = now() + seconds
        while self.inside and now() < end and not enough.is_set():  # noqa: ASYNC110 - once in a server's life
            await asyncio.sleep(0.02)
