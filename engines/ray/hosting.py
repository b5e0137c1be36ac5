"""One replica of a deployment: it starts a server with vLLM's routes, says where that listens and how it stands, and
ends it when it has nothing left to do.

The server is a process of its own, tied to this one: however that ends, it ends too (`ponder.engines.lifeline`).
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import socket
import subprocess
from collections.abc import Callable
from contextlib import suppress

from pydantic import SecretStr

from ponder.compute.clock import now
from ponder.compute.errors import EngineError
from ponder.engines.lifeline import tie_children
from ponder.engines.ray.commands import Program
from ponder.engines.ray.meetings import SECONDS, Told, Where
from ponder.engines.ray.scaling import OUTSIDE, RUNNING, WAITING
from ponder.engines.ray.scaling import SECONDS as CALL_SECONDS
from ponder.engines.replicas.connection import Access, Connection
from ponder.engines.replicas.metrics import load_of, samples
from ponder.engines.replicas.replica import Load

log = logging.getLogger(__name__)

LOOK = 0.2
"""Seconds between two looks at a server that starts or ends."""
FORGOTTEN = 5 * SECONDS
"""After which what a server has told is forgotten."""
STUCK_SECONDS = 120.0
"""A server that has calls and no token for so long hangs, though it says that it lives."""
TOKENS = ("vllm:generation_tokens_total", "vllm:prompt_tokens_total")
END_SECONDS = 10.0
"""For the process to end when it is asked to."""


class Progress:
    """Whether a server that has calls goes on with them, by its own counts."""

    def __init__(self) -> None:
        self._made, self._since = -1.0, now()

    def look(self, text: str, running: int) -> None:
        """Looks at its metrics. Raises `EngineError` where it has had calls for `STUCK_SECONDS` and has neither read
        nor made a token."""
        counts = [value for name, _, value in samples(text) if name in TOKENS]
        made = sum(counts)
        if not counts or not running or made != self._made:
            self._made, self._since = made, now()
        elif now() - self._since > STUCK_SECONDS:
            raise EngineError(f"it has {running} calls, and no token for {STUCK_SECONDS:.0f} s")


class Host:
    """The replica, of the model `name`."""

    def __init__(self, name: str, program: Program, drain: float, address: Callable[[], str]) -> None:
        """`drain`: seconds that calls have to end when Serve takes it out. `address` is this machine's, as the others
        of the cluster reach it."""
        self._name, self._program, self._drain = name, program, drain
        self._address = address
        self._told: dict[str, tuple[Told, float]] = {}
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: Connection | None = None
        self._where = Where("", "")
        self._progress = Progress()

    async def start(self) -> None:
        """Returns when the server answers. Raises `EngineError` where it ends before."""
        ip, key = self._address(), secrets.token_urlsafe(24)
        port = _free_port(ip)
        command = self._program(ip, port, key)
        tie_children()
        host = f"[{ip}]" if ":" in ip else ip
        self._where = Where(f"http://{host}:{port}", key)
        self._connection = Connection(
            self._where.url, Access(key=SecretStr(key)), f"the server of {self._name} at {self._where.url}"
        )
        environment = os.environ | dict(command.environment)
        self._process = await asyncio.to_thread(
            subprocess.Popen, list(command.words), env=environment, stdin=subprocess.DEVNULL
        )
        while True:
            if (status := self._process.poll()) is not None:
                raise EngineError(
                    f"the server of {self._name} ended with status {status} while it was started: what it said is in "
                    f"Ray's log of this replica. Its command: {' '.join(command.words)}"
                )
            with suppress(EngineError):
                await self._connection.short("/health")
                return
            await asyncio.sleep(LOOK)

    async def meet(self, told: Told) -> Where:
        """See `ponder.engines.ray.meetings`."""
        self._told[told.door] = told, now()
        return self._where

    async def check(self) -> None:
        """Raises `EngineError` where the server has ended, hangs, or says that its engine has ended: Serve starts
        another."""
        if self._process is None or self._connection is None or self._process.poll() is not None:
            raise EngineError(f"the server of {self._name} has ended")
        await self._connection.short("/health")
        text = await self._metrics()
        try:
            running = load_of(text, self._name).running
        except EngineError:
            return  # It does not say what it has to do.
        self._progress.look(text, running)

    async def load(self) -> Load:
        """What the server has to do. Raises `EngineError` where it does not say."""
        return load_of(await self._metrics(), self._name)

    async def _metrics(self) -> str:
        if self._connection is None:
            raise EngineError(f"the server of {self._name} was not started")
        return (await self._connection.short("/metrics")).decode(errors="replace")

    async def demand(self) -> dict[str, float]:
        """See `ponder.engines.ray.scaling`; nothing where the server does not say what it has to do."""
        oldest = now() - FORGOTTEN
        try:
            load = await self.load()
        except EngineError:
            return {}
        self._told = {door: (told, at) for door, (told, at) in self._told.items() if at >= oldest}
        heard = [told for told, _ in self._told.values()]
        return {
            RUNNING: float(load.running),
            WAITING: float(load.waiting),
            OUTSIDE: float(sum(told.waiting for told in heard)),
            CALL_SECONDS: max((told.seconds for told in heard), default=0.0),
        }

    async def close(self) -> None:
        """Ends the server when it has nothing to do any more, or its time is over. Idempotent."""
        process, self._process = self._process, None
        if process is None or self._connection is None:
            return
        end = now() + self._drain
        # Servers that have not met since may still give it calls.
        await asyncio.sleep(min(self._drain, 2 * SECONDS))
        while process.poll() is None and now() < end:
            try:
                load = await self.load()
            except EngineError:
                break
            if not load.running + load.waiting:
                break
            await asyncio.sleep(LOOK)
        await self._connection.close()
        process.terminate()
        try:
            await asyncio.to_thread(process.wait, END_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            await asyncio.to_thread(process.wait)


def _free_port(ip: str) -> int:
    family = socket.AF_INET6 if ":" in ip else socket.AF_INET
    with socket.socket(family) as free:
        free.bind((ip, 0))
        return int(free.getsockname()[1])
