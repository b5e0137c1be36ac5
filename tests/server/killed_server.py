"""What a server has running, as a program to be killed: an engine that makes tokens in a process of its own, a worker
of the pool and a program in the sandbox. It prints a line when all are there. Whichever of them is killed, it has the
like of it again."""

from __future__ import annotations

import asyncio
import sys
from contextlib import suppress
from pathlib import Path

import psutil

from ponder.compute.errors import Lost, NoVerdict
from ponder.compute.pool import pool
from ponder.engines import lifeline
from ponder.engines.supervisor import Supervisor
from ponder.verifiers.sandbox import Sandbox
from tests.engines.token_process import TokenEngine, TokenProcess


def running() -> str:
    return " ".join(word for one in psutil.Process().children(recursive=True) for word in one.cmdline())


async def main(folder: Path) -> None:
    process = TokenProcess(folder / "truth")
    await process.start()
    supervisor = Supervisor(process, TokenEngine(process=process).check)

    async def writing() -> None:
        while True:
            with suppress(Lost):
                await supervisor.ready()
                while True:
                    # In the folder stands whether its process is given more than it has memory for.
                    await process.make("x" * (1 << 24 if (folder / "wants").exists() else 1))
            (folder / "wants").unlink(missing_ok=True)
            await asyncio.sleep(0.01)

    async def matching() -> None:
        until = asyncio.get_running_loop().time() + 600
        while True:
            with suppress(NoVerdict):
                await pool().ask("match", "(a|b|ab)*c", "ab" * 10_000, tenant=None, seconds=300, until=until)

    async def running_programs() -> None:
        while True:
            await Sandbox(256).run("while True: pass", "", 300)

    async with supervisor.watching(), asyncio.TaskGroup() as group:
        group.create_task(writing())
        group.create_task(matching())
        group.create_task(running_programs())
        while process.progress < 100 or not all(word in running() for word in ("bwrap", "worker.py")):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        print("up", flush=True)


lifeline.tie_children()
asyncio.run(main(Path(sys.argv[1])))
