"""The rules of `server/admission.py` and `compute/slots.py`, over the same fair queue, for events in place of futures.

What is left out: requests refused because their time would not do, and urgent calls. With `fair=False` whoever came
first is next, nothing is kept for anybody, and all callers are one.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from ponder.compute.fair_queue import FairQueue, Line, Member
from ponder.compute.slots import kept_of


@dataclass(eq=False, slots=True)
class Call:
    """One chain's call to a replica, as far as turns go."""

    share: Share
    most: float
    """Tokens it may cost."""
    asked: float = 0.0
    """When it asked for its slot."""
    charged: float = 0.0
    kept: bool = False
    held: bool = False
    """It has a slot."""


class Slots:
    """A model's slots, as one door counts them."""

    def __init__(self, places: int, typical: float, *, fair: bool = True) -> None:
        self.places, self.fair = places, fair
        self.kept = kept_of(places) if fair else 0
        self.free = places - self.kept
        self.queue: FairQueue[Share] = FairQueue(typical)
        self.waiting = self.asked = 0

    def give(self, call: Call, used: float) -> list[Call]:
        """A call that had a slot is over, and has cost so many tokens. Returns those that have one now."""
        share = call.share
        call.held = False
        share.served += used - call.charged
        self.queue.settle(share, call.charged, used)
        if share.calls:
            share.wait()
        if call.kept:
            self.kept += 1
        else:
            self.free += 1
        granted: list[Call] = []
        while self.free > 0 and (following := self.queue.next()) is not None:
            self.free -= 1
            granted.append(following.granted(kept=False))
        while self.kept > 0 and (following := self.queue.next(small=True)) is not None:
            self.kept -= 1
            granted.append(following.granted(kept=True))
        return granted


class Share(Member):
    """What one request has of the slots of its door."""

    __slots__ = ("_ranks", "calls", "served", "slots")

    def __init__(self, slots: Slots, line: Line[Share]) -> None:
        super().__init__(line)
        self.slots = slots
        self.calls: deque[Call] = deque()
        self._ranks: deque[int] = deque()
        """When each came, among all calls: what first come, first served goes by."""
        self.served = 0.0

    def ask(self, call: Call) -> bool:
        """Whether it has a slot at once; else it waits for one."""
        slots = self.slots
        if slots.free > 0:
            slots.free -= 1
            self._charge(call, kept=False)
            return True
        if slots.kept > 0 and self.served <= 0:
            slots.kept -= 1
            self._charge(call, kept=True)
            return True
        slots.asked += 1
        self.calls.append(call)
        self._ranks.append(slots.asked)
        slots.waiting += 1
        self.wait()
        return False

    def withdraw(self, call: Call) -> None:
        """A call that waits is wanted no more."""
        at = self.calls.index(call)
        del self.calls[at]
        del self._ranks[at]
        self.slots.waiting -= 1
        self.wait()

    def granted(self, *, kept: bool) -> Call:
        """Its first call has a slot."""
        call = self.calls.popleft()
        self._ranks.popleft()
        self._charge(call, kept=kept)
        self.slots.waiting -= 1
        self.wait()
        return call

    def wait(self) -> None:
        """Takes its place in the queue, or leaves it."""
        queue = self.slots.queue
        if not self.calls:
            queue.leave(self)
        elif self.slots.fair:
            queue.enter(self, self.served, small=self.served <= 0)
        else:
            queue.enter(self, self._ranks[0], small=False)

    def _charge(self, call: Call, *, kept: bool) -> None:
        call.charged = max(1.0, min(call.most, self.line.mean))
        call.kept, call.held = kept, True
        self.slots.queue.charge(self, call.charged)
        self.served += call.charged


class Turn(Member):
    """A request at a door."""

    __slots__ = ("chains", "kept", "tokens")

    def __init__(self, line: Line[Turn], chains: int, tokens: float) -> None:
        """`chains` that it may ask for at a time, `tokens` that all of it is likely to take."""
        super().__init__(line)
        self.chains, self.tokens, self.kept = chains, tokens, False


class Admission:
    """The places of a door."""

    def __init__(self, running: int, chains: int, waiting: int, *, fair: bool = True) -> None:
        kept, kept_chains = (kept_of(running), kept_of(chains)) if fair else (0, 0)
        self.inside = self.queued = 0
        self._most, self._fair = waiting, fair
        self._largest = chains - kept_chains
        self._requests, self._chains = running - kept, self._largest
        self._kept, self._kept_chains = kept, max(kept, kept_chains)
        self.queue: FairQueue[Turn] = FairQueue(1.0)
        self._came = 0

    def come(self, turn: Turn) -> bool | None:
        """Whether it may begin; None where it is refused, as too many wait."""
        chains = min(turn.chains, self._largest)
        small = self._fair and (turn.chains <= 1 or turn.line.held == 0)
        if not self.queued and self._has(chains):
            self._give(turn, kept=False)
            return True
        if small and self._kept > 0 and self._kept_chains >= chains and not turn.line.small:
            self._give(turn, kept=True)
            return True
        if self.queued >= self._most:
            return None
        self.queued += 1
        self._came += 1
        self.queue.enter(turn, int(turn.tokens).bit_length() if self._fair else self._came, small=small)
        return False

    def leave(self, turn: Turn) -> list[Turn]:
        """It is over. Returns those that may begin now."""
        chains = min(turn.chains, self._largest)
        if turn.kept:
            self._kept += 1
            self._kept_chains += chains
        else:
            self._requests += 1
            self._chains += chains
        self.inside -= 1
        cost = max(1.0, turn.tokens)
        self.queue.settle(turn, cost, cost)
        granted: list[Turn] = []
        for kept in (False, True):
            while (following := self.queue.next(small=kept)) is not None:
                chains = min(following.chains, self._largest)
                if not (self._kept > 0 and self._kept_chains >= chains if kept else self._has(chains)):
                    break
                self.queued -= 1
                self.queue.leave(following)
                self._give(following, kept=kept)
                granted.append(following)
        return granted

    def _has(self, chains: int) -> bool:
        return self._requests > 0 and self._chains >= chains

    def _give(self, turn: Turn, *, kept: bool) -> None:
        chains = min(turn.chains, self._largest)
        turn.kept = kept
        if kept:
            self._kept -= 1
            self._kept_chains -= chains
        else:
            self._requests -= 1
            self._chains -= chains
        self.inside += 1
        self.queue.charge(turn, max(1.0, turn.tokens))
