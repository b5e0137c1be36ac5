"""What Ponder's own front end adds: its server over an instant model, so that all the time there is, is its own.

    python bench/door.py [--json bench/results/NAME.json]

64 tokens of thought, 32 of answer, one event a token when streamed. The loopback and the client are in the figures.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import tempfile
from collections.abc import Sequence

from bench import machine
from bench.load import Volley, bodies, stories, volley
from bench.machine import Server

P50_MS, P99_MS = 2.0, 10.0
"""What may be added at concurrency 1: to the whole answer, or to its first visible text where it is streamed."""


async def rounds(server: Server, options: argparse.Namespace) -> list[dict[str, object]]:
    await volley(server.url, requests(500, streamed=True), 8)
    found: list[dict[str, object]] = []
    for streamed in (False, True):
        for concurrency, count in ((1, options.requests), (64, 2 * options.requests)):
            volleys: list[Volley] = []
            before = server.cpu_seconds() or 0.0
            for _ in range(options.rounds):
                volleys.append(await volley(server.url, requests(count, streamed=streamed), concurrency))
            spent = (server.cpu_seconds() or 0.0) - before
            figures = {
                "requests_per_second": middle([v.per_second for v in volleys]),
                "latency_p50_ms": middle([v.latency(0.5) * 1000 for v in volleys]),
                "latency_p99_ms": middle([v.latency(0.99) * 1000 for v in volleys]),
                **({"first_p50_ms": first(volleys, 0.5), "first_p99_ms": first(volleys, 0.99)} if streamed else {}),
                "cpu_ms_per_request": round(spent * 1000 / (count * options.rounds), 3),
                "memory_mb": round(server.memory_mb() or 0.0, 1),
            }
            found.append({"concurrency": concurrency, "streamed": streamed, "requests": count, **figures})
            show(concurrency, streamed, figures)
    return found


def requests(count: int, *, streamed: bool) -> list[bytes]:
    return bodies("instant", stories(count, 1), streamed=streamed, strategy="direct", thinking_budget=1024)


def first(volleys: Sequence[Volley], share: float) -> float:
    return middle([(v.first(share) or 0.0) * 1000 for v in volleys])


def middle(values: Sequence[float]) -> float:
    return round(statistics.median(values), 3)


def show(concurrency: int, streamed: bool, figures: dict[str, float]) -> None:
    print(f"\nconcurrency {concurrency}, {'streamed' if streamed else 'not streamed'}")
    judged = "first" if streamed else "latency"
    targets = {f"{judged}_p50_ms": P50_MS, f"{judged}_p99_ms": P99_MS} if concurrency == 1 else {}
    for name, value in figures.items():
        target = targets.get(name)
        wanted = "" if target is None else f"   <= {target:g} {'met' if value <= target else 'MISSED'}"
        print(f"  {name.replace('_', ' '):24}{value:10.2f}{wanted}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=2000, help="of a round at concurrency 1; twice as many at 64")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", help="keep the result in this file")
    options = parser.parse_args()
    head = machine.describe()
    print(f"{head['machine']}\n{head['versions']}")
    port = machine.free_port()
    command = [sys.executable, "-m", "bench.instant", "--port", str(port)]
    with (
        tempfile.NamedTemporaryFile(suffix="-ponder.log") as log,
        machine.started("ponder", command, port, "/readyz", log, {}) as server,
    ):
        results = asyncio.run(rounds(server, options))
    machine.keep({**head, "results": results}, options.json)


if __name__ == "__main__":
    main()
