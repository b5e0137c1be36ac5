"""A scripted engine that dies as it is told, in a process of its own as far as a supervisor can tell."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from ponder.compute.errors import EngineError, Lost
from ponder.compute.text import Prompt
from ponder.compute.transcript import Transcript
from ponder.engines.supervised import SupervisedEngine
from ponder.engines.supervisor import Supervisor
from ponder.testing import Chain, ScriptedEngine, question

KILLED, ABORTED = -9, -6


def drawn(prompt: Prompt, thought: str, seed: int) -> Chain:
    """A chain that follows from the seed and from what stands, token by token: it is the same one wherever it was
    broken off and gone on with. Its lines have eight tokens, its answer follows from its thought."""
    length = 24 + 8 * (seed % 5)
    for at in range(len(thought), length):
        thought += "\n" if at % 8 == 7 else random.Random(f"{seed}:{at}").choice("abcdef")
    value = sum(map(ord, thought)) % 10
    return Chain(thought, f'{{"n": {value}}}' if "JSON" in question(prompt) else f"It is {value}, as I have shown.")


@dataclass
class Mortal(ScriptedEngine):
    """Dies when so many tokens were made; each number counts from the beginning."""

    script: Callable[[Prompt, str, int], Chain] = drawn
    seeded: bool = True
    delay: float = 0.01
    dies_at: Sequence[int] = ()
    breaks_at: Sequence[int] = ()
    """When so many tokens were made it breaks off the chain it is at, though it lives; each number counts once."""
    poison: Callable[[Transcript], bool] = lambda _: False
    """A token of this chain ends the engine."""
    process: MortalProcess = field(default_factory=lambda: MortalProcess())

    def __post_init__(self) -> None:
        super().__post_init__()
        self.process.engine = self

    async def make(self, transcript: Transcript) -> None:
        life = self.process.lives
        await asyncio.sleep(self.delay)
        if self.process.status is None and self.poison(transcript):
            self.process.die(ABORTED)
        if self.produced in self.dies_at and self.process.status is None:
            self.dies_at = [at for at in self.dies_at if at != self.produced]
            self.process.die(KILLED)
        if self.produced in self.breaks_at:
            at = list(self.breaks_at)
            at.remove(self.produced)
            self.breaks_at = at
            raise Lost("a chain was broken off")
        if self.process.status is not None or life != self.process.lives:
            raise Lost("the engine died")
        self.process.progress += 1


@dataclass
class MortalProcess:
    """Of a `Mortal`; fulfils `ponder.engines.supervisor.Process`."""

    name: str = "scripted"
    takes: float = 3.0
    """Seconds to start."""
    broken: int = 0
    """So many starts fail."""
    lives: int = 1
    status: int | None = None
    progress: int = 0
    reading: int = 0
    pids: Sequence[int] = ()
    starts: list[float] = field(default_factory=list[float])
    """When each start began, in loop time."""
    engine: Any = None

    def die(self, status: int) -> None:
        self.status = status

    async def start(self) -> None:
        self.starts.append(asyncio.get_running_loop().time())
        await asyncio.sleep(self.takes)
        if self.broken:
            self.broken -= 1
            raise EngineError("it does not start")
        self.lives += 1
        self.status = None

    async def end(self) -> None:
        self.status = self.status or KILLED


@asynccontextmanager
async def supervised(engine: Mortal, **more: Any) -> AsyncGenerator[SupervisedEngine]:
    """In front of its supervisor."""
    supervisor = Supervisor(engine.process, engine.check, took=engine.process.takes, **more)
    async with supervisor.watching():
        yield SupervisedEngine(engine, supervisor)
