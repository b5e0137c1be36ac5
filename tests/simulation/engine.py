"""The models of a simulation: what they write follows from the seed of the call, when and whether from that of the run.

An engine kind is a function that opens an `Engine` for as long as a server lives; `tests/simulation/kinds.py` has them
by name. What it opens must count in `Model.made` all that its models make.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncGenerator, Callable, MutableMapping, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any
from weakref import WeakKeyDictionary

from ponder.compute.engine import Checked, Delta, Engine, Hold, Read, Reward, Sampling, unheld
from ponder.compute.errors import EngineError, Lost
from ponder.compute.identity import CallIdentity
from ponder.compute.slots import Slots
from ponder.compute.text import Candidate, Prompt
from ponder.compute.transcript import Transcript
from ponder.engines.replicas.pool import ReplicaPool
from ponder.engines.supervised import SupervisedEngine
from ponder.engines.supervisor import Supervisor
from ponder.testing import MARKER, Chain, ScriptedRewards
from ponder.testing.scripted import CARD, JudgingEngine
from tests.simulation.world import World

KILLED, ABORTED = -9, -6
SLOW = 8.0
"""Seconds that a slow batch takes at most."""


def written(prompt: Prompt, thought: str, seed: int) -> Chain:
    """A chain that follows from its seed and from what stands, token by token. Its lines have eight tokens. Its answer
    counts on, so that a gap or a repeat in it shows."""
    length = len(MARKER) + 8 + 8 * (seed % 4)
    drawn = hashlib.blake2b(str(seed).encode()).digest()
    for at in range(len(thought), length):
        letter = "abcdef"[drawn[at] % 6]
        thought += MARKER[at] if at < len(MARKER) else "\n" if at % 8 == 7 else letter
    return Chain(thought, answer_of(thought))


def answer_of(thought: str) -> str:
    """What follows from a thought that is over."""
    sum_ = sum(map(ord, thought))
    return f"It is {sum_ % 3}. I counted {' '.join(map(str, range(1, 2 + sum_ % 9)))}."


def whole_answer(text: str) -> bool:
    """It is an answer of `written` from beginning to end."""
    head, _, words = text.removesuffix(".").partition(". I counted ")
    whole = text.endswith(".") and head in ("It is 0", "It is 1", "It is 2")
    return whole and words == " ".join(map(str, range(1, 1 + len(words.split()))))


def part_of_an_answer(text: str) -> bool:
    """It is the beginning of an answer of `written`, without a gap or a repeat."""
    most = " ".join(map(str, range(1, 11)))
    wholes = [f"It is {value}. I counted {most}" for value in range(3)]
    return any(whole.startswith((text, text.removesuffix("."))) for whole in wholes)


@dataclass
class Model:
    """What the engines of one server have made: counted by them, and by nobody else."""

    engines: list[SeededEngine] = field(default_factory=list[Any])
    read: int = 0
    """Tokens, by reward models."""
    wrong: list[str] = field(default_factory=list[str])
    """What they have found to be wrong themselves."""
    failures: MutableMapping[Transcript, list[Any]] = field(default_factory=WeakKeyDictionary[Transcript, list[Any]])
    """What replicas that live have done to chains."""
    pool: ReplicaPool | None = None
    """That of its replicas, where it has some."""
    supervisor: Supervisor | None = None
    """That of its engine, where it has one of its own."""

    @property
    def made(self) -> int:
        """Tokens, for requests."""
        return sum(engine.produced for engine in self.engines)

    @property
    def running(self) -> int:
        """Streams that are open."""
        return sum(engine.running for engine in self.engines)


@dataclass
class Process:
    """What a seeded engine runs in; fulfils `ponder.engines.supervisor.Process`."""

    world: World
    name: str = "demo"
    lives: int = 1
    status: int | None = None
    progress: int = 0
    reading: int = 0
    hung: bool = False
    pids: Sequence[int] = ()
    gone: asyncio.Event = field(default_factory=asyncio.Event)
    """This life is over."""

    def die(self, status: int) -> None:
        if self.status is None:
            self.world.log(f"engine: dies ({status})")
            self.status = status
            self.gone.set()

    async def start(self) -> None:
        self.world.log("engine: starts")
        await self.world.pause(6.0, "start")
        if self.world.strikes("no_start", "start"):
            raise EngineError("it does not start")
        self.lives += 1
        self.status, self.hung, self.gone = None, False, asyncio.Event()
        self.world.log(f"engine: up, life {self.lives}")

    async def end(self) -> None:
        self.die(KILLED)


@dataclass
class SeededEngine(JudgingEngine):
    """An engine whose chains follow from their seeds, and whose process does not always live."""

    script: Callable[[Prompt, str, int], Chain] = written
    seeded: bool = True
    world: World = field(kw_only=True)
    process: Process = field(kw_only=True)
    _begun: Candidate | None = None
    """What the call goes on with whose stream is being begun."""
    _batches: dict[int, int] = field(default_factory=dict[int, int])
    """Tokens that each call has in hand, by the ids of their transcripts."""

    def chain(self, prompt: Prompt, sampling: Sampling, thought: str, number: int) -> Chain:
        begun, drawn = self._begun, super().chain(prompt, sampling, thought, number)
        if begun is None or begun.thinking or drawn.answer.startswith(begun.text):
            return drawn
        # It was begun with another seed: it goes on as what it was.
        answers = (answer_of(chr(value)) for value in range(9))
        return Chain(thought, next(answer for answer in answers if answer.startswith(begun.text)))

    async def make(self, transcript: Transcript) -> None:
        if left := self._batches.get(id(transcript)):
            self._batches[id(transcript)] = left - 1
        else:
            await self.step(transcript)
            self._batches[id(transcript)] = self.world.chance("batch").choice((0, 0, 1, 3, 7, 15))
        self.process.progress += 1

    async def step(self, transcript: Transcript) -> None:
        """What a batch of tokens takes, and what may come between. Raises `Lost` and `EngineError`."""
        world, process, life = self.world, self.process, self.process.lives
        slow = world.strikes("slow", "engine")
        await world.pause(SLOW if slow else 2 * world.scenario.pace, "batch")
        if process.status is None and life == process.lives:
            if world.strikes("killed", "engine"):
                process.die(KILLED)
            if world.strikes("crashed", "engine"):
                process.die(ABORTED)
            if world.strikes("hangs", "engine"):
                process.hung = True
        if process.hung:
            await process.gone.wait()
        if process.status is not None or life != process.lives:
            raise Lost(f"the engine died over {MARKER}")
        if world.strikes("lost", "engine"):
            raise Lost(f"a chain was lost over {MARKER}")
        if world.strikes("fails", "engine"):
            raise EngineError(f"the engine failed over {MARKER}")

    async def check(self) -> Checked | None:
        process, life = self.process, self.process.lives
        if process.hung:
            await process.gone.wait()
        await self.world.pause(0.1, "check")
        if process.status is not None or life != process.lives:
            raise Lost("the engine died")
        process.progress += 1
        return Checked(1, 0, 1)

    async def generate(self, prompt: Prompt, sampling: Sampling, transcript: Transcript) -> AsyncGenerator[Delta]:
        name = f"{self.process.name}, call {transcript.call.purpose} {self.calls}"
        self.world.log(f"engine: {name} begins, seed {sampling.seed}")
        try:
            self._begun = transcript.begun
            async with aclosing(super().generate(prompt, sampling, transcript)) as stream:
                async for delta in stream:
                    yield delta
        finally:
            self._batches.pop(id(transcript), None)
            self.world.log(f"engine: {name} ends: {transcript.ending}, {transcript.hidden}+{transcript.visible}")


@dataclass
class SeededRewards(ScriptedRewards):
    """A reward model that sometimes raises."""

    world: World = field(kw_only=True)
    model: Model = field(kw_only=True)

    async def reward(
        self,
        prompt: Prompt,
        candidates: Sequence[Candidate],
        *,
        read: Read,
        hold: Hold = unheld,
        tenant: str | None = None,
        calls: Sequence[CallIdentity] = (),
    ) -> Sequence[Reward]:
        await self.world.pause(0.5, "judge")
        if self.world.strikes("judge_fails", "reward model"):
            raise EngineError(f"the reward model failed over {MARKER}")

        def counted(tokens: int, cached: int) -> None:
            self.model.read += tokens
            read(tokens, cached)

        return await super().reward(prompt, candidates, read=counted, hold=hold, tenant=tenant, calls=calls)


@asynccontextmanager
async def supervised(world: World, model: Model) -> AsyncGenerator[Engine]:
    """One engine before its supervisor."""
    process = Process(world)
    places = world.scenario.places
    slots = None if places is None else Slots(places, 60)
    card = replace(CARD, name="demo", typical_chain=(60, 90))
    engine = SeededEngine(world=world, process=process, card=card, slots=slots)
    model.engines.append(engine)
    engine.tail = world.chance("tail").choice((0, 0, 1, 3))
    supervisor = model.supervisor = Supervisor(process, engine.check, took=3.0)
    async with supervisor.watching():
        yield SupervisedEngine(engine, supervisor)
