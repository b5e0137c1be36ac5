"""A fleet in events: doors with their queues, routing, replicas as continuous batches, and replicas that fail.

Deterministic by seed. An event is the coming of a request or the end of a chain, never a token, so a million requests
take minutes. `tests/evaluation/test_planning.py` holds it against the real server over scripted engines.

What is coarse: a replica's memory holds every context; a prefix cache holds so many beginnings of prompts, whatever
their length; a door is one processor that handles requests one after the other, slowed
down by what the tokens of its streams take. Deadlines, and work of verifiers, are not here.
"""

from __future__ import annotations

import heapq
import random
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, cast

from ponder.compute.slots import READING
from ponder.evaluation.planning.demand import Asked
from ponder.evaluation.planning.figures import Figures, Spread, Tally
from ponder.evaluation.planning.replica import Costs, Replica
from ponder.evaluation.planning.routing import Router, Rule, mixed
from ponder.evaluation.planning.turns import Admission, Call, Share, Slots, Turn

ARRIVES, READY, ENDS, MOVES, FAILS, MENDS, POLLS = range(7)

WARM = 0.1
"""The part of all requests that come before anything is counted."""
SLOWEST = 0.02
"""Of a door's processor, what requests have at least beside the tokens of its streams."""
LOOKS = 2000
"""Looks that are taken at how even the load is, about."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Doors and replicas. Times in seconds."""

    replicas: int
    costs: Costs
    slots: int
    """Chains that a replica works on at a time."""
    doors: int = 1
    routing: Rule = "bounded"
    fair: bool = True
    """Turns as the server gives them; else first come, first served."""
    divided: bool = True
    """Each door counts its part of the slots; else each counts all, and what is too much waits at the replicas."""
    max_inflight: int = 256
    max_chains: int = 4096
    max_queue: int = 1024
    """A door's, as `ponder serve` has them."""
    request_cpu: float = 0.0
    """Of a door, for a request."""
    token_cpu: float = 0.0
    """Of a door, for a token of a chain."""
    poll: float = 5.0
    """Between two times that a door asks for the loads of replicas; with one door it knows them."""
    kept: int = 512
    """Beginnings of prompts that a replica's cache holds."""
    lives: float = 0.0
    """How long a replica lasts, the mean; 0: for ever."""
    away: float = 60.0
    """How long it is away then."""
    noticed: float = 2.0
    """How long it takes until its chains are gone on with elsewhere."""
    typical: float = 1000.0
    """Tokens of a chain, as far as a door knows before the first."""

    @property
    def capacity(self) -> float:
        """Tokens a second with all slots taken, as long as contexts are short."""
        return self.replicas * self.costs.rate(self.slots)


@dataclass(eq=False, slots=True)
class _Chain(Call):
    """A chain under way: it waits for a slot of its door, or has one and waits for a replica, or runs there."""

    request: _Request = field(kw_only=True)
    number: int = field(kw_only=True)
    whole: int = field(kw_only=True)
    answer: int | None = field(kw_only=True)
    left: float = field(kw_only=True)
    """Tokens to write where it is now."""
    written: float = 0.0
    """On replicas that are gone."""
    read: int = 0
    """Tokens that were read for it and in no cache."""
    context: float = 0.0
    """Tokens in its context when it began where it is now."""
    came: float = 0.0
    """When it came to its replica."""
    where: int = -1
    runs: bool = False
    begun: float = 0.0
    ends: float = 0.0
    over: bool = False


class _Request:
    """A request under way."""

    __slots__ = ("asked", "begun", "chains", "door", "key", "number", "own", "share", "tokens", "turn")

    def __init__(self, number: int, asked: Asked, door: _Door) -> None:
        self.number, self.asked, self.door = number, asked, door
        self.own = mixed(-1 - number)
        """What the cache knows its prompt by."""
        self.key = mixed(asked.group) if asked.group else self.own
        """What it is routed by."""
        owner = asked.owner if door.fair else ""
        self.share = Share(door.slots, door.slots.queue.line(owner, asked.weight))
        chains = asked.pattern.chains
        tokens = chains * min(asked.most, self.share.line.mean) + READING * asked.prompt
        self.turn = Turn(door.admission.queue.line(owner, asked.weight), chains, tokens)
        self.begun = 0
        """Chains, so far."""
        self.chains: list[_Chain] = []
        """Those under way."""
        self.tokens = 0.0


class _Door:
    """A door: its queue, its slots, and what it knows of replicas."""

    __slots__ = ("admission", "busy", "fair", "free_at", "router", "running", "slots", "waiting")

    def __init__(self, layout: Layout, seed: int) -> None:
        places = layout.replicas * layout.slots
        if layout.divided:
            places = max(1, places // layout.doors)
        self.fair = layout.fair
        self.slots = Slots(places, layout.typical, fair=layout.fair)
        self.admission = Admission(layout.max_inflight, layout.max_chains, layout.max_queue, fair=layout.fair)
        self.router = Router(layout.routing, layout.replicas, layout.slots, seed)
        self.waiting: dict[Turn, _Request] = {}
        self.free_at = self.busy = 0.0
        """Seconds: when its processor is free; that it was not."""
        self.running = 0
        """Chains of it that replicas have."""


class Fleet:
    """One simulation of a layout."""

    def __init__(self, layout: Layout, *, seed: int = 0) -> None:
        self._layout = layout
        self._steps = layout.costs.table(layout.slots)
        self._replicas: list[Replica[_Chain]] = [
            Replica(n, self._steps, layout.kept, layout.costs.context) for n in range(layout.replicas)
        ]
        self._doors = [_Door(layout, seed * 1009 + n) for n in range(layout.doors)]
        self._chance = random.Random(f"{seed} failures")  # noqa: S311 (no secret)
        self._events: list[tuple[float, int, int, Any, int]] = []
        self._pushed = 0
        self._now = self._since = 0.0
        self._came = self._count = self._warm = self._open = self._running = 0
        self._used = self._written = 0.0
        """Seconds of slots; tokens of chains that are over."""
        self._window = _Window()
        self._homeless: list[_Chain] = []
        """Chains that have a slot while no replica is up."""
        self._looks: list[float] = []
        self._tally = Tally()

    def run(
        self,
        requests: Iterator[Asked],
        count: int,
        told: Callable[[int], object] | None = None,
        *,
        warm: float = WARM,
    ) -> Figures:
        """Until so many requests have come and been answered; the first of them, the part `warm`, are not counted.
        `told` hears how many more have come."""
        self._count, self._warm = count, int(count * warm)
        layout = self._layout
        if layout.doors > 1 and layout.poll > 0:
            self._at(layout.poll, POLLS, None)
        if layout.lives > 0:
            for replica in self._replicas:
                self._at(self._chance.expovariate(1 / layout.lives), FAILS, replica)
        does: list[Callable[[Any, int], None]] = [
            lambda asked, _: self._arrives(asked, requests, told),
            self._ready,
            self._ends,
            self._moves,
            self._fails,
            self._mends,
            self._polls,
        ]
        self._next(requests)
        events = self._events
        while events and (self._came < count or self._open):
            self._now, _, kind, what, version = heapq.heappop(events)
            does[kind](what, version)
        return self._figures()

    def _at(self, when: float, kind: int, what: Any, version: int = 0) -> None:
        self._pushed += 1
        heapq.heappush(self._events, (when, self._pushed, kind, what, version))

    def _next(self, requests: Iterator[Asked]) -> None:
        asked = next(requests)
        self._at(asked.at, ARRIVES, asked)

    # -- requests ----------------------------------------------------------------------------------------------------

    def _arrives(self, asked: Asked, requests: Iterator[Asked], told: Callable[[int], object] | None) -> None:
        number = self._came
        self._came += 1
        if number == self._warm:
            self._open_window()
        if self._came == self._count:
            self._close_window()
        look = max(1, self._count // LOOKS)
        if self._came % look == 0:
            if number >= self._warm:
                self._look()
            if told is not None:
                told(look)
        door = self._doors[number % len(self._doors)]
        request = _Request(number, asked, door)
        self._open += 1
        if self._layout.request_cpu > 0:
            self._at(self._handled(door), READY, request)
        else:
            self._ready(request, 0)
        if self._came < self._count:
            self._next(requests)

    def _handled(self, door: _Door) -> float:
        """When a request that comes now has been handled by its door, but for what its answer takes."""
        running = max(1, min(self._layout.slots, round(self._running / len(self._replicas))))
        # As if contexts were short: the door has less to do while they are long.
        streams = door.running / self._steps[running] * self._layout.token_cpu
        door.free_at = max(self._now, door.free_at) + self._layout.request_cpu / max(SLOWEST, 1 - streams)
        door.busy += self._layout.request_cpu
        return door.free_at

    def _ready(self, request: _Request, _: int) -> None:
        comes = request.door.admission.come(request.turn)
        if comes:
            self._begin(request)
        elif comes is None:
            self._open -= 1
            self._tally.refused += request.number >= self._warm
        else:
            request.door.waiting[request.turn] = request

    def _begin(self, request: _Request) -> None:
        if request.number >= self._warm:
            self._tally.queued.append(self._now - request.asked.at)
        for _ in range(request.asked.pattern.first()):
            self._draw(request)

    def _draw(self, request: _Request) -> None:
        """One more chain of a request."""
        asked, number = request.asked, request.begun
        tokens = asked.question.chain()
        chain = _Chain(
            request.share,
            asked.most,
            self._now,
            request=request,
            number=number,
            whole=tokens,
            answer=asked.question.answer() if asked.pattern.votes else None,
            left=float(tokens),
        )
        request.begun += 1
        request.chains.append(chain)
        if request.share.ask(chain):
            self._has_slot(chain)

    def _vote(self, chain: _Chain) -> None:
        """A chain has come to its end: whether there are more, and whether others go on."""
        request = chain.request
        pattern = request.asked.pattern
        ages = [self._now - one.asked for one in request.chains] if pattern.votes else ()
        wanted = pattern.ended(chain.number, chain.answer, self._now - chain.asked, ages)
        if wanted > 0:
            while len(request.chains) < wanted and request.begun < pattern.chains:
                self._draw(request)
        if wanted <= 0 or not request.chains:
            self._answered(request)

    def _so_far(self, chain: _Chain) -> float:
        """Tokens of a chain that is under way."""
        return chain.written + (self._replicas[chain.where].written(chain, self._now) if chain.runs else 0.0)

    def _answered(self, request: _Request) -> None:
        for chain in request.chains:
            self._stop(chain)
        request.chains.clear()
        self._open -= 1
        tally, asked = self._tally, request.asked
        if request.number >= self._warm:
            tally.latency.append(self._now - asked.at)
            tally.owners.setdefault(asked.owner, array("d")).append(self._now - asked.at)
            tally.chains += request.begun
            tally.tokens += request.tokens
        if self._warm < self._came < self._count:
            tally.ended += 1
        door = request.door
        for turn in door.admission.leave(request.turn):
            self._begin(door.waiting.pop(turn))

    # -- chains ------------------------------------------------------------------------------------------------------

    def _has_slot(self, chain: _Chain) -> None:
        if chain.request.number >= self._warm:
            self._tally.slot_wait.append(self._now - chain.asked)
        self._route(chain)

    def _route(self, chain: _Chain) -> None:
        request = chain.request
        number = request.door.router.choose(request.key)
        if number is None:
            self._homeless.append(chain)
            return
        replica = self._replicas[number]
        request.door.router.sent(number)
        request.door.running += 1
        chain.where, chain.came = number, self._now
        if replica.running < self._layout.slots:
            self._runs(chain, replica)
            self._expect(replica)
        else:
            replica.waiting.append(chain)

    def _runs(self, chain: _Chain, replica: Replica[_Chain]) -> None:
        """A chain begins on its replica, or goes on there."""
        request, tally = chain.request, self._tally
        asked = request.asked
        if request.number >= self._warm:
            tally.replica_wait.append(self._now - chain.came)
        prompt = asked.prompt
        cached = asked.shared if asked.group and replica.has_read(request.key) else 0
        if replica.has_read(request.own):
            cached = prompt
        again = int(chain.written)
        tally.again += again
        tally.read += prompt
        tally.hit += cached
        chain.read += prompt - cached + again
        chain.context = prompt + chain.written
        self._usage()
        self._running += 1
        replica.add(chain, self._now, (prompt - cached + again) * self._layout.costs.read)

    def _expect(self, replica: Replica[_Chain]) -> None:
        """When the next of its chains ends."""
        if (when := replica.when()) is not None:
            self._at(when, ENDS, replica, replica.version)

    def _ends(self, replica: Replica[_Chain], version: int) -> None:
        if version != replica.version or (chain := replica.first) is None:
            return
        request = chain.request
        request.chains.remove(chain)
        self._leave(chain)
        self._vote(chain)

    def _stop(self, chain: _Chain) -> None:
        """It is wanted no more. The request forgets it itself."""
        if not chain.held:
            chain.over = True
            chain.share.withdraw(chain)
        else:
            self._leave(chain)

    def _leave(self, chain: _Chain) -> None:
        """A chain that has a slot ends, wherever it is."""
        chain.over = True
        request = chain.request
        if chain.where >= 0:
            replica = self._replicas[chain.where]
            request.door.router.over(chain.where)
            request.door.running -= 1
            if chain.runs:
                self._usage()
                self._running -= 1
                chain.written += replica.remove(chain, self._now)
                while replica.waiting and replica.running < self._layout.slots:
                    self._runs(replica.waiting.popleft(), replica)
                self._expect(replica)
            else:
                replica.waiting.remove(chain)
        self._written += chain.written
        request.tokens += chain.written
        request.door.busy += chain.written * self._layout.token_cpu
        for granted in request.door.slots.give(chain, chain.written + READING * chain.read):
            self._has_slot(cast("_Chain", granted))

    # -- replicas ----------------------------------------------------------------------------------------------------

    def _fails(self, replica: Replica[_Chain], _: int) -> None:
        layout = self._layout
        self._usage()
        lost = replica.fail(self._now)
        for chain in lost:
            if chain.runs:
                chain.written += replica.progress(chain)
                self._running -= 1
            chain.left = max(1.0, chain.whole - chain.written)
            door = chain.request.door
            door.router.over(replica.number)
            door.running -= 1
            chain.where, chain.runs = -1, False
            self._tally.moved += 1
            self._at(self._now + layout.noticed, MOVES, chain)
        for door in self._doors:
            door.router.alive(replica.number, False)
        self._at(self._now + self._chance.expovariate(1 / layout.away), MENDS, replica)

    def _moves(self, chain: _Chain, _: int) -> None:
        if not chain.over:
            self._route(chain)

    def _mends(self, replica: Replica[_Chain], _: int) -> None:
        replica.mend(self._now)
        for door in self._doors:
            door.router.alive(replica.number, True)
        self._at(self._now + self._chance.expovariate(1 / self._layout.lives), FAILS, replica)
        homeless, self._homeless = self._homeless, []
        for chain in homeless:
            self._moves(chain, 0)

    def _polls(self, _: object, __: int) -> None:
        loads = [replica.load for replica in self._replicas]
        for door in self._doors:
            door.router.told(loads)
        self._at(self._now + self._layout.poll, POLLS, None)

    # -- figures -----------------------------------------------------------------------------------------------------

    def _usage(self) -> None:
        """Call it before the number of chains that run changes."""
        self._used += self._running * (self._now - self._since)
        self._since = self._now

    def _look(self) -> None:
        loads = [replica.load for replica in self._replicas]
        if whole := sum(loads):
            self._looks.append(max(loads) * len(loads) / whole)

    def _so_far_written(self) -> float:
        """Tokens of all chains."""
        running = (self._so_far(chain) for replica in self._replicas for chain in replica.chains())
        return self._written + sum(running)

    def _open_window(self) -> None:
        self._usage()
        self._window.began, self._window.used, self._window.written = self._now, self._used, self._so_far_written()
        self._window.busy = [door.busy for door in self._doors]

    def _close_window(self) -> None:
        self._usage()
        window = self._window
        window.seconds = max(1e-9, self._now - window.began)
        window.used = self._used - window.used
        window.written = self._so_far_written() - window.written
        window.busy = [door.busy - before for door, before in zip(self._doors, window.busy, strict=True)]

    def _figures(self) -> Figures:
        tally, window, layout = self._tally, self._window, self._layout
        answered = max(1, len(tally.latency))
        return Figures(
            requests=len(tally.latency),
            refused=tally.refused,
            seconds=window.seconds,
            seconds_all=self._now,
            per_second=tally.ended / window.seconds,
            tokens_per_second=window.written / window.seconds,
            latency=Spread.of(tally.latency),
            queued=Spread.of(tally.queued),
            slot_wait=Spread.of(tally.slot_wait),
            replica_wait=Spread.of(tally.replica_wait),
            owners={owner: Spread.of(seconds) for owner, seconds in sorted(tally.owners.items())},
            slots_used=window.used / window.seconds / (layout.replicas * layout.slots),
            uneven=sum(self._looks) / max(1, len(self._looks)),
            cached=tally.hit / max(1, tally.read),
            chains=tally.chains / answered,
            tokens=tally.tokens / answered,
            door_busy=max(window.busy) / window.seconds,
            moved=tally.moved,
            again=tally.again,
        )


@dataclass(slots=True)
class _Window:
    """The time that is counted."""

    began: float = 0.0
    seconds: float = 1.0
    used: float = 0.0
    written: float = 0.0
    busy: list[float] = field(default_factory=list[float])
