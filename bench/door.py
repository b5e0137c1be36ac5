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
from functools import partial
from pathlib import Path

from bench import machine
from bench.load import bodies, stories, volley
from bench.machine import Server
from bench.paired import ROWS, Entry, Figures, Measured, by_turns, entries, measure, show, verdict

P50_MS, P99_MS = 2.0, 10.0
"""What may be added at concurrency 1: to the whole answer, or to its first visible text where it is streamed."""


async def rounds(servers: Sequence[Server], options: argparse.Namespace) -> Measured:
    """The rounds of one start."""
    found: Measured = {}
    for streamed in (False, True):
        for server in servers:
            await volley(server.url, requests(500, streamed=streamed), 8)
        for concurrency in (1, 64):

            async def one(server: Server, _: int, streamed: bool = streamed, at_once: int = concurrency) -> Figures:
                return await measure(server, requests(count(options, at_once), streamed=streamed), at_once)

            found[streamed, concurrency] = await by_turns(servers, options.rounds // options.starts, one)
    return found


def count(options: argparse.Namespace, concurrency: int) -> int:
    """Requests of a round."""
    return options.requests if concurrency == 1 else 2 * options.requests


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


def up(name: str, checkout: Path, stack: ExitStack) -> Server:
    """The server of a checkout, ready."""
    log = stack.enter_context(tempfile.NamedTemporaryFile(suffix=f"-{name}.log"))  # noqa: SIM115 (the stack's)
    port = machine.free_port()
    command = [sys.executable, "-m", "bench.instant", "--port", str(port)]
    return stack.enter_context(machine.started(name, command, port, "/readyz", log, {}, checkout=checkout))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", metavar="DIR", help="the same of this checkout, beside it")
    parser.add_argument(
        "--requests",
        type=int,
        help="of a round at concurrency 1, twice as many at 64; left out: 2000, with --against 200",
    )
    parser.add_argument("--rounds", type=int, help="left out: 3, with --against 40")
    parser.add_argument("--starts", type=int, help="the rounds are divided among them; left out: 1, with --against 4")
    parser.add_argument("--json", help="keep the result in this file")
    options = parser.parse_args()
    options.requests = options.requests or (200 if options.against else 2000)
    options.rounds = options.rounds or (40 if options.against else 3)
    options.starts = min(options.starts or (4 if options.against else 1), options.rounds)
    head = machine.describe({})
    print(f"{head['machine']}\n{head['versions']}")
    checkouts: dict[str, Path] = {"ponder": machine.ROOT}
    if options.against:
        checkouts["before"] = machine.checkout(options.against)
    both = list(checkouts.items())
    measured: list[Measured] = []
    for number in range(options.starts):
        with ExitStack() as stack:
            # Which is started first changes from start to start: `bench/overhead.py` says why.
            servers = [up(name, checkout, stack) for name, checkout in (both if number % 2 == 0 else both[::-1])]
            measured.append(asyncio.run(rounds(servers if number // 2 % 2 == 0 else servers[::-1], options)))
    results = entries(measured, partial(count, options))
    for entry in results:
        if options.against:
            show(entry, target=False)
        else:
            show_alone(entry)
    if options.against:
        verdict(results)
    commits = {name: machine.commit(checkout) for name, checkout in checkouts.items()}
    result = {
        "starts": options.starts,
        "rounds": options.rounds // options.starts * options.starts,
        "requests": options.requests,
        "commits": commits,
    }
    machine.keep({**head, **result, "results": [asdict(entry) for entry in results]}, options.json)


if __name__ == "__main__":
    main()
