"""One seed from its beginning to its end, and what must be true of it."""

from __future__ import annotations

import asyncio
import gc
import logging
import random
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from ponder.engines.replicas.pool import ReplicaPool
from ponder.metering.limits import IDLE
from tests.simulation.checks import check, compared
from tests.simulation.database import Disk
from tests.simulation.door import DRAIN, Caller, Server, serving
from tests.simulation.loop import SeededLoop
from tests.simulation.replicas import SeededReplica
from tests.simulation.world import EVERY, Fault, Scenario, World, after, drawn

LONGEST = 4000.0
"""Seconds of virtual time after which whatever still runs is stuck."""
AFTER = 1000
"""Numbers of requests from which on they come when all is over."""
USED = 100.0
"""Seconds in which an engine is up again, or each replica of a pool used again that lives."""
CLOSING = 5.0
"""Seconds that requests have behind a drain before their tasks are cancelled."""


@dataclass
class Ran:
    """What came of a scenario."""

    scenario: Scenario
    lines: Sequence[str]
    hash: str
    struck: dict[str, int]
    problems: list[str]
    ends: dict[str, int]
    """How many requests ended how."""


@dataclass
class Stage:
    """All that is in a run."""

    world: World
    callers: list[Caller]
    servers: list[Server] = field(default_factory=list[Server])
    """All that have been."""
    serving: dict[int, Server] = field(default_factory=dict[int, Server])
    """Those that serve, by their doors."""
    everywhere: dict[str, set[str]] = field(default_factory=dict[str, set[str]])
    logged: list[str] = field(default_factory=list[str])
    problems: list[str] = field(default_factory=list[str])
    disk: Disk = field(init=False)
    _changed: asyncio.Event = field(default_factory=asyncio.Event)
    _over: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.disk = Disk(self.world)

    async def play(self) -> None:
        """The run. What is wrong is in `problems` behind it."""
        done = False
        try:
            async with asyncio.timeout(LONGEST):
                async with asyncio.TaskGroup() as group:
                    lives = [group.create_task(self._lives(door)) for door in range(self.world.scenario.doors)]
                    once = [group.create_task(self._strike(fault)) for fault in self.world.scenario.faults]
                    asking = [group.create_task(self._ask(caller)) for caller in self.callers]
                    await asyncio.wait(asking)
                    for strike in once:
                        strike.cancel()
                    await self._rest()
                    done = True
                    self._over.set()
                    await asyncio.wait(lives)
        except TimeoutError:
            where = "closing" if done else "asking"
            open_ = ", ".join(caller.name for caller in self.callers if caller.end is None)
            self.problems.append(f"stuck after {LONGEST:.0f} s while {where}: {open_}")

    async def _ask(self, caller: Caller) -> None:
        await asyncio.sleep(caller.asked.at)
        server = await self._at(caller.asked.number)
        task = asyncio.create_task(caller.ask(server))
        server.tasks.add(task)
        if self.world.strikes("cancelled", caller.name):
            self.world.loop.call_later(
                6 * self.world.chance(f"cancelled {caller.name}").random(), _cancel, caller, task
            )
        await asyncio.wait([task])
        if caller.end is None and server.killed:
            caller.end = "gone"  # Before it had asked.
        if not task.cancelled() and (error := task.exception()) is not None:
            self.problems.append(f"{caller.name}: the application raised {error!r}")

    async def _rest(self) -> None:
        """No more faults; what is owed to the database is written."""
        self.world.healed = True
        self.world.log("no more faults")
        for server in [server for server in self.serving.values() if server.going_down]:
            server.down.set()
        await asyncio.sleep(1.0)
        servers = [await self._at(door) for door in range(self.world.scenario.doors)]
        for server in servers:
            for _ in range(600):
                writer = server.ledger.writer
                if server.ledger.unsettled <= 0 and not writer.pending and not writer.away:
                    break
                await asyncio.sleep(0.1)
        self.problems += check(self.world, self.callers, self.servers, servers, self.disk, self.logged)
        for server in servers:
            await self._all_engines(server)
        # A server that fell silent may only be cut off, and so it keeps its places for minutes: these are over.
        self.disk.minutes_pass()
        for server in servers:
            # What others have leased and do not need they give back by then.
            await asyncio.sleep(2 * IDLE + 1.0)
            await self._serves_all(server)

    async def _all_engines(self, server: Server) -> None:
        """Whatever has happened, an engine is started again, and each replica of a pool is used again."""
        if (supervisor := server.model.supervisor) is not None:
            with suppress(TimeoutError):
                async with asyncio.timeout(USED):
                    while supervisor.state != "up":  # noqa: ASYNC110 (one that has failed is tried again without a word)
                        await asyncio.sleep(1.0)
            if supervisor.state != "up":
                self.problems.append(f"nothing fails, and the engine is {supervisor.state}")
        pool = server.model.pool
        if pool is None:
            return
        size = self.world.scenario.replicas
        with suppress(TimeoutError):
            async with asyncio.timeout(USED):
                while _away(pool, size):  # noqa: ASYNC110 (a pool tells nobody)
                    await asyncio.sleep(1.0)
        if away := _away(pool, size):
            self.problems.append(f"nothing fails, and not all replicas are used: {away}")

    async def _serves_all(self, server: Server) -> None:
        """Whatever has happened, each key is answered now: nothing is lost for good."""
        for number, key in enumerate(self.world.scenario.keys, AFTER):
            caller = Caller(self.world, after(number, key))
            await caller.ask(server)
            if self.world.struck["fenced"] and caller.status == 503:
                # It is told by its first request that its leases have gone to others.
                caller = Caller(self.world, after(number, key))
                await caller.ask(server)
            if caller.end != "answered":
                self.problems.append(f"{key} is {caller.end} though nothing runs and nothing fails: {caller.failure}")

    # -- the server ---------------------------------------------------------------------------------------------------

    async def _at(self, number: int) -> Server:
        """The server at a door, when there is one."""
        door = number % self.world.scenario.doors
        while door not in self.serving:
            await self._changed.wait()
        return self.serving[door]

    def _change(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def _lives(self, door: int) -> None:
        while not self._over.is_set():
            async with serving(self.world, self.disk, self.everywhere, f"server {door}") as server:
                self.servers.append(server)
                self.serving[door] = server
                self._change()
                while not (self._over.is_set() or server.killed or server.down.is_set()):
                    with suppress(TimeoutError):
                        async with asyncio.timeout(0.5):
                            await self._over.wait()
                self.serving.pop(door, None)
            left = [one.url for one in server.model.engines if isinstance(one, SeededReplica) and not one.shut]
            self.problems += [f"what reaches {url} was not closed" for url in left]

    async def _strike(self, fault: Fault) -> None:
        """A fault that happens once, at its moment."""
        happens = {
            "freeze": self._freeze,
            "wall_clock": self._wall_clock,
            "fenced": self._fenced,
            "reload": self._reload,
            "hurry": self._hurry,
            "drain": self._drain,
            "door_killed": self._kill,
        }.get(fault)
        if happens is None:
            return
        await asyncio.sleep(self.world.scenario.faults[fault])
        door = self.world.chance(fault).randrange(self.world.scenario.doors)
        server = await self._at(door)
        self.world.struck[fault] += 1
        self.world.log(f"! {fault}: server {door}")
        await happens(server)

    async def _freeze(self, server: Server) -> None:
        seconds = self.world.chance("freeze").choice((0.5, 5.0, 30.0, 400.0))
        self.world.frozen += seconds
        self.world.loop.leap(seconds)

    async def _wall_clock(self, server: Server) -> None:
        self.world.wall += self.world.chance("wall").choice((-86_400_000, -61_000, -1000, 1000, 61_000, 86_400_000))

    async def _fenced(self, server: Server) -> None:
        server.ledger.writer.fence()

    async def _reload(self, server: Server) -> None:
        await server.reload.once("simulation")

    async def _hurry(self, server: Server) -> None:
        self.world.loop.call_later(self.world.chance("hurry").uniform(0, 5), server.admission.hurry)
        await self._drain(server)

    async def _drain(self, server: Server) -> None:
        if server.going_down:
            return
        server.going_down = True
        await server.admission.drain(DRAIN)
        running = [task for task in server.tasks if not task.done()]
        if running:
            await asyncio.wait(running, timeout=CLOSING)
        for task in running:
            task.cancel()
        if running:
            await asyncio.wait(running)
        server.down.set()

    async def _kill(self, server: Server) -> None:
        if server.going_down:
            return
        server.going_down = server.killed = True
        server.made = server.model.made
        server.ledger.writer.kill()
        server.inflight.killed()
        for caller in self.callers:
            if caller.server is server and caller.end is None:
                caller.gone.set()
        for task in server.tasks:
            task.cancel()


def _away(pool: ReplicaPool, size: int) -> Sequence[str]:
    """What a pool of so many replicas does not use."""
    away = [f"{one.url}: {one.state}, {one.why}" for one in pool.replicas if one.state not in ("up", "trial")]
    return away or ["some are not in it"] * (len(pool.members) < size)


def _cancel(caller: Caller, task: asyncio.Task[None]) -> None:
    if not task.done():
        caller.cancelled = True
        caller.world.log(f"{caller.name}: the server cancels its task")
        task.cancel()


class _Lines(logging.Handler):
    """Keeps what is logged."""

    def __init__(self, lines: list[str]) -> None:
        super().__init__()
        self._lines = lines

    def emit(self, record: logging.LogRecord) -> None:
        self._lines.append(self.format(record))


def play(scenario: Scenario, *, shows: bool = False) -> tuple[Ran, Stage]:
    """Runs a scenario."""
    made: list[SeededLoop] = []

    def loop() -> SeededLoop:
        made.append(SeededLoop(random.Random(f"{scenario.seed} loop")))
        return made[0]

    stages: list[Stage] = []

    async def run() -> None:
        world = World(scenario, made[0], shows=shows)
        stage = Stage(world, [Caller(world, asked) for asked in scenario.asked])
        stages.append(stage)
        random.seed(f"{scenario.seed} of the modules")
        root, handler = logging.getLogger(), _Lines(stage.logged)
        before = root.handlers[:], root.level
        root.handlers[:], root.level = [handler], logging.INFO
        try:
            await stage.play()
            left = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
            stage.problems += [f"a task is left: {task.get_coro()!r}" for task in left]
        finally:
            root.handlers[:], root.level = before

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(run())
    (stage,) = stages
    stage.problems += [f"nobody caught {context!r}" for context in made[0].raised]
    ends: dict[str, int] = {}
    for caller in stage.callers:
        ends[str(caller.end)] = ends.get(str(caller.end), 0) + 1
    world = stage.world
    return Ran(scenario, world.lines, world.hash, dict(world.struck), stage.problems, ends), stage


def simulate(seed: int, *, without: Sequence[Fault] = (), shows: bool = False, kind: str | None = None) -> Ran:
    """A seed: its scenario with its faults, and its seeded requests again without any, the other way round. `kind`:
    with other engines than it has."""
    scenario = drawn(seed, kind).without(*without)
    gc.disable()
    try:
        ran, stage = play(scenario, shows=shows)
        if any(caller.asked.seeded and caller.end == "answered" for caller in stage.callers):
            calm, reference = play(scenario.undisturbed())
            ran.problems += [f"undisturbed: {problem}" for problem in calm.problems]
            ran.problems += compared(stage.callers, reference.callers)
    finally:
        gc.enable()
        if not seed % 16:
            gc.collect()
    return ran


def shrunk(seed: int, fails: Callable[[Ran], bool] = lambda ran: bool(ran.problems)) -> Sequence[Fault]:
    """The kinds of faults that a failing seed needs: without the others it fails all the same."""
    without: list[Fault] = []
    for fault in EVERY:
        if fault in drawn(seed).faults and fails(simulate(seed, without=[*without, fault])):
            without.append(fault)
    return [fault for fault in drawn(seed).faults if fault not in without]
