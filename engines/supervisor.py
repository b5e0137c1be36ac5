"""Starts the process of a model again whenever it goes away, and says meanwhile how it stands.

It goes by its exit status, by `ponder.engines.watchdog`, and by calls that were lost. What is left of the process is
ended before the next is started. One that dies of itself as soon as it is up, or does not come up, is started again
after a pause that doubles each time.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Literal, Protocol

from ponder.compute.clock import now
from ponder.compute.engine import Checked, State
from ponder.compute.errors import EngineError, NotNow, Unavailable
from ponder.compute.groups import TaskGroup, group_beside
from ponder.engines.watchdog import STALL, TICK, Watchdog, killed_for_memory

log = logging.getLogger(__name__)

PAUSE = 1.0
"""Seconds before a start that follows a failed one, or a death in youth; doubled each time."""
LONGEST_PAUSE = 60.0
HANGS = 10
"""A start that takes so many times as long as the last one hangs, """
SHORTEST_HANG = 600.0
"""but not before so many seconds."""
GIVEN_UP = 3
"""Failed starts in a row after which nobody waits for the next: requests are refused until one succeeds."""
PACE = 0.05
"""Seconds in which a model reads a token, before it was measured: a large one on a few cores."""
SLOWER = 3.0
"""A long prompt may take so many times as long for each token as the short one by which the pace was measured."""
SEEN = 5.0
"""Seconds in which a process that broke off a call is seen to have died, if it has."""

FROM_OUTSIDE = {signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT}

Cause = Literal["killed", "crashed", "stopped", "stalled"]


class Process(Protocol):
    """What a model runs in: a process, or several that live and die together."""

    @property
    def name(self) -> str: ...

    @property
    def progress(self) -> object:
        """Something that changes with every token."""
        ...

    @property
    def reading(self) -> int:
        """Tokens of the longest prompt it is reading."""
        ...

    @property
    def pids(self) -> Sequence[int]:
        """Those there are, also while it is being started."""
        ...

    @property
    def status(self) -> int | None:
        """Its exit status, the negative number of a signal; None while it runs."""
        ...

    async def start(self) -> None:
        """Returns when it answers, so that what asked it before may ask it again. Raises `EngineError`."""
        ...

    async def end(self) -> None:
        """Kills what is left of it, also what is being started, and frees what it held. Idempotent."""
        ...


@dataclass(frozen=True, slots=True)
class Death:
    """How a process ended."""

    number: int
    """How many there were before."""
    cause: Cause

    @property
    def by_itself(self) -> bool:
        """Something it did may be to blame; nobody from outside has ended it."""
        return self.cause in ("crashed", "stalled")


class Supervisor:
    """Watches one process; fulfils `ponder.compute.engine.Supervision`. It belongs to one event loop."""

    def __init__(
        self,
        process: Process,
        probe: Callable[[], Awaitable[Checked | None]],
        *,
        took: float = 0.0,
        stall: float = STALL,
    ) -> None:
        """`probe` has the model make a token, and tells what that took; `took`: the seconds of the first start."""
        self.process = process
        self.state: State = "starting"
        self.restarts = 0
        self.checked = Checked(0)
        self.deaths: list[Death] = []
        self.took = took
        """Seconds of the last start that succeeded."""
        self._probe, self._stall = probe, stall
        self._changed = asyncio.Event()
        self._hint = asyncio.Event()
        self._since = 0.0
        """When it came up, or began to come up."""
        self._pause = 0.0
        self._failed = 0
        self._memory = 0
        self._pace = PACE
        """Seconds in which it reads a token."""
        self._group = TaskGroup()
        self._probing: asyncio.Task[None] | None = None

    # -- how it stands ------------------------------------------------------------------------------------------------

    @property
    def wait(self) -> float:
        """Seconds until it is likely to be up."""
        if self.state == "up":
            return 0.0
        return max(1.0, self._pause + self.took - (now() - self._since))

    async def ready(self) -> None:
        """Returns when it is up. Raises `Unavailable` where it cannot be started."""
        while self.state != "up":
            if self.state == "failed":
                raise Unavailable(
                    f"model {self.process.name} went away and could not be started again; it is tried again later",
                    code="engine_unavailable",
                    retry_after=self.wait,
                )
            await self._changed.wait()

    async def death(self, life: int) -> Death | None:
        """How the life of that number ended; None where it goes on. Whoever was in the middle of a call may know of the
        end before it is seen here."""
        with suppress(TimeoutError):
            async with asyncio.timeout(SEEN):
                while len(self.deaths) <= life and self.state == "up":
                    self._hint.set()
                    await self._changed.wait()
        return self.deaths[life] if life < len(self.deaths) else None

    def _to(self, state: State) -> None:
        self.state = state
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    # -- what it does -------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def watching(self) -> AsyncGenerator[None]:
        """Watches within the block; the process runs when it begins. At its end a process that is up is left as it is,
        one that is being started is ended."""
        self._up()
        async with group_beside() as group:
            self._group = group
            keeping = group.create_task(self._keep())
            try:
                yield
            finally:
                keeping.cancel()
                if self._probing is not None:
                    self._probing.cancel()
                if self.state != "up":
                    await self._ended()

    def _up(self) -> None:
        self._since, self._failed = now(), 0
        self._memory = killed_for_memory()
        self._to("up")

    async def _keep(self) -> None:
        while True:
            cause = await self._end()
            death = Death(len(self.deaths), cause)
            self.deaths.append(death)
            young = now() - self._since < self.took
            self._pause = min(LONGEST_PAUSE, self._pause * 2 or PAUSE) if death.by_itself and young else 0.0
            self._since = now()
            self._to("restarting")
            log.error("model %s: its engine %s; it is started again", self.process.name, cause)
            await self._start()

    async def _end(self) -> Cause:
        """Returns when it has died, or might as well have."""
        process, dog = self.process, Watchdog(self._stall)
        looked = now()
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(TICK):
                    await self._hint.wait()
            if (status := process.status) is not None:
                return self._cause(status)
            if self._hint.is_set():
                # It is being reaped, or the call was broken off for another reason.
                self._hint.clear()
                await asyncio.sleep(TICK / 25)
                continue
            seconds, looked = now() - looked, now()
            if dog.stopped(process.pids):
                return "stopped"
            if dog.stalled(process.progress, seconds, SLOWER * self._pace * process.reading):
                return "stalled"
            if dog.quiet and (self._probing is None or self._probing.done()):
                self._probing = self._group.create_task(self._ask())

    def _cause(self, status: int) -> Cause:
        outside = status < 0 and -status in FROM_OUTSIDE and killed_for_memory() == self._memory
        return "killed" if outside else "crashed"

    async def _ask(self) -> None:
        """Whether it answers shows in its progress."""
        try:
            await self._probed()
        except (EngineError, NotNow):
            pass
        except Exception as error:  # noqa: BLE001 (an engine's code, which may raise anything when it is going away)
            log.warning("model %s: it was asked for a token, which raised %s", self.process.name, type(error).__name__)

    async def _probed(self) -> None:
        """Has it make a token. Where it has nothing else to read, that tells how quickly it reads."""
        began, idle = now(), not self.process.reading
        took = await self._probe()
        if took is not None:
            self.checked += took
            if idle and took.prompt > took.cached:
                self._pace = (now() - began) / (took.prompt - took.cached)

    async def _start(self) -> None:
        while True:
            await self._ended()
            await asyncio.sleep(self._pause)
            self.restarts += 1
            begun = now()
            if (error := await self._started()) is not None:
                self._failed += 1
                self._pause = min(LONGEST_PAUSE, self._pause * 2 or PAUSE)
                self._since = now()
                log.error("%s; the next try is in %.0f s", error.message, self._pause)
                if self._failed >= GIVEN_UP:
                    self._to("failed")
                continue
            self.took = now() - begun
            log.warning("model %s is up again after %.1f s", self.process.name, self.took)
            self._up()
            return

    async def _ended(self) -> None:
        try:
            await self.process.end()
        except Exception as error:  # noqa: BLE001 (what is left of an engine may raise anything; the next is started)
            log.warning("model %s: the end of its engine raised %s", self.process.name, type(error).__name__)

    async def _started(self) -> EngineError | None:
        """Starts it; returns what was in the way. One that is stopped while it starts is ended, which fails its start.
        One that makes no token when it is up has not started, nor has one that hangs."""
        dog, hung = Watchdog(self._stall), now() + max(SHORTEST_HANG, HANGS * self.took)
        starting = self._group.create_task(self._try())
        try:
            while not starting.done():
                await asyncio.wait([starting], timeout=TICK)
                if now() >= hung and not starting.done():
                    await self._ended()
                    return EngineError(f"the start of {self.process.name} hangs")
                if dog.stopped(self.process.pids):
                    await self._ended()
        finally:
            starting.cancel()
        return starting.result()

    async def _try(self) -> EngineError | None:
        try:
            await self.process.start()
            await self._probed()
        except EngineError as error:
            return error
        except NotNow as error:
            return EngineError(error.message)
        except Exception as error:  # noqa: BLE001 (an engine's code; whatever it is, the server goes on and tries again)
            return EngineError(f"{self.process.name} cannot be started: {type(error).__name__}")
        return None
