"""What the server costs on Ray Serve beside `ponder serve`: a request, and a streamed token.

    python -m bench.ray [--json bench/results/ray.json] [--rounds 15]

Both are up at the same time and are asked by turns. Each has two engines of `bench/step_server.py` without a step: no
model, vLLM's own events. So what is measured is HTTP, the server, and what Serve puts before it. Beside them stands
what a token would cost that went through a stream of Serve's handles, as the engines' tokens do not. Figures are
medians over rounds, with their 95 % interval (bootstrap).
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import aiohttp

from bench.machine import ROOT, describe, free_port, interval, keep, ponder, started
from ponder.engines.ray.commands import Command
from ponder.server.ray import application
from tests.ray.cluster import Cluster, a_cluster

TOKENS = 32
CALLS, STREAMS = 20, 32
"""Of a round: calls one behind the other, and streams at once."""
ITEMS = 200
CONFIG = """
model = "demo"
[ledger]
url = "none"
[ray]
min_replicas = 2
cpus = 0.1
"""


@dataclass(frozen=True)
class Steps:
    """The program of a replica."""

    def __call__(self, host: str, port: int, key: str) -> Command:
        return Command(step_server(host, port), {"PYTHONPATH": str(ROOT)})


class Items:
    """A deployment whose handles stream."""

    async def items(self, number: int) -> AsyncGenerator[list[int]]:
        for one in range(number):
            yield [one]


def step_server(host: str, port: int) -> Sequence[str]:
    words = ["--host", host, "--port", str(port), "--step", "0", "--tokens", str(TOKENS), "--places", "256"]
    return [sys.executable, "-m", "bench.step_server", *words]


def main() -> None:
    reader = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    reader.add_argument("--json", help="file for the figures")
    reader.add_argument("--rounds", type=int, default=15)
    given = reader.parse_args()
    with ExitStack() as stack:
        plain = plainly(stack)
        cluster = stack.enter_context(
            a_cluster(CONFIG, lambda config, _: application(config, programs=lambda _, __: Steps()))
        )
        found = asyncio.run(measured(plain, cluster, given.rounds)) | handles(given.rounds)
    for name, figure in found.items():
        print(f"{name:48} {figure['median']:10.3f}  ({figure['low']:.3f} .. {figure['high']:.3f})")
    keep({"machine": describe(), "ray": version(), "rounds": given.rounds, "figures": found}, given.json)


def plainly(stack: ExitStack) -> str:
    """The address of `ponder serve` before two engines, until the stack ends."""
    words: list[str] = []
    for _ in range(2):
        port = free_port()
        process = stack.enter_context(subprocess.Popen(step_server("127.0.0.1", port), cwd=ROOT))
        stack.callback(process.terminate)
        words += ["--replica", f"http://127.0.0.1:{port}"]
    port = free_port()
    log = stack.enter_context(tempfile.NamedTemporaryFile(suffix="-plain.log"))  # noqa: SIM115 (the stack's)
    command = [*ponder(ROOT), "serve", "demo", "--port", str(port), *words]
    environment = {"PONDER_LEDGER__URL": "none", "OMP_NUM_THREADS": "1"}
    return stack.enter_context(started("plain", command, port, "/readyz", log, environment)).url


async def measured(plain: str, cluster: Cluster, rounds: int) -> dict[str, dict[str, float]]:
    """By turns."""
    calls: dict[str, list[float]] = {"ponder serve": [], "Ray Serve": []}
    tokens: dict[str, list[float]] = {name: [] for name in calls}
    places = [("ponder serve", plain), ("Ray Serve", cluster.url)]
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as session:
        for number in range(-1, rounds):
            for name, url in places[:: 1 if number % 2 else -1]:
                began = time.perf_counter()
                for _ in range(CALLS):
                    await asked(session, url, stream=False)
                middle = time.perf_counter()
                async with asyncio.TaskGroup() as group:
                    for _ in range(STREAMS):
                        group.create_task(asked(session, url, stream=True))
                ended = time.perf_counter()
                if number >= 0:
                    calls[name].append((middle - began) / CALLS * 1e3)
                    tokens[name].append((ended - middle) / (STREAMS * TOKENS) * 1e6)
    found: dict[str, dict[str, float]] = {}
    for what, values in (("ms a request", calls), ("us a streamed token", tokens)):
        found |= {f"{what}, {name}": figure(of) for name, of in values.items()}
        pairs = zip(values["Ray Serve"], values["ponder serve"], strict=True)
        found[f"{what}, Ray Serve over ponder serve"] = figure([one / other for one, other in pairs])
    return found


async def asked(session: aiohttp.ClientSession, url: str, *, stream: bool) -> None:
    body: dict[str, Any] = {"model": "demo", "messages": [{"role": "user", "content": "Tom has 12 apples."}]}
    body |= {"thinking_budget": 0, "strategy": "direct", "max_tokens": TOKENS, "stream": stream}
    async with session.post(f"{url}/v1/chat/completions", json=body) as response:
        assert response.status == 200, await response.text()
        async for _ in response.content.iter_any():
            pass


def handles(rounds: int) -> dict[str, dict[str, float]]:
    """What an item costs in a stream of a handle's."""
    serve: Any = importlib.import_module("ray.serve")
    made = serve.deployment(Items, ray_actor_options={"num_cpus": 0.1}, logging_config={"enable_access_log": False})
    handle = serve.run(made.bind(), name="items", route_prefix="/items").options(stream=True)
    taken: list[float] = []
    for number in range(-1, max(3, rounds // 3)):
        began = time.perf_counter()
        assert sum(1 for _ in handle.items.remote(ITEMS)) == ITEMS
        if number >= 0:
            taken.append((time.perf_counter() - began) / ITEMS * 1e6)
    return {"us an item of a handle's stream": figure(taken)}


def figure(values: Sequence[float]) -> dict[str, float]:
    low, high = interval(values)
    return {"median": statistics.median(values), "low": low, "high": high}


def version() -> str:
    return str(importlib.import_module("ray").__version__)


if __name__ == "__main__":
    main()
