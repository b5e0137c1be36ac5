"""Replicas over real HTTP, each a process of its own, killed and stopped under load: no request is lost, no stream has
a gap or a repeat, and what a seed writes is what it writes undisturbed."""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from ponder.compute.budget import Budget
from ponder.compute.clock import now
from ponder.compute.outcome import Outcome
from ponder.compute.plan import Plan
from ponder.compute.text import Message, Prompt
from ponder.engines.replicas.connection import Access, Connection
from ponder.engines.replicas.known import KnownModel
from ponder.engines.replicas.membership import InFile
from ponder.engines.replicas.pool import ReplicaPool
from ponder.engines.replicas.server import VllmServer
from tests.engines.replica_process import ReplicaProcess, Writer
from tests.engines.scripted_server import PLAIN, known_of
from tests.engines.scripted_vllm import FAMILIES, Nature, ScriptedVllm
from tests.engines.test_restarts import Asked, plan

STRIKES = 3
CALLERS = 4
QUESTIONS = 7


def form(number: int) -> Plan:
    """Requests that differ, of which half are streamed; what each is answered follows from its number. Each is of a
    tenant of its own, so that whatever the numbers of their ports every replica is home to some."""
    made = plan("direct", question=f"Number {number % QUESTIONS}?", budget=Budget(400, 60), stream=number % 2 == 0)
    return replace(made, sampling=replace(made.sampling, tenant=f"tenant {number}"))


@dataclass
class Processes:
    """Replicas, and the file that names them."""

    file: Path
    start: Callable[[], Awaitable[ReplicaProcess]]
    all: list[ReplicaProcess] = field(default_factory=list[ReplicaProcess])

    def name(self) -> None:
        fresh = self.file.with_suffix(".new")
        fresh.write_text("".join(f"{one.url}\n" for one in self.all))
        os.replace(fresh, self.file)

    @classmethod
    @asynccontextmanager
    async def of(
        cls, size: int, file: Path, start: Callable[[], Awaitable[ReplicaProcess]]
    ) -> AsyncGenerator[Processes]:
        async with asyncio.TaskGroup() as group:
            starting = [group.create_task(_started(start)) for _ in range(size)]
        found = cls(file, start, [one.result() for one in starting])
        found.name()
        try:
            yield found
        finally:
            for one in found.all:
                await one.kill()


@dataclass
class Load:
    """Callers that ask one request after the other until they are to end, and what came of them."""

    pool: ReplicaPool
    form: Callable[[int], Plan] = form
    questions: int = QUESTIONS
    """Requests whose numbers differ by so many are the same."""
    patience: float = 60.0
    """Seconds in which what is waited for comes."""
    ended: bool = False
    pause: float = 0.0
    """Seconds that a caller waits before its next request."""
    answered: int = 0
    struck: float | None = None
    """When a replica was struck, until a request that came later was answered."""
    away: list[float] = field(default_factory=list[float])
    """Seconds from each strike to the first answer to a request that came later."""
    slowest: float = 0.0
    """Seconds of the request that took longest."""
    outcomes: dict[int, Any] = field(default_factory=dict[int, Any])
    resumed: int = 0

    async def caller(self, numbers: itertools.count[int]) -> None:
        while not self.ended:
            await asyncio.sleep(self.pause)
            number, began = next(numbers), now()
            asked = Asked(self.form(number), f"req{number}")
            outcome = await asked.on(self.pool)
            assert isinstance(outcome, Outcome)
            assert asked.spending.held == 0
            assert asked.spending.spent.wasted == 0
            self.resumed += asked.resumed
            self.answered += 1
            self.slowest = max(self.slowest, now() - began)
            if self.struck is not None and began > self.struck:
                self.away.append(now() - self.struck)
                self.struck = None
            undisturbed = self.outcomes.setdefault(number % self.questions, asked.seen(outcome))
            assert asked.seen(outcome) == undisturbed, number

    async def until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(self.patience):
            while not holds():  # noqa: ASYNC110 (what other processes do is no event here)
                await asyncio.sleep(0.05)


def test_replicas_killed_and_stopped_under_load_lose_no_request(tmp_path: Path) -> None:
    async def go() -> None:
        llm = ScriptedVllm(FAMILIES["ids"], Nature())
        known = known_of(llm, llm.profile)

        async def reach(url: str) -> VllmServer:
            return VllmServer(Connection(url, Access(), url), known, PLAIN)

        file = tmp_path / "replicas"
        async with Processes.of(2, file, partial(ReplicaProcess.start, writer_of(known))) as processes:
            pool = ReplicaPool("demo", reach, InFile(file))
            async with pool.serving():
                load, numbers = Load(pool), itertools.count()
                await load.until(lambda: sum(fact.state == "up" for fact in pool.replicas) == 2)
                async with asyncio.TaskGroup() as group:
                    for _ in range(CALLERS):
                        group.create_task(load.caller(numbers))
                    for strike in range(STRIKES):
                        await stopped(load, processes, strike)
                        await killed(load, processes, strike)
                    load.ended = True
                assert load.resumed
                assert len(load.outcomes) == QUESTIONS
        known.close()

    asyncio.run(go())


async def stopped(load: Load, processes: Processes, strike: int) -> None:
    """One is stopped until its chains go on elsewhere; it is used again when it goes on."""
    one = processes.all[strike % 2]
    await load.until(lambda: fact_of(load.pool, one.url).in_flight > 0)
    load.struck = now()
    one.stop()
    await load.until(lambda: fact_of(load.pool, one.url).state == "away")
    one.go_on()
    await load.until(lambda: fact_of(load.pool, one.url).state == "up")


async def killed(load: Load, processes: Processes, strike: int) -> None:
    """One is killed, and another takes its place."""
    one = processes.all[strike % 2]
    await load.until(lambda: fact_of(load.pool, one.url).in_flight > 0)
    load.struck = now()
    await one.kill()
    processes.all.remove(one)
    await load.until(lambda: fact_of(load.pool, one.url).state == "away")
    other = await processes.start()
    processes.all.append(other)
    processes.name()
    await load.until(lambda: any(fact.url == other.url and fact.state == "up" for fact in load.pool.replicas))


async def _started(start: Callable[[], Awaitable[ReplicaProcess]]) -> ReplicaProcess:
    return await start()


def fact_of(pool: ReplicaPool, url: str) -> Any:
    return next(fact for fact in pool.replicas if fact.url == url)


def writer_of(known: KnownModel) -> Writer:
    """What a server of this model writes."""
    prompts = known.model(2048).prompts
    ids = list(prompts.render(Prompt((Message("user", "?"),)), thinking=True).ids)
    turn, *_ = prompts.with_markers("<|im_start|>")
    end, *_ = prompts.with_markers("<|im_end|>")
    close, *_ = prompts.with_markers("</think>")
    words = [id for letter in "abcdef" for id in prompts.with_markers(f" {letter}")]
    return Writer(turn, ids[::-1].index(turn) + 1, close, end, words)
