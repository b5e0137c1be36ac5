"""What the ledger costs: commits a second, and the time it adds to a request, beside the fsync of the same disk.

    python bench/ledger.py
    python bench/ledger.py --postgresql postgresql://me@host/bench --folder /fast/disk

A client opens a row and settles it, which are two commits, again and again. The goal: with one client at most two
fsyncs and 1 ms, with 64 clients at most four fsyncs and 3 ms, at p50. PostgreSQL is started here where no address is
given; its data go to the folder for temporary files. `--keep FILE` writes the result down.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import uvloop

from bench import machine
from ponder.compute.account import Intent
from ponder.compute.usage import Usage
from ponder.metering.database import database
from ponder.metering.ledger import open_ledger

CLIENTS = (1, 4, 16, 64)
GOAL = {1: (2, 1.0), 64: (4, 3.0)}
"""By clients: how many fsyncs and how many milliseconds more a request may take at p50."""


class Counted:
    """Counts commits; what else the ledger tells is not of interest."""

    def __init__(self) -> None:
        self.commits = 0

    def settled(self, row: object) -> None:
        """A row is settled."""

    def drifted(self, tokens: int) -> None:
        """Nothing is lost here."""

    def committed(self, seconds: float) -> None:
        self.commits += 1

    def limited(self, key: str, kind: str, limit: int, left: int) -> None:
        """Nothing is limited here."""


def fsync(folder: Path, seconds: float) -> list[float]:
    """Milliseconds that appending a page to a file and waiting for the disk take, each."""
    took: list[float] = []
    file = folder / "fsync"
    with file.open("wb", buffering=0) as out:
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            out.write(os.urandom(4096))
            began = time.perf_counter()
            os.fdatasync(out.fileno())
            took.append(1000 * (time.perf_counter() - began))
    file.unlink()
    return took


async def measure(address: str, clients: int, seconds: float) -> dict[str, Any]:
    """What so many clients see in so many seconds."""
    counted, took = Counted(), list[float]()
    ledger = await open_ledger(database(address), counted)
    end = time.perf_counter() + seconds

    async def client(number: int) -> None:
        n = 0
        while time.perf_counter() < end:
            n += 1
            request = f"req_{os.getpid()}_{time.time_ns()}_{number}_{n}"
            intent = Intent(request, "bench", "demo", "direct", prompt=50, thinking=1000, answer=200, timeout=60)
            began = time.perf_counter()
            bill = await ledger.reserve(intent)
            await bill.settle(Usage(prompt=50, hidden=500, visible=100), "answered")
            took.append(1000 * (time.perf_counter() - began))

    async with asyncio.TaskGroup() as group:
        for number in range(clients):
            group.create_task(client(number))
    await ledger.close()
    return {
        "clients": clients,
        "requests_per_second": round(len(took) / seconds, 1),
        "commits_per_second": round(counted.commits / seconds, 1),
        "p50_ms": round(statistics.median(took), 3),
        "p99_ms": round(statistics.quantiles(took, n=100)[98], 3),
    }


def told(name: str, rows: Sequence[dict[str, Any]], disk: float) -> None:
    """A line for each number of clients, with what was to be kept."""
    for row in rows:
        line = f"{name:10}  {row['clients']:3} clients  {row['requests_per_second']:8} requests/s"
        line += f"  {row['commits_per_second']:7} commits/s  p50 {row['p50_ms']:7} ms  p99 {row['p99_ms']:7} ms"
        if row["clients"] in GOAL:
            fsyncs, more = GOAL[row["clients"]]
            most = fsyncs * disk + more
            line += f"  goal {most:.2f} ms: {'kept' if row['p50_ms'] <= most else 'MISSED'}"
        print(line)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=5, help="of each measurement")
    parser.add_argument("--folder", type=Path, default=None, help="where the databases lie (default: a temporary one)")
    parser.add_argument("--postgresql", metavar="URL", help="an empty database; left out: one that is started here")
    parser.add_argument("--keep", metavar="FILE", help="write the result there as JSON")
    options = parser.parse_args()
    with ExitStack() as stack:
        base = options.folder or Path(tempfile.gettempdir())
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=base)))
        addresses = {"SQLite": f"sqlite:///{folder}/ledger.db"}
        if options.postgresql is not None:
            addresses["PostgreSQL"] = options.postgresql
        else:
            from tests.metering.databases import postgresql

            addresses["PostgreSQL"] = stack.enter_context(postgresql(durable=True)).new()
        result: dict[str, Any] = {"machine": machine.describe()}
        for name, address in addresses.items():
            # Beside each other, because the disk is not the same at any moment.
            disk = fsync(folder, options.seconds / 2)
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                rows = [runner.run(measure(address, clients, options.seconds)) for clients in CLIENTS]
            disk += fsync(folder, options.seconds / 2)
            p50 = statistics.median(disk)
            print(f"{name:10}  fsync p50 {p50:.3f} ms, p99 {statistics.quantiles(disk, n=100)[98]:.3f} ms")
            told(name, rows, p50)
            result[name] = {"fsync_p50_ms": round(p50, 3), "measured": rows}
        machine.keep(result, options.keep)


if __name__ == "__main__":
    main()
