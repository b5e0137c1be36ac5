"""The worker pool for untrusted work: what callers and models wrote and may hang or swell (computer algebra, patterns,
JSON schemas, grammars) is worked on in processes that can be killed, and shared out fairly among tenants.

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
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Literal
from weakref import WeakKeyDictionary

from ponder.compute.errors import NoVerdict

Task = Literal["same", "match", "schema"]
"""Are two mathematical expressions equal · is the RE2 pattern (first) found in the text (second) · does the JSON text
(second) fulfil the JSON schema (first)."""

Work = str
"""A task that is none of these, as `MODULE:NAME`: what the function of that name returns is done with two texts."""

CORES = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 2
KEPT = max(2, min(8, CORES))
"""Workers that stay when there is nothing to do: what one tenant alone may have at work."""
PLACES = 2 * KEPT
"""Workers at most."""
SPARE = 2
"""Idle workers of a task that is kept ready: one may be killed while another still imports what it needs."""


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
        return bool(await self.work(task, first, second, tenant=tenant, seconds=seconds, until=until))

    async def work(
        self, task: Work, first: str, second: str, *, tenant: str | None, seconds: float, until: float
    ) -> Any:
        """The same for a task that comes to more than a verdict: what it returned."""
        request = _request(task, first, second, seconds)
        try:
            async with asyncio.timeout_at(until), self._turns.turn(tenant):
                return await _asked(task, request)
        except TimeoutError:
            raise NoVerdict(f"{task} had no verdict in time", "late") from None


def keep_ready(task: Work, first: str, second: str, *, seconds: float) -> None:
    """From now on there are idle workers that have done this item, and so have imported and read all that others of the
    task need. They work on nothing else."""
    end_ready(task)
    _ready[task] = ready = _Ready((task, _request(task, first, second, seconds)))
    ready.fill()


def end_ready(task: Work) -> None:
    """No longer."""
    if (ready := _ready.pop(task, None)) is not None:
        for worker in ready.workers:
            worker.end()


_pools: WeakKeyDictionary[asyncio.AbstractEventLoop, WorkerPool] = WeakKeyDictionary()


def pool() -> WorkerPool:
    """The pool of the running event loop."""
    return _pools.setdefault(asyncio.get_running_loop(), WorkerPool())


# -- the processes ----------------------------------------------------------------------------------------------------


def _request(task: Work, first: str, second: str, seconds: float) -> bytes:
    return json.dumps([task, first, second, seconds]).encode() + b"\n"


class _Worker:
    """One process and the socket it is asked through; belongs to no event loop."""

    def __init__(self, begins: tuple[str, bytes] | None = None) -> None:
        """`begins`: the task and the item it is given at once, whose answer nobody reads."""
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
        self._unread = 0
        """Answers to come that nobody waits for."""
        if begins is not None:
            self.knows.add(begins[0])
            ours.send(begins[1])
            self._unread = 1

    @property
    def waits(self) -> bool:
        """It has nothing to do."""
        try:
            return not self._unread or bool(self._socket.recv(1, socket.MSG_PEEK))
        except BlockingIOError:
            return False

    async def ask(self, request: bytes) -> tuple[Any, bool]:
        """(result or None, whether it is to be replaced). Raises `EOFError` where it dies."""
        loop = asyncio.get_running_loop()
        answers = bytearray()
        try:
            await loop.sock_sendall(self._socket, request)
            while answers.count(b"\n") <= self._unread:
                part = await loop.sock_recv(self._socket, 1 << 16)
                if not part:
                    raise EOFError
                answers += part
        except (BrokenPipeError, ConnectionResetError):
            raise EOFError from None
        answer = answers.split(b"\n")[self._unread]
        self._unread = 0
        result, replace = json.loads(answer)
        return result, replace

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
_ready: dict[str, _Ready] = {}


class _Ready:
    """The idle workers of a task that is kept ready."""

    def __init__(self, begins: tuple[str, bytes]) -> None:
        self.begins = begins
        self.workers: list[_Worker] = []

    def fill(self) -> None:
        """Starts those that are missing, as far as the machine lets us."""
        with suppress(OSError):
            while len(self.workers) < SPARE:
                self.workers.append(_Worker(self.begins))


async def _asked(task: str, request: bytes) -> Any:
    try:
        worker = _take(task)
    except OSError as error:
        raise NoVerdict(f"no worker can be started for {task}: {error.strerror}", "lost") from None
    keep = False
    try:
        result, replace = await worker.ask(request)
        keep = not replace
    except EOFError:
        status = await worker.status()
        if status == -signal.SIGPROF:
            raise NoVerdict(f"{task} took longer than it may", "overran") from None
        # SIGKILL comes from outside: an operator, or a machine without memory. Any other end is of the item's doing.
        raise NoVerdict(f"a worker died over {task}", "lost" if status == -signal.SIGKILL else "unclear") from None
    finally:
        ready = _ready.get(task)
        stock, most = (_idle, KEPT) if ready is None else (ready.workers, SPARE + 1)
        if keep and len(stock) < most:
            worker.knows.add(task)
            stock.append(worker)
        else:
            worker.end()
    if result is None:
        raise NoVerdict(f"{task} cannot be told", "unclear")
    return result


def _take(task: str) -> _Worker:
    """A living worker that has nothing to do, one that knows the task if there is one."""
    _ending[:] = [process for process in _ending if process.poll() is None]
    ready = _ready.get(task)
    stock = _idle if ready is None else ready.workers
    for dead in [worker for worker in stock if worker.process.poll() is not None]:
        stock.remove(dead)
        dead.end()
    if not stock:
        return _Worker(None if ready is None else ready.begins)
    if ready is None:
        worker = next((worker for worker in stock if task in worker.knows), stock[-1])
    else:
        worker = next((worker for worker in reversed(stock) if worker.waits), stock[0])
    stock.remove(worker)
    if ready is not None:
        ready.fill()
    return worker


@atexit.register
def _end_all() -> None:
    for task in list(_ready):
        end_ready(task)
    while _idle:
        _idle.pop().end()
    for process in _ending:
        process.wait()
