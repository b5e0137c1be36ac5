"""The worker pool for untrusted work: what callers and models wrote and may hang or swell (computer algebra, patterns,
JSON schemas) is checked in processes that can be killed, and shared out fairly among tenants.

Workers are started as they are needed and belong to this process, turns to an event loop. Each item has a bound on its
processor time, which does not depend on what else the machine does, and a deadline on the clock, for which waiting
counts. An item that breaks a bound, or whose caller goes away, costs its worker; the next gets a new one.
"""

from __future__ import annotations

import asyncio
import atexit
import json
import os
import signal
import socket
import subprocess
import sys
from collections import Counter, deque
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Literal
from weakref import WeakKeyDictionary

from ponder.compute.errors import NoVerdict

Task = Literal["same", "match", "schema"]
"""Are two mathematical expressions equal · is the RE2 pattern (first) found in the text (second) · does the JSON text
(second) fulfil the JSON schema (first)."""

CORES = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 2
KEPT = max(2, min(8, CORES))
"""Workers that stay when there is nothing to do: what one tenant alone may have at work."""
PLACES = 2 * KEPT
"""Workers at most."""


class Turns:
    """Turns at a number of places, fairly: whoever has the fewest goes first, of equals in turn, and each tenant's own
    in the order they came. Nobody has all: with `a` tenants at work or waiting each has at most 1/(a+1) of the
    places, and one at least, so that who comes next need not wait for what the others are at."""

    def __init__(self, places: int) -> None:
        self.places = places
        self._running: Counter[str | None] = Counter()
        self._waiting: dict[str | None, deque[asyncio.Future[None]]] = {}
        self._granted: dict[str | None, int] = {}
        """The number of the last turn of those who work or wait."""
        self._turns = 0

    @property
    def share(self) -> int:
        """What a tenant may have at a time, as things are."""
        active = len(self._running.keys() | self._waiting.keys())
        return max(1, self.places // (max(1, active) + 1))

    @asynccontextmanager
    async def turn(self, tenant: str | None) -> AsyncGenerator[None]:
        """Waits for a place and keeps it within the block."""
        mine: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(tenant, deque()).append(mine)
        self._grant()
        try:
            await mine
        except asyncio.CancelledError:
            if mine.cancelled():
                self._forget(tenant, mine)
            else:
                self._leave(tenant)
            raise
        try:
            yield
        finally:
            self._leave(tenant)

    def _grant(self) -> None:
        while self._running.total() < self.places:
            ready = [tenant for tenant in self._waiting if self._running[tenant] < self.share]
            if not ready:
                return
            tenant = min(ready, key=lambda tenant: (self._running[tenant], self._granted.get(tenant, 0)))
            first = self._waiting[tenant].popleft()
            if not self._waiting[tenant]:
                del self._waiting[tenant]
            if not first.done():
                self._running[tenant] += 1
                self._turns += 1
                self._granted[tenant] = self._turns
                first.set_result(None)

    def _leave(self, tenant: str | None) -> None:
        self._running[tenant] -= 1
        if not self._running[tenant]:
            del self._running[tenant]
            if tenant not in self._waiting:
                del self._granted[tenant]
        self._grant()

    def _forget(self, tenant: str | None, mine: asyncio.Future[None]) -> None:
        if mine in (queue := self._waiting.get(tenant, deque())):
            queue.remove(mine)
            if not queue:
                del self._waiting[tenant]
        if tenant not in self._waiting and not self._running[tenant]:
            self._granted.pop(tenant, None)
        self._grant()


class WorkerPool:
    """At most `places` items at work at a time, each in a process of its own; for one event loop."""

    def __init__(self, places: int = PLACES) -> None:
        self._turns = Turns(places)

    @property
    def share(self) -> int:
        """Items a tenant may have at work now."""
        return self._turns.share

    async def ask(
        self, task: Task, first: str, second: str, *, tenant: str | None, seconds: float, until: float
    ) -> bool:
        """The verdict on one item, within `seconds` of processor time and before `until` (loop time), waiting
        included. Raises `NoVerdict`."""
        request = json.dumps([task, first, second, seconds]).encode() + b"\n"
        try:
            async with asyncio.timeout_at(until), self._turns.turn(tenant):
                return await _asked(task, request)
        except TimeoutError:
            raise NoVerdict(f"{task} had no verdict in time", "late") from None


_pools: WeakKeyDictionary[asyncio.AbstractEventLoop, WorkerPool] = WeakKeyDictionary()


def pool() -> WorkerPool:
    """The pool of the running event loop."""
    return _pools.setdefault(asyncio.get_running_loop(), WorkerPool())


# -- the processes ----------------------------------------------------------------------------------------------------


class _Worker:
    """One process and the socket it is asked through; belongs to no event loop."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                self.process = subprocess.Popen(  # noqa: S603
                    [sys.executable, "-P", str(Path(__file__).with_name("worker.py")), str(os.getpid())],
                    stdin=theirs.fileno(),
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    env={k: v for k, v in os.environ.items() if k in ("PATH", "LANG", "PYTHONPATH", "VIRTUAL_ENV")},
                )
            except OSError:
                ours.close()
                raise
        ours.setblocking(False)
        self._socket = ours
        self.knows: set[str] = set()
        """The tasks whose imports it has behind it."""

    async def ask(self, request: bytes) -> tuple[bool | None, bool]:
        """(verdict or None, whether it is to be replaced). Raises `EOFError` where it dies."""
        loop = asyncio.get_running_loop()
        answer = b""
        try:
            await loop.sock_sendall(self._socket, request)
            while not answer.endswith(b"\n"):
                part = await loop.sock_recv(self._socket, 4096)
                if not part:
                    raise EOFError
                answer += part
        except (BrokenPipeError, ConnectionResetError):
            raise EOFError from None
        verdict, replace = json.loads(answer)
        return verdict, replace

    async def status(self) -> int:
        """How it ended; it is dying already."""
        while (status := self.process.poll()) is None:  # noqa: ASYNC110 - its socket has said all there was to read
            await asyncio.sleep(0.001)
        return status

    def end(self) -> None:
        """Kills it. Does not wait: to give back its memory may take the kernel a while."""
        self.process.kill()
        self._socket.close()
        _ending.append(self.process)


_idle: list[_Worker] = []
_ending: list[subprocess.Popen[bytes]] = []


async def _asked(task: str, request: bytes) -> bool:
    try:
        worker = _take(task)
    except OSError as error:
        raise NoVerdict(f"no worker can be started for {task}: {error.strerror}", "lost") from None
    keep = False
    try:
        verdict, replace = await worker.ask(request)
        keep = not replace
    except EOFError:
        status = await worker.status()
        if status == -signal.SIGPROF:
            raise NoVerdict(f"{task} took longer than it may", "overran") from None
        # SIGKILL comes from outside: an operator, or a machine without memory. Any other end is of the item's doing.
        raise NoVerdict(f"a worker died over {task}", "lost" if status == -signal.SIGKILL else "unclear") from None
    finally:
        if keep and len(_idle) < KEPT:
            worker.knows.add(task)
            _idle.append(worker)
        else:
            worker.end()
    if verdict is None:
        raise NoVerdict(f"{task} cannot be told", "unclear")
    return verdict


def _take(task: str) -> _Worker:
    """A living worker, one that knows the task if there is one."""
    _ending[:] = [process for process in _ending if process.poll() is None]
    for dead in [worker for worker in _idle if worker.process.poll() is not None]:
        _idle.remove(dead)
        dead.end()
    if not _idle:
        return _Worker()
    worker = next((worker for worker in _idle if task in worker.knows), _idle[-1])
    _idle.remove(worker)
    return worker


@atexit.register
def _end_all() -> None:
    while _idle:
        _idle.pop().end()
    for process in _ending:
        process.wait()
