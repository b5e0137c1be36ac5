"""What callers feel of one another: a light request beside many large ones, and the server at ten times its load.

    python -m bench.fairness [--json bench/results/fairness-NAME.json]

Ponder's own server over a model of fixed step time (`bench/fixed_step.py`), in a process of its own and over HTTP. So
what is measured is waiting, and not how fast a machine makes tokens; both figures of a ratio are of one run.

- **beside**: 95th percentile of one caller's `direct` requests alone, and beside `--callers` who ask for votes of 64
  chains again and again, on another key and on the same one. Three times as long is the limit.
- **tenfold**: requests, one in four a vote of eight chains, are sent at a rate of their own: what the model can do, and
  ten times that. Tokens a second of what is answered whole and in time, over those of the first; the limit is .95.
  Refusals are to come within 50 ms at the 99th percentile.

First, a light request is measured with all calls waiting in the model's own queue, first come, first served.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from contextlib import ExitStack
from typing import Any, cast

import uvloop

from bench import machine
from bench.fixed_step import FixedStep
from bench.load import percentile
from ponder.compute.lengths import Lengths
from ponder.server.app import ServedModel, create_app
from ponder.server.auth.keys import digest
from ponder.server.http.server import run
from ponder.server.http.sockets import bind, listen, url_of
from ponder.server.settings import KeySettings, ModelSettings, Settings

STEP = 0.03
PLACES = 32
THOUGHTS = (20, 28, 36, 44, 52)
"""Tokens of thoughts; an answer has eight."""
MEAN = sum(THOUGHTS) / len(THOUGHTS) + 8
CHAINS = 64
LIGHT: dict[str, Any] = {"strategy": "direct", "thinking_budget": 1000}
VOTE: dict[str, Any] = {
    "strategy": {"name": "majority_vote", "n": CHAINS, "first": CHAINS, "confidence": 1},
    "thinking_budget": 200_000,
    "timeout": 540,
}
SMALL_VOTE: dict[str, Any] = {
    "strategy": {"name": "majority_vote", "n": 8, "first": 8, "confidence": 1},
    "thinking_budget": 2000,
}
PATIENCE = 10
"""Seconds that a request of the tenfold load has."""
KEYS = ("heavy", "light")


async def serve(port: int, *, fair: bool) -> None:
    """The server that is measured."""
    engine = FixedStep(STEP, PLACES, thought=lambda call: THOUGHTS[call * 7 % len(THOUGHTS)], fair=fair)
    served = ServedModel(engine=engine, lengths=Lengths(50, 60), settings=ModelSettings(path="fixed"))
    settings = Settings(
        port=port, keys=[KeySettings(name=name, hash=digest("pk-" + name)) for name in KEYS], max_queue=256
    )
    with bind(settings.host, settings.port) as sock:
        app = create_app(settings, {"fixed": served})
        listen(sock)
        sys.stdout.write(f"serving a model of fixed step time at {url_of(sock)}\n")
        sys.stdout.flush()
        await run(app, settings, sock, app.state.handle.drain, lambda _: None)


class Asked:
    """One answer over one connection."""

    def __init__(self, status: int, seconds: float, content: bytes) -> None:
        self.status, self.seconds = status, seconds
        answer: dict[str, Any] = json.loads(content) if status == 200 else {"usage": {}, "thinking": {}}
        self.tokens: int = answer["usage"].get("completion_tokens", 0)
        self.cut: bool = answer["thinking"].get("stopped_by") == "deadline"
        """By its deadline: an answer, but not the one that was wanted."""


async def ask(port: int, key: str, body: dict[str, Any]) -> Asked:
    """Asks over a connection of its own."""
    text = json.dumps({"model": "fixed", "messages": [{"role": "user", "content": "6 * 7?"}], **body}).encode()
    began = time.perf_counter()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(
            f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer pk-{key}\r\n"
            f"Content-Type: application/json\r\nConnection: close\r\nContent-Length: {len(text)}\r\n\r\n".encode()
            + text
        )
        answer = await reader.read()
    finally:
        writer.close()
    seconds = time.perf_counter() - began
    head, _, content = answer.partition(b"\r\n\r\n")
    status = int(head.split(b" ", 2)[1])
    return Asked(status, seconds, content)


async def beside(port: int, callers: int, heavy: str, requests: int) -> dict[str, float]:
    """Milliseconds of a light request, alone and beside the others."""

    async def light() -> float:
        asked = await ask(port, "light", LIGHT)
        if asked.status != 200:
            raise SystemExit(f"a light request was answered {asked.status}")
        return asked.seconds * 1000

    async def again_and_again() -> None:
        while True:
            await ask(port, heavy, VOTE)

    alone = [await light() for _ in range(max(10, requests))]
    tasks = [asyncio.create_task(again_and_again()) for _ in range(callers)]
    await asyncio.sleep(5)
    loaded = [await light() for _ in range(requests)]
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    figures = {
        "alone_p50_ms": percentile(alone, 0.5),
        "alone_p95_ms": percentile(alone, 0.95),
        "beside_p50_ms": percentile(loaded, 0.5),
        "beside_p95_ms": percentile(loaded, 0.95),
    }
    figures["ratio_p95"] = figures["beside_p95_ms"] / figures["alone_p95_ms"]
    return {name: round(value, 3) for name, value in figures.items()}


async def sent(port: int, rate: float, seconds: float) -> dict[str, float]:
    """What becomes of requests that are sent at a rate, once the queue is what it will be."""
    answered: list[tuple[float, int]] = []
    refusals: list[float] = []
    late = 0
    begin = time.perf_counter()
    settled = PATIENCE

    async def one(number: int) -> None:
        nonlocal late
        body = {**(SMALL_VOTE if number % 4 == 0 else LIGHT), "timeout": PATIENCE}
        asked = await ask(port, KEYS[number % 3 == 0], body)
        if asked.cut:
            late += 1
        elif asked.status == 200:
            answered.append((time.perf_counter() - begin, asked.tokens))
        elif asked.seconds >= PATIENCE * 0.9:
            late += 1
        else:
            refusals.append(asked.seconds * 1000)

    async with asyncio.TaskGroup() as group:
        number = 0
        while (at := time.perf_counter() - begin) < settled + seconds:
            while number < at * rate:
                group.create_task(one(number))
                number += 1
            await asyncio.sleep(0.005)
    kept = [tokens for ended, tokens in answered if settled <= ended < settled + seconds]
    return {
        "sent_per_second": round(rate, 1),
        "tokens_per_second": round(sum(kept) / seconds, 1),
        "answered": len(answered),
        "refused": len(refusals),
        "late": late,
        "refused_p50_ms": round(percentile(refusals, 0.5), 1) if refusals else 0.0,
        "refused_p99_ms": round(percentile(refusals, 0.99), 1) if refusals else 0.0,
    }


async def measure(port: int, options: argparse.Namespace) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for whose, heavy in (("another key", "heavy"), ("the same key", "light")):
        found[f"beside {options.callers} callers of {whose}"] = await beside(
            port, options.callers, heavy, options.requests
        )
        await asyncio.sleep(1)
    capacity = PLACES / STEP / (MEAN * (1 * 3 + 8) / 4)
    found["at its load"] = peak = await sent(port, capacity, options.seconds)
    await asyncio.sleep(1)
    found["at ten times its load"] = tenfold = await sent(port, 10 * capacity, options.seconds)
    found["goodput_ratio"] = round(tenfold["tokens_per_second"] / peak["tokens_per_second"], 3)
    return found


async def first_come(port: int, options: argparse.Namespace) -> dict[str, Any]:
    """The same of the model's own queue, where a request takes minutes: one of them."""
    return {f"beside {options.callers} callers": await beside(port, options.callers, "heavy", 1)}


def show(name: str, found: dict[str, Any]) -> None:
    print(f"\n{name}")
    for what, figures in found.items():
        if isinstance(figures, dict):
            print(f"  {what}")
            for figure, value in cast("dict[str, float]", figures).items():
                wanted = {"ratio_p95": 3.0, "refused_p99_ms": 50.0}.get(figure)
                judged = "" if wanted is None else f"   <= {wanted:g} {'met' if value <= wanted else 'MISSED'}"
                print(f"    {figure:20}{value:12.2f}{judged}")
        else:
            print(f"  {what:22}{figures:12.3f}   >= 0.95 {'met' if figures >= 0.95 else 'MISSED'}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--callers", type=int, default=60, help="of large votes")
    parser.add_argument("--requests", type=int, default=100, help="light ones, alone and beside them")
    parser.add_argument("--seconds", type=float, default=20, help="that a load is measured for")
    parser.add_argument("--port", type=int, help="serve, and measure nothing")
    parser.add_argument("--first-come", action="store_true", help="with --port: calls wait with the model")
    parser.add_argument("--json", help="keep the result in this file")
    options = parser.parse_args()
    if options.port is not None:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(serve(options.port, fair=not options.first_come))
        return
    head = machine.describe({})
    print(f"{head['machine']}\n{head['versions']}")
    results: dict[str, Any] = {}
    for name, flags in (("first come, first served", ["--first-come"]), ("ponder", [])):
        with ExitStack() as stack:
            log = stack.enter_context(tempfile.NamedTemporaryFile(suffix=".log"))
            port = machine.free_port()
            command = [sys.executable, "-m", "bench.fairness", "--port", str(port), *flags]
            stack.enter_context(machine.started(name, command, port, "/readyz", log, {}))
            results[name] = asyncio.run(measure(port, options) if not flags else first_come(port, options))
        show(name, results[name])
    machine.keep({**head, "step_ms": STEP * 1000, "places": PLACES, "results": results}, options.json)


if __name__ == "__main__":
    main()
