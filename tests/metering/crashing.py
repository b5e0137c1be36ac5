"""Servers that are killed: a process that has imported everything, and forks one server after the other.

Run as a script: `crashing.py ADDRESS SOCKET CHECKPOINT`. For each line on its standard input it forks a server with
callers of its own, says its process id on standard output, waits for it to be killed, and says that, too. So a server
costs no imports.
"""

from __future__ import annotations

import asyncio
import os
import random
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from ponder.compute.lengths import Lengths
from ponder.server.auth.keys import digest
from ponder.server.settings import KeySettings, Settings
from ponder.testing import Chain, always
from tests.metering.truth import DistantEngine
from tests.server.ledgered import Ledgered, ledgered
from tests.server.serving import Line

CALLERS = 6
CHAINS = 4
"""Of a request, that are written at the same time at most."""
ASKED: list[dict[str, object]] = [
    {"strategy": "direct", "thinking_budget": 500},
    {"strategy": "direct", "thinking_budget": 40, "n": 2},
    {"strategy": {"name": "majority_vote", "n": 4}, "thinking_budget": 600},
    {"strategy": {"name": "best_of_n", "n": 3}, "thinking_budget": 500},
    {"strategy": "revision", "thinking_budget": 400},
]
KEY = "caller"
SETTINGS = Settings(
    keys=[
        KeySettings(
            name=KEY,
            hash=digest(KEY),
            thinking_tokens_per_day=1 << 40,
            thinking_tokens_per_month=1 << 40,
            max_inflight=64,
        )
    ]
)
"""All callers have one key, whose limits they do not meet."""


class Servers:
    """The process that forks."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process

    def begin(self) -> int:
        """A new server under load; its process id."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(b"\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def ended(self) -> None:
        """Returns when it is dead."""
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == b"ended\n"


@contextmanager
def servers(address: str, socket: str, checkpoint: int) -> Generator[Servers]:
    root = Path(__file__).parent.parent.parent
    command = [sys.executable, "-m", "tests.metering.crashing", address, socket, str(checkpoint)]
    environment = os.environ | {"PYTHONPATH": str(root)}
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, cwd=root, env=environment) as process:
        try:
            yield Servers(process)
        finally:
            process.kill()


# -- the process ------------------------------------------------------------------------------------------------------


async def under_load(address: str, socket: str, checkpoint: int) -> None:
    chains = [Chain("think about it\n" * n, f"It is {n}.") for n in (3, 9, 20)]
    engine = DistantEngine(always(*chains), socket=socket)
    async with (
        ledgered(engine, address, SETTINGS, checkpoint=checkpoint, lengths=Lengths(60, 300)) as on,
        asyncio.TaskGroup() as group,
    ):
        # Tokens take longer than commits, however busy this machine is.
        writer = on.ledger._writer  # pyright: ignore[reportPrivateUsage]
        engine.held = lambda: writer.pending > 0
        for number in range(CALLERS):
            group.create_task(calling(on, number))


async def calling(on: Ledgered, number: int) -> None:
    chance = random.Random()
    while True:
        line = Line(stream=bool(number % 2), **chance.choice(ASKED))
        if chance.random() < 0.2:
            asyncio.get_running_loop().call_later(chance.random() / 20, line.gone.set)
        await line.call(on.app, KEY)


def main(address: str, socket: str, checkpoint: str) -> None:
    for _ in sys.stdin:
        child = os.fork()
        if child == 0:
            try:
                asyncio.run(under_load(address, socket, int(checkpoint)))
            finally:
                os._exit(1)
        sys.stdout.write(f"{child}\n")
        sys.stdout.flush()
        os.waitpid(child, 0)
        sys.stdout.write("ended\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
