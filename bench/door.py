"""What Ponder's own front end adds: its server over an instant model, so that all the time there is, is its own.

    python bench/door.py [--json bench/results/NAME.json]
    git worktree add /tmp/before HEAD~1 && python bench/door.py --against /tmp/before

64 tokens of thought, 32 of answer, one event a token when streamed. The loopback and the client are in the figures.
With `--against` the same server of another commit is up too, and both are asked in turns (`bench/paired.py`).
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

from bench import machine
from bench.load import bodies, stories, volley
from bench.machine import Server
from bench.paired import ROWS, Entry, Figures, by_turns, compare, measure, show, verdict

P50_MS, P99_MS = 2.0, 10.0
"""What may be added at concurrency 1: to the whole answer, or to its first visible text where it is streamed."""


async def rounds(servers: Sequence[Server], options: argparse.Namespace) -> list[Entry]:
    """One entry for each concurrency and mode."""
    found: list[Entry] = []
    for streamed in (False, True):
        for server in servers:
            await volley(server.url, requests(500, streamed=streamed), 8)
        for concurrency, count in ((1, options.requests), (64, 2 * options.requests)):

            async def one(
                server: Server, _: int, streamed: bool = streamed, at_once: int = concurrency, count: int = count
            ) -> Figures:
                return await measure(server, requests(count, streamed=streamed), at_once)

            each = await by_turns(servers, options.rounds, one)
            found.append(compare(each, streamed, concurrency, count))
            if options.against:
                show(found[-1], target=False)
            else:
                show_alone(found[-1])
    return found


def requests(count: int, *, streamed: bool) -> list[bytes]:
    return bodies("instant", stories(count, 1), streamed=streamed, strategy="direct", thinking_budget=1024)


def show_alone(entry: Entry) -> None:
    print(f"\nconcurrency {entry.concurrency}, {'streamed' if entry.streamed else 'not streamed'}")
    judged = "first" if entry.streamed else "latency"
    targets = {f"{judged}_p50_ms": P50_MS, f"{judged}_p99_ms": P99_MS} if entry.concurrency == 1 else {}
    for name, value in entry.medians["ponder"].items():
        target = targets.get(name)
        wanted = "" if target is None else f"   <= {target:g} {'met' if value <= target else 'MISSED'}"
        print(f"  {ROWS[name]:30}{value:10.2f}{wanted}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", metavar="DIR", help="the same of this checkout, beside it")
    parser.add_argument(
        "--requests",
        type=int,
        help="of a round at concurrency 1, twice as many at 64; left out: 2000, with --against 200",
    )
    parser.add_argument("--rounds", type=int, help="left out: 3, with --against 40")
    parser.add_argument("--json", help="keep the result in this file")
    options = parser.parse_args()
    options.requests = options.requests or (200 if options.against else 2000)
    options.rounds = options.rounds or (40 if options.against else 3)
    head = machine.describe()
    print(f"{head['machine']}\n{head['versions']}")
    checkouts: dict[str, Path] = {"ponder": machine.ROOT}
    if options.against:
        checkouts["before"] = machine.checkout(options.against)
    with ExitStack() as stack:
        servers: list[Server] = []
        for name, checkout in checkouts.items():
            log = stack.enter_context(tempfile.NamedTemporaryFile(suffix=f"-{name}.log"))
            port = machine.free_port()
            command = [sys.executable, "-m", "bench.instant", "--port", str(port)]
            servers.append(
                stack.enter_context(machine.started(name, command, port, "/readyz", log, {}, checkout=checkout))
            )
        entries = asyncio.run(rounds(servers, options))
    if options.against:
        verdict(entries)
    commits = {name: machine.commit(checkout) for name, checkout in checkouts.items()}
    result = {"rounds": options.rounds, "requests": options.requests, "commits": commits}
    machine.keep({**head, **result, "results": [asdict(entry) for entry in entries]}, options.json)


if __name__ == "__main__":
    main()
