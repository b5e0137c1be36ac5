"""The real pool over simulated replicas: servers that die, hang, fall silent and come back, and the ways to them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field, replace

from ponder.compute.engine import Checked, Delta, Engine, Sampling
from ponder.compute.errors import EngineError, Lost
from ponder.compute.slots import Slots
from ponder.compute.text import Hidden, Prompt
from ponder.compute.transcript import Transcript
from ponder.engines.replicas.member import FAILURES, PoolOptions
from ponder.engines.replicas.pool import ReplicaPool
from ponder.engines.replicas.replica import Load, NotTaken
from ponder.testing import MARKER
from ponder.testing.scripted import CARD
from tests.simulation.engine import ABORTED, KILLED, Model, Process, SeededEngine
from tests.simulation.world import FAILING, Fault, World

STALL = 20.0
"""Seconds without a token after which a replica has hung."""
NOTICED = 60.0
"""Seconds at most until somebody kills a server that hangs."""
RESTARTS = 6.0
"""Seconds at most until one that is gone is there again."""
SILENT = 30.0
"""Seconds at most for which nothing of one is heard."""
GIVEN_UP = 2.0
"""Seconds within which all calls of one that is closed have heard of it."""
FAULTY = 4.0
"""Seconds at most for which one takes no calls by its own word."""


VERDICT = 5.0
"""Seconds within which a chain that one has failed goes on, where that one answers at once that it lives."""


@dataclass(frozen=True, slots=True)
class _Failure:
    """A replica has failed a chain, though it lived."""

    url: str
    at: float
    frozen: float
    """Seconds that the machine had stood still by then."""
    falls: int
    """How often the pool had seen it go away."""


class RemoteServer:
    """A server of a replica, and the way to it. It goes on whether anybody looks at it or not."""

    def __init__(self, world: World, number: int, *, steady: bool) -> None:
        self.world, self.number, self.steady = world, number, steady
        self.url = f"http://{number}:1"
        self.process = Process(world, self.url)
        self.silent: asyncio.Event | None = None
        """Set when it is heard again; None while it is."""
        self.troubled = float("-inf")
        """When it, or the way to it, was last not as it should be."""

    def strikes(self, fault: Fault) -> bool:
        """A fault that takes it away from whoever asks it."""
        return not self.steady and self.world.strikes(fault, self.url)

    def suffers(self) -> None:
        """What may happen to it whenever it does anything."""
        process, world = self.process, self.world
        before = self.sound
        self._suffers(process, world)
        if not (before and self.sound):
            self.troubled = world.loop.time()

    @property
    def sound(self) -> bool:
        """It lives, and is heard."""
        return self.process.status is None and not self.process.hung and self.silent is None

    def _suffers(self, process: Process, world: World) -> None:
        if process.status is None:
            dying: tuple[tuple[Fault, int], ...] = (("killed", KILLED), ("crashed", ABORTED))
            for fault, status in dying:
                if self.strikes(fault):
                    process.die(status)
                    world.loop.call_later(world.chance("restart").uniform(0.1, RESTARTS), self._restarts)
                    return
            if not process.hung and self.strikes("hangs"):
                process.hung = True
                world.loop.call_later(world.chance("noticed").uniform(1, NOTICED), self._is_noticed, process.lives)
        if self.silent is None and self.strikes("cut"):
            self.silent = asyncio.Event()
            world.loop.call_later(world.chance("cut").choice((0.3, 1.5, 5.0, SILENT)), self._is_heard)

    def _restarts(self) -> None:
        process, world = self.process, self.world
        if self.strikes("no_start"):
            world.loop.call_later(world.chance("restart").uniform(0.1, RESTARTS), self._restarts)
            return
        process.lives += 1
        process.status, process.hung, process.gone = None, False, asyncio.Event()
        self.troubled = world.loop.time()
        world.log(f"{self.url}: up, life {process.lives}")

    def _is_noticed(self, life: int) -> None:
        if self.process.lives == life and self.process.status is None:
            self.process.die(KILLED)
            self._restarts()

    def _is_heard(self) -> None:
        if self.silent is not None:
            self.silent.set()
        self.silent, self.troubled = None, self.world.loop.time()

    async def heard(self) -> None:
        """Returns when what was asked has got there, and its answer back. Raises as a connection does."""
        while self.silent is not None:
            await self.silent.wait()
        if self.process.status == KILLED:
            raise Lost(f"{self.url}: the connection was refused")
        if self.process.status is not None:
            raise EngineError(f"{self.url}: it says that its engine is dead")


@dataclass
class SeededReplica(SeededEngine):
    """What reaches one server; fulfils `ponder.engines.replicas.replica.Replica`."""

    server: RemoteServer = field(kw_only=True)
    model: Model = field(kw_only=True)
    shut: bool = False
    """It was closed."""
    begun: set[int] = field(default_factory=set[int])
    """Calls that the server has taken, by the ids of their transcripts."""

    @property
    def url(self) -> str:
        return self.server.url

    async def make(self, transcript: Transcript) -> None:
        if id(transcript) not in self.begun:
            await self._taken()
            self.begun.add(id(transcript))
        await super().make(transcript)

    async def _taken(self) -> None:
        """The server takes a call. Raises `NotTaken` where it does not."""
        await self.world.pause(0.05, "way")
        self._open()
        self.server.suffers()
        while self.server.silent is not None:
            await self.server.silent.wait()
        if self.process.status is not None:
            raise NotTaken(f"{self.url}: the connection was refused", retry_after=1.0)
        if self.world.strikes("busy", self.url):
            seconds = FAULTY * self.world.chance("busy").random()
            raise NotTaken(f"{self.url}: it answered 429", retry_after=seconds, answered=True)

    def _open(self) -> None:
        if self.shut:
            raise RuntimeError(f"the session is closed over {MARKER}")

    def _fails(self, transcript: Transcript) -> None:
        """It fails a chain, though it lives."""
        failure = _Failure(self.url, self.world.loop.time(), self.world.frozen, self._falls)
        self.model.failures.setdefault(transcript, []).append(failure)

    @property
    def _falls(self) -> int:
        """How often the pool has seen it go away."""
        pool = self.model.pool
        return 0 if pool is None or self.url not in pool.members else pool.members[self.url].falls

    def _looked_at(self, transcript: Transcript) -> None:
        """A pool gives it a call: whether it should, and whether it knows how much it may give."""
        world, model, pool, at = self.world, self.model, self.model.pool, self.world.loop.time()
        if pool is None or self.url not in pool.members:
            return
        places = sum(one.places for one in pool.members.values() if one.counts)
        if pool.slots is not None and pool.slots.places != places:
            model.wrong.append(f"{self.url} is given a call by a pool that takes {pool.slots.places}, and has {places}")
        if not (failures := model.failures.get(transcript)):
            return
        last, by = failures[-1], {one.url for one in failures}
        others = [url for url, one in pool.members.items() if one.usable and url not in by]
        if others and any((one.url, one.falls) == (self.url, self._falls) for one in failures):
            model.wrong.append(f"{self.url} has failed a chain and is given it again, though there is {others}")
        server = next(one.server for one in model.engines if isinstance(one, SeededReplica) and one.url == last.url)
        own = sum(world.struck[fault] for fault in FAILING)
        quiet = server.troubled < last.at and not world.struck["slow"] and not world.struck["busy"] and own < FAILURES
        if quiet and world.frozen == last.frozen and at - last.at > VERDICT:
            model.wrong.append(f"a chain that {last.url} has failed has waited for {at - last.at:.1f} s")

    async def step(self, transcript: Transcript) -> None:
        world, process, life = self.world, self.process, self.process.lives
        slow = world.strikes("slow", "engine")
        await world.pause(8.0 if slow else 2 * world.scenario.pace, "batch")
        self._open()
        self.server.suffers()
        while self.server.silent is not None or (process.hung and life == process.lives):
            await (self.server.silent or process.gone).wait()
        self._open()
        if process.status is not None or life != process.lives:
            raise Lost(f"{self.url}: it broke off over {MARKER}")
        if world.strikes("lost", "engine"):
            self._fails(transcript)
            raise Lost(f"{self.url}: a chain was lost over {MARKER}")
        if world.strikes("fails", "engine"):
            self._fails(transcript)
            raise EngineError(f"{self.url}: it answered 500 over {MARKER}")

    async def generate(self, prompt: Prompt, sampling: Sampling, transcript: Transcript) -> AsyncGenerator[Delta]:
        self._looked_at(transcript)
        try:
            if sampling.logprobs is not None:
                # It makes one token at once, for which it is not asked by `make`.
                try:
                    await self._taken()
                except EngineError:
                    transcript.end("lost", Hidden(""))
                    raise
            async with aclosing(super().generate(prompt, sampling, transcript)) as stream:
                async for delta in stream:
                    yield delta
            if transcript.ending not in ("finished", "length"):
                return  # Whoever asks ends it there, and waits for nothing behind it.
            if self.world.strikes("lost_end", self.url):
                self._fails(transcript)
                transcript.lose()
                raise Lost(f"{self.url}: it broke off over {MARKER}")
            if self.world.strikes("twice_told", self.url):
                self._fails(transcript)
                transcript.lose()
                raise EngineError(f"{self.url}: it sends tokens behind the last one over {MARKER}")
        finally:
            self.begun.discard(id(transcript))

    async def _asked(self) -> None:
        """A short question, and its answer."""
        self._open()
        slow = self.world.strikes("slow", self.url)
        await self.world.pause(3.0 if slow else 0.1, "asked")
        self.server.suffers()
        await self.server.heard()
        self._open()

    async def health(self) -> None:
        await self._asked()
        if self.server.strikes("flaps"):
            raise Lost(f"{self.url}: the connection was reset")

    async def load(self) -> Load:
        await self._asked()
        if self.world.strikes("flaps", f"load of {self.url}"):
            raise EngineError(f"{self.url}: it has no metrics")
        waiting = self.world.chance("load").choice((0, 0, 0, 1, 5))
        return Load(self.running, waiting, 0.5)

    async def check(self) -> Checked | None:
        await self._asked()
        while self.process.hung:
            await self.process.gone.wait()
        await self.server.heard()
        return Checked(1, 0, 1)

    async def close(self) -> None:
        if not self.shut:
            self.shut = True
            self.world.log(f"{self.url}: closed")
            self.world.loop.call_later(GIVEN_UP, self._given_up)
            await self.world.pause(0.02, "close")

    def _given_up(self) -> None:
        if self.running and not self.world.struck["freeze"]:
            self.model.wrong.append(
                f"{self.running} calls wait for what reached {self.url}, {GIVEN_UP} s after its end"
            )


class SeededMembers:
    """Who belongs to a pool: the steady one always, of the others now these, now those."""

    interval = 1.0

    def __init__(self, world: World, servers: Sequence[RemoteServer]) -> None:
        self._world, self._servers = world, servers

    async def read(self) -> Sequence[str] | None:
        """Sometimes one that is not there for long; sometimes it cannot be read; sometimes one is named twice."""
        chance, world = self._world.chance("members"), self._world
        urls = [server.url for server in self._servers]
        await world.pause(0.01, "members")
        if not world.strikes("members", "members"):
            return urls if world.healed or not world.scenario.faults.get("members") else None
        if chance.random() < 0.2:
            return None
        kept = [server.url for server in self._servers if server.steady or chance.random() < 0.6]
        world.log(f"members: {kept}")
        kept += kept[:1] if chance.random() < 0.3 else []
        return kept or urls[:1]


@asynccontextmanager
async def replicas(world: World, model: Model) -> AsyncGenerator[Engine]:
    """A pool of replicas, each of which is watched over HTTP and not by its process."""
    scenario = world.scenario
    servers = [RemoteServer(world, i, steady=scenario.steady and i == 0) for i in range(scenario.replicas)]
    card = replace(CARD, name="demo", typical_chain=(60, 90))
    places, begun = scenario.places, False

    async def connect(url: str) -> SeededReplica:
        (server,) = (one for one in servers if one.url == url)
        await world.pause(0.3, "connect")
        server.suffers()
        await server.heard()
        # Before it has begun a server would not start, and say why.
        if begun and server.strikes("unlike"):
            raise EngineError(f"{url}: it serves another model")
        slots = None if places is None else Slots(places, 60)
        world.log(f"{url}: reached")
        made = SeededReplica(world=world, process=server.process, server=server, model=model, card=card, slots=slots)
        model.engines.append(made)
        return made

    options = PoolOptions(places=16, stall=STALL)
    pool = ReplicaPool("demo", connect, SeededMembers(world, servers), options)
    model.pool = pool
    async with pool.serving():
        begun = True
        yield pool
