"""What it costs to use a vLLM server by its address: over calling it directly, a call and a token; and what two give.

    python -m bench.replicas [--json bench/results/replicas.json] [--rounds 15]

The servers are `bench/step_server.py`: no model, a fixed step time, vLLM's own events, each a process of its own. The
same calls are made by turns by a replica (`ponder.engines.replicas`) and by a bare client of the same library that
reads the bytes and looks at none. Figures are medians over rounds, with their 95 % interval (bootstrap).
"""

from __future__ import annotations

import argparse
import asyncio
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import ExitStack, aclosing
from typing import Any

import aiohttp
import httpx

from bench.machine import ROOT, describe, free_port, interval, keep
from ponder.compute.budget import Budget, Spending
from ponder.compute.engine import Sampling
from ponder.compute.text import Message, Prompt
from ponder.compute.transcript import Transcript
from ponder.engines.replicas.known import KnownModel, know
from ponder.engines.replicas.server import VllmServer, connect

PROMPT = Prompt((Message("user", "Tom has 12 apples. Tom gets 7 more. How many apples does Tom have now?"),))
TOKENS = 32
STREAMS = 64
STEP = 0.02


def main() -> None:
    reader = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    reader.add_argument("--json", help="file for the figures")
    reader.add_argument("--rounds", type=int, default=15)
    given = reader.parse_args()
    found = asyncio.run(measured(given.rounds))
    for name, figure in found.items():
        print(f"{name:48} {figure['median']:8.3f}  ({figure['low']:.3f} .. {figure['high']:.3f})")
    keep({"machine": describe(), "rounds": given.rounds, "figures": found}, given.json)


async def measured(rounds: int) -> dict[str, dict[str, float]]:
    """All figures."""
    known = await know(str(ROOT / "models" / "demo"), name="demo")
    with ExitStack() as stack:
        quick, one, two = (_started(stack, step) for step in (0.0, STEP, STEP))
        return await _overhead(known, quick, rounds) | await _twice(known, one, two, max(3, rounds // 5))


async def _overhead(known: KnownModel, url: str, rounds: int) -> dict[str, dict[str, float]]:
    engine = await connect(url, known)
    ids = list(engine.model.prompts.render(PROMPT, thinking=False).ids)
    asked: dict[str, Any] = {"model": "demo", "prompt": ids, "max_tokens": TOKENS, "stream": True}
    asked |= {"return_token_ids": True, "stream_options": {"include_usage": True}}
    calls: dict[str, list[float]] = {"replica": [], "direct": []}
    cpu: dict[str, list[float]] = {"replica": [], "aiohttp": [], "httpx": []}
    async with aiohttp.ClientSession() as session, httpx.AsyncClient(timeout=60) as client:

        async def bare() -> None:
            async with session.post(f"{url}/v1/completions", json=asked) as response:
                async for _ in response.content.iter_any():
                    pass

        async def other() -> None:
            async with client.stream("POST", f"{url}/v1/completions", json=asked) as response:
                async for _ in response.aiter_raw():
                    pass

        async def ours() -> None:
            await write(engine)

        await ours()
        for number in range(rounds):
            # One call after the other, and then many streams at once; who begins, changes.
            pairs = [("replica", ours), ("direct", bare)]
            for name, call in pairs[:: 1 if number % 2 else -1]:
                calls[name].append(await _wall([call] * 20, together=False) / 20 * 1000)
            for name, call in (("replica", ours), ("aiohttp", bare), ("httpx", other)):
                cpu[name].append(await _cpu([call] * STREAMS) / (STREAMS * TOKENS) * 1e6)
    await engine.close()
    added = [one - two for one, two in zip(calls["replica"], calls["direct"], strict=True)]
    return {
        "ms added to a call of 32 tokens": _figure(added),
        **{f"us of processor a streamed token, {name}": _figure(values) for name, values in cpu.items()},
    }


async def _twice(known: KnownModel, first: str, second: str, rounds: int) -> dict[str, dict[str, float]]:
    """How much more two servers of fixed step time do than one, each with 16 places and 64 calls in all."""
    engines = [await connect(url, known) for url in (first, second)]
    ratios: list[float] = []
    for _ in range(rounds):
        alone = await _wall([lambda: write(engines[0])] * STREAMS)
        both = [(lambda engine=engine: write(engine)) for engine in engines] * (STREAMS // 2)
        ratios.append(alone / await _wall(both))
    for engine in engines:
        await engine.close()
    return {"two engines of fixed step time over one": _figure(ratios)}


async def write(engine: VllmServer) -> None:
    """One call, streamed."""
    with Spending(Budget(0, TOKENS)).reserve("sample", thinking=0, answer=TOKENS, bound=True) as reservation:
        transcript = Transcript(reservation, PROMPT)
        async with aclosing(engine.generate(PROMPT, Sampling(0, TOKENS, streamed=True), transcript)) as stream:
            async for _ in stream:
                pass
    assert reservation.visible == TOKENS


async def _wall(calls: Sequence[Callable[[], Awaitable[None]]], *, together: bool = True) -> float:
    """Seconds that calls take."""
    began = time.perf_counter()
    if together:
        async with asyncio.TaskGroup() as group:
            for call in calls:
                group.create_task(_made(call))
    else:
        for call in calls:
            await call()
    return time.perf_counter() - began


async def _made(call: Callable[[], Awaitable[None]]) -> None:
    await call()


async def _cpu(calls: Sequence[Callable[[], Awaitable[None]]]) -> float:
    """Seconds of this process's processor time that calls take, all at once."""
    before = resource.getrusage(resource.RUSAGE_SELF)
    await _wall(calls)
    after = resource.getrusage(resource.RUSAGE_SELF)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def _figure(values: Sequence[float]) -> dict[str, float]:
    low, high = interval(values)
    return {"median": statistics.median(values), "low": low, "high": high}


def _started(stack: ExitStack, step: float) -> str:
    """The address of a server, which ends with the stack."""
    port = free_port()
    command = [sys.executable, "-m", "bench.step_server", "--port", str(port), "--step", str(step)]
    process = stack.enter_context(subprocess.Popen([*command, "--tokens", str(TOKENS)], cwd=ROOT))
    stack.callback(process.terminate)
    url, end = f"http://127.0.0.1:{port}", time.monotonic() + 120
    while True:
        try:
            if httpx.get(f"{url}/health").status_code == 200:
                return url
        except httpx.HTTPError:
            if process.poll() is not None or time.monotonic() > end:
                raise
            time.sleep(0.1)


if __name__ == "__main__":
    main()
