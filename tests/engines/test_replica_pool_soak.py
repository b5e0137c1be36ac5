"""Two vLLM servers with the demo reasoner, killed and stopped under load for long: 200 kills and 50 stops, in parts
that a campaign (`tests/campaign.py`) goes on with where it was cut."""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import subprocess
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from ponder.compute.budget import Budget
from ponder.compute.plan import Plan
from ponder.engines.replicas.known import know
from ponder.engines.replicas.membership import InFile
from ponder.engines.replicas.pool import ReplicaPool
from ponder.engines.replicas.server import VllmServer, connect
from tests.engines.replica_process import ReplicaProcess
from tests.engines.test_replica_pool_http import Load, Processes, fact_of, killed, stopped
from tests.engines.test_restarts import plan
from tests.engines.vllm_server import ENVIRONMENT, command

pytestmark = pytest.mark.soak

DEMO = Path(__file__).parents[2] / "models" / "demo"
PARTS, KILLS, STOPS = 25, 8, 2
"""In each part so many of each: 200 and 50 in all."""
STARTS = 400.0
"""Seconds in which a server answers."""
QUESTIONS = 12
PAUSE = 0.5
"""Seconds between a caller's requests while a server starts, which takes the processors, too."""


def vllm(log: Path) -> Callable[[], Awaitable[ReplicaProcess]]:
    """What starts a server."""

    async def start() -> ReplicaProcess:
        flags = {"--kv-cache-memory-bytes": str(1 << 28)}
        url, words = command(DEMO, flags, "--no-enable-chunked-prefill")
        with log.open("ab") as out:
            process = await asyncio.create_subprocess_exec(
                *words, env=os.environ | ENVIRONMENT, stdin=subprocess.DEVNULL, stdout=out, stderr=out
            )
        end = time.monotonic() + STARTS
        async with httpx.AsyncClient(base_url=url) as client:
            while time.monotonic() < end and process.returncode is None:
                try:
                    if (await client.get("/health")).status_code == 200:
                        return ReplicaProcess(process, url)
                except httpx.HTTPError:
                    await asyncio.sleep(0.5)
        raise AssertionError(f"no server within {STARTS:.0f} s")

    return start


def form(number: int) -> Plan:
    """Stories of the demo reasoner's, at temperature 0: what is answered follows from the number. Each is of a tenant
    of its own, so that whatever the numbers of their ports every replica is home to some."""
    which = number % QUESTIONS
    story = f"Tom has {which + 3} apples. Tom gets {which + 5} more. How many apples does Tom have now?"
    made = plan("direct", question=story, budget=Budget(600, 120), stream=number % 2 == 0)
    return replace(made, sampling=replace(made.sampling, temperature=0.0, tenant=f"tenant {number}"))


@pytest.mark.timeout(7200)
@pytest.mark.parametrize("part", range(PARTS))
def test_killed_and_stopped_for_long_no_request_is_lost(
    part: int, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    def calm(load: Load) -> Callable[[], Awaitable[ReplicaProcess]]:
        start = vllm(tmp_path / "log")

        async def calmly() -> ReplicaProcess:
            load.pause = PAUSE
            try:
                return await start()
            finally:
                load.pause = 0.0

        return calmly

    async def go() -> None:
        known = await know(str(DEMO), name="demo")

        async def reach(url: str) -> VllmServer:
            return await connect(url, known)

        file, chance = tmp_path / "replicas", random.Random(part)
        async with Processes.of(2, file, vllm(tmp_path / "log")) as processes:
            pool = ReplicaPool("demo", reach, InFile(file))
            async with pool.serving():
                load, numbers = Load(pool, form, QUESTIONS, patience=STARTS), itertools.count()
                processes.start = calm(load)
                await load.until(lambda: sum(fact.state == "up" for fact in pool.replicas) == 2)
                strikes = [killed] * KILLS + [stopped] * STOPS
                chance.shuffle(strikes)
                async with asyncio.TaskGroup() as group:
                    for _ in range(4):
                        group.create_task(load.caller(numbers))
                    for strike in strikes:
                        await strike(load, processes, chance.randrange(2))
                        await asyncio.sleep(chance.random())
                    load.ended = True
                assert all(fact_of(pool, one.url).state == "up" for one in processes.all)
                record_property("requests", load.answered)
                record_property("resumed", load.resumed)
                record_property("in service again, s", sorted(round(seconds, 2) for seconds in load.away))
                record_property("slowest request, s", round(load.slowest, 2))
                record_property("lost", 0)
        known.close()

    asyncio.run(go())
