"""Replicas that die, hang, stop, fail and come back as they are told, without a network."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from ponder.compute.errors import EngineError, Lost
from ponder.compute.text import Prompt
from ponder.compute.transcript import Transcript
from ponder.engines.replicas.member import PoolOptions
from ponder.engines.replicas.pool import ReplicaPool
from ponder.engines.replicas.replica import Load, NotTaken
from ponder.testing import CARD, Chain, ScriptedEngine
from tests.engines.mortal import drawn


@dataclass
class MortalReplica(ScriptedEngine):
    """Fulfils `ponder.engines.replicas.replica.Replica`. Its server and what reaches it are one."""

    script: Callable[[Prompt, str, int], Chain] = drawn
    seeded: bool = True
    delay: float = 0.01
    url: str = "http://a:1"
    dies_at: list[int] = field(default_factory=list[int])
    """Killed from outside when all replicas that share `made` have made so many tokens."""
    poison: Callable[[Transcript], bool] = lambda _: False
    """A token of this chain ends the engine: the server says so."""
    fails: Callable[[Transcript], bool] = lambda _: False
    """The server answers this call with an error, and lives."""
    made: list[int] = field(default_factory=lambda: [0])
    takes: float = 3.0
    """Seconds until it is there again after it was killed; infinite: never."""
    dead: bool = False
    crashed: bool = False
    stopped: asyncio.Event | None = None
    """Set when it goes on; None where it was not stopped."""
    hangs: bool = False
    """It says that it lives, and makes no token."""
    others: int = 0
    """Calls of others that it works on."""
    waiting: int = 0
    deaf: bool = False
    """It does not say any more that it lives, and its calls go on."""
    shut: bool = False
    closes: float = 0.0
    """Seconds that closing takes, behind which it cannot be used before it is reached anew."""
    silent: bool = False
    """It does not say what it has to do."""
    too_busy: float = 0.0
    """It takes no call, and says after how many seconds it may."""
    lives: int = 1
    connected: int = 0
    closings: int = 0
    """How often what reaches it was closed."""
    asked: int = 0
    """How often it was asked whether it lives."""

    def kill(self) -> None:
        self.dead = True
        self.lives += 1
        if self.takes < float("inf"):
            asyncio.get_running_loop().call_later(self.takes, self.revive)

    def revive(self) -> None:
        self.dead = self.crashed = self.hangs = False

    def stop(self, seconds: float) -> None:
        self.stopped = asyncio.Event()
        asyncio.get_running_loop().call_later(seconds, self.resume)

    def resume(self) -> None:
        if self.stopped is not None:
            self.stopped.set()
        self.stopped = None

    async def _reached(self) -> None:
        while self.stopped is not None:
            await self.stopped.wait()
        if self.dead:
            raise Lost(f"{self.url}: the connection was refused")

    async def make(self, transcript: Transcript) -> None:
        life = self.lives
        await asyncio.sleep(self.delay)
        if self.hangs:
            await asyncio.Event().wait()
        if self.shut:
            raise RuntimeError("Session is closed")
        if self.poison(transcript) and not self.dead:
            self.crashed = True
            asyncio.get_running_loop().call_later(0.5, self.kill)
        if self.made[0] in self.dies_at and not self.dead:
            self.dies_at.remove(self.made[0])
            self.kill()
        await self._reached()
        if self.crashed or life != self.lives:
            raise Lost(f"{self.url}: the stream broke off")
        if self.too_busy:
            raise NotTaken(f"{self.url}: it answered 429", retry_after=self.too_busy)
        if self.fails(transcript):
            raise EngineError(f"{self.url}: it answered 500")
        self.made[0] += 1

    async def health(self) -> None:
        self.asked += 1
        await self._reached()
        if self.deaf:
            raise Lost(f"{self.url}: the connection was refused")
        if self.crashed:
            raise EngineError(f"{self.url}: it says 503: its engine died")

    async def load(self) -> Load:
        await self._reached()
        if self.silent:
            raise EngineError(f"{self.url}: it has no metrics")
        return Load(self.running + self.others, self.waiting, 0.0)

    async def close(self) -> None:
        """Only what reaches it is closed: whoever is about to use that hears it from its library."""
        self.closings += 1
        if self.closes:
            self.shut = True
            await asyncio.sleep(self.closes)
        if self.deaf:
            self.shut = True
            await asyncio.sleep(2 * self.delay)


@dataclass
class Members:
    """Who belongs to a pool, by hand."""

    urls: Sequence[str]
    interval: float = 0.5

    async def read(self) -> Sequence[str] | None:
        return self.urls


@dataclass
class Cluster:
    """Replicas by address."""

    replicas: dict[str, MortalReplica]
    members: Members
    made: list[int]

    @classmethod
    def of(
        cls,
        size: int,
        *,
        dies_at: Sequence[int] = (),
        fails: Callable[[Transcript], bool] = lambda _: False,
        poison: Callable[[Transcript], bool] = lambda _: False,
        **more: Any,
    ) -> Cluster:
        """So many, which count their tokens together; whichever makes one of those that are named is killed."""
        made, dies = [0], list(dies_at)
        more |= {"fails": fails, "poison": poison}
        urls = [f"http://{'abcdefghijklmnop'[i]}:1" for i in range(size)]
        return cls({url: MortalReplica(url=url, made=made, dies_at=dies, **more) for url in urls}, Members(urls), made)

    @property
    def all(self) -> list[MortalReplica]:
        return list(self.replicas.values())

    @property
    def produced(self) -> int:
        return sum(one.produced for one in self.all)

    @property
    def running(self) -> int:
        return sum(one.running for one in self.all)

    async def connect(self, url: str) -> MortalReplica:
        """As whoever reaches a server does."""
        one = self.replicas[url]
        one.connected += 1
        await one.health()
        one.shut = False
        return one

    @asynccontextmanager
    async def pool(self, **options: Any) -> AsyncGenerator[ReplicaPool]:
        pool = ReplicaPool("scripted", self.connect, self.members, PoolOptions(**options))
        async with pool.serving():
            yield pool


def other_model(url: str) -> MortalReplica:
    """One that serves another model."""
    return MortalReplica(url=url, card=replace(CARD, name="another"))
