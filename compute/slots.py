"""The slots of one model: how many calls it works on at a time, and whose is the next one.

A model's own queue is first come, first served: whoever asks for 64 chains has the next 64 turns. So calls wait here
and not there, and the model is given as many as it works on. `ponder.compute.fair_queue` says who is next. A call
that has a slot keeps it to its end.

Slots are full of long chains when a short request comes. So a sixteenth is kept for those who have had nothing yet: the
first call of a request need not wait for the end of anybody's chain.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from ponder.compute.clock import now
from ponder.compute.fair_queue import FairQueue, Line, Member

KEPT = 16
"""One slot in so many is kept for first calls; one at least, of so few as half of that."""

READING = 0.5
"""What a token read costs, in tokens written; one from the prefix cache costs nothing."""


def kept_of(places: int) -> int:
    """How many of so many places are kept for those who have none."""
    return max(places // KEPT, int(places >= KEPT // 2))


@dataclass(frozen=True, slots=True)
class Slot:
    """A slot that was given: what was charged for it in tokens, whether it is one of those kept for first calls, and
    since when it is held (`now()`)."""

    charged: float
    kept: bool
    began: float


class Slots:
    """The slots of one model, for one event loop."""

    def __init__(self, places: int, typical: float) -> None:
        """`places`: calls that the model works on at a time. `typical`: tokens of a usual one."""
        self.places = places
        self.kept = kept_of(places)
        self.free = places - self.kept
        self.queue: FairQueue[Share] = FairQueue(typical)
        self.waiting = 0
        """Calls that wait."""
        self._pace = typical, 0.0
        """Tokens and seconds of a call, running means."""
        self.on_wait: Callable[[float], None] | None = None
        """Told how many seconds a call has waited that had to."""

    @property
    def held(self) -> int:
        """Calls that have a slot."""
        return self.places - self.free - self.kept

    @property
    def load(self) -> float:
        """Calls that wait, for each slot."""
        return self.waiting / self.places

    @property
    def seconds(self) -> float:
        """What a call takes, as calls were lately; 0 before one has ended."""
        return self._pace[1]

    @property
    def rate(self) -> float:
        """Tokens a second that the model makes with all slots taken, as calls were lately; 0 before one has ended."""
        tokens, seconds = self._pace
        return self.places * tokens / seconds if seconds else 0.0

    def resize(self, places: int) -> None:
        """The model works on so many calls at a time from now on. Of more slots, those who wait have some at once; of
        fewer, nobody has another before enough were given back."""
        kept = kept_of(places) - kept_of(self.places)
        self.free += places - self.places - kept
        self.kept += kept
        self.places = places
        self._hand_out()

    def share(self, owner: str, weight: float = 1.0) -> Share:
        """The share of a request, by the name of its key and that key's weight."""
        return Share(self, self.queue.line(owner, weight))

    def ended(self, used: float, seconds: float) -> None:
        """A call is over, which has cost so many tokens."""
        if used > 0:
            tokens, taken = self._pace
            part = 1 / 32 if taken else 1.0
            self._pace = tokens + (used - tokens) * part, taken + (seconds - taken) * part

    def given_back(self, *, kept: bool) -> None:
        """A slot is free: whoever is next has it."""
        if kept:
            self.kept += 1
        else:
            self.free += 1
        self._hand_out()

    def _hand_out(self) -> None:
        """Whoever is next has what is free."""
        while self.free > 0 and (share := self.queue.next()) is not None:
            self.free -= share.granted(kept=False)
        while self.kept > 0 and (share := self.queue.next(small=True)) is not None:
            self.kept -= share.granted(kept=True)


@dataclass(eq=False, slots=True)
class _Call:
    """A call that waits for a slot."""

    most: float
    """Tokens it may cost."""
    urgent: bool
    comes: asyncio.Future[Slot]


class Share(Member):
    """What one request has of a model's slots. Its calls wait one behind the other."""

    __slots__ = ("_calls", "_held", "_lent", "_slots", "_urgent", "served")

    def __init__(self, slots: Slots, line: Line[Share]) -> None:
        super().__init__(line)
        self._slots = slots
        self._calls: deque[_Call] = deque()
        self._urgent = 0
        """The first so many of them are urgent."""
        self._held = 0
        self._lent = 0
        """Of the slots it has, so many were given back already."""
        self.served = 0.0
        """Tokens its calls have cost; for those under way, what was charged."""

    @property
    def slots(self) -> Slots:
        """The model's."""
        return self._slots

    def take(self, most: float) -> Slot | None:
        """A slot for a call that may cost so many tokens, where one is free that nobody waits for."""
        slots = self._slots
        if slots.free > 0:
            # As long as one of these is free, nobody waits.
            slots.free -= 1
            return self._charged(most, kept=False)
        if slots.kept > 0 and self.served <= 0:
            slots.kept -= 1
            return self._charged(most, kept=True)
        return None

    async def turn(self, most: float, *, urgent: bool = False) -> Slot:
        """The same, waited for. `urgent`: before the other calls of its key, as there is no time left."""
        slots, began = self._slots, now()
        call = _Call(most, urgent, asyncio.get_running_loop().create_future())
        if urgent:
            self._calls.appendleft(call)
            self._urgent += 1
        else:
            self._calls.append(call)
        slots.waiting += 1
        self._wait()
        try:
            slot = await call.comes
        except asyncio.CancelledError:
            if not call.comes.cancelled():
                self.give(call.comes.result(), 0)
            elif call in self._calls:
                self._calls.remove(call)
                self._gone(call)
            raise
        if slots.on_wait is not None:
            slots.on_wait(now() - began)
        return slot

    def give(self, slot: Slot, used: float, *, timed: bool = True) -> None:
        """A call is over, which has cost so many tokens. `timed`: how long it took tells how quick the model is."""
        slots = self._slots
        self._held -= 1
        if timed:
            slots.ended(used, now() - slot.began)
        self.served += used - slot.charged
        slots.queue.settle(self, slot.charged, used)
        if self._calls:
            self._wait()
        if self._lent:
            self._lent -= 1
            slots.free -= 1
        slots.given_back(kept=slot.kept)

    def lend(self) -> None:
        """Gives up a slot before its call is over, which cannot go on because its reader does not: others need not wait
        for that reader."""
        if self._held > self._lent:
            self._lent += 1
            self._slots.given_back(kept=False)

    def granted(self, *, kept: bool) -> bool:
        """Its first call has a slot; False where that was cancelled and has not noticed yet, so it needs none."""
        call = self._calls.popleft()
        if not call.comes.done():
            call.comes.set_result(self._charged(call.most, kept=kept))
        self._gone(call)
        return not call.comes.cancelled()

    def _gone(self, call: _Call) -> None:
        """A call waits no more."""
        self._slots.waiting -= 1
        self._urgent -= call.urgent
        self._wait()

    def _charged(self, most: float, *, kept: bool) -> Slot:
        charged = max(1.0, min(most, self.line.mean))
        self._slots.queue.charge(self, charged)
        self.served += charged
        self._held += 1
        return Slot(charged, kept, now())

    def _wait(self) -> None:
        """Takes its place in the queue, or leaves it."""
        queue = self._slots.queue
        if not self._calls:
            queue.leave(self)
        elif self._urgent:
            queue.enter(self, -1.0, small=True)
        else:
            queue.enter(self, self.served, small=self.served <= 0)
