"""Serves over HTTP, and a way down that lets running requests finish."""

from __future__ import annotations

import asyncio
import errno
import gc
import logging
import os
import resource
import signal
import socket
import sys
import time
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import uvicorn

from ponder.compute.groups import TaskGroup
from ponder.server.ending import SENT
from ponder.server.http.places import SPARE
from ponder.server.http.protocol import protocol
from ponder.server.settings import Settings

CLOSING = 15
"""Seconds answers have to leave after a drain that took no longer than it may, before they are cut; less where the time
of the drain is used up."""
CLOSING_FAST = 2
"""The same after a second signal."""
LAG_EVERY = 0.5
FINISHED_EVERY = 0.1
"""Seconds between two looks whether a server whose socket was handed on has answered all."""
TURN = 0.0005
"""Seconds that a thread keeps the interpreter while the event loop waits for it (`sys.setswitchinterval`). A small
request wakes the loop a dozen times; beside a thread that reads a large one it waits that long each time."""
OWN_FILES = 512
"""Descriptors that engines, logs and libraries have open beside the connections; about."""
SAY_EVERY = 60
"""Seconds between two lines in the log about the same shortage."""

log = logging.getLogger("ponder.server")

Drain = Callable[[], Awaitable[None]]


@dataclass(slots=True)
class Sharing:
    """What a server has to know of a listening socket that other processes have or get, too."""

    kept: bool = False
    """Whoever gave it keeps it, so that connections wait there for the next process: a server that goes down accepts
    none, where otherwise it would refuse them in words."""
    begun: Callable[[], None] = lambda: None
    """Called when connections are accepted."""
    handed: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when another process accepts the connections. This one finishes those it has, and ends."""
    busy: Callable[[], bool] = lambda: False
    """Something runs for which there may be no connection."""


class _Server(uvicorn.Server):
    """Leaves signals to us: uvicorn's own way ends the process by the signal, whatever was still to be done."""

    def __init__(self, config: uvicorn.Config, begun: Callable[[], None]) -> None:
        super().__init__(config)
        self._begun = begun

    @contextmanager
    def capture_signals(self) -> Generator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._begun()

    def accept_no_more(self) -> None:
        """Connections that come go to the other processes that have the socket, or wait in it."""
        for one in self.servers if self.started else ():
            one.close()

    def answer_and_close(self) -> None:
        """Each connection ends behind its next answer, which says so in its headers. It is never closed under a caller
        who could not know: an idle one ends when its time is over, as ever."""
        self.config.encoded_headers.append((b"connection", b"close"))
        self.server_state.default_headers = [*self.server_state.default_headers, (b"connection", b"close")]


class _Files:
    """The process's file descriptors: as many as connections may need, and said where they run out. Nobody else says
    so: a connection for which there is none is closed by the event loop before the server hears of it."""

    def __init__(self, connections: int) -> None:
        self._said = float("-inf")
        needed = connections + SPARE + OWN_FILES
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if resource.RLIM_INFINITY in (soft, hard) or soft >= needed:
            return
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, needed)), hard))
        if hard < needed:
            log.warning(
                "this process may have %d files open, too few for limits.connections = %d: raise the limit of open "
                "files (ulimit -n, LimitNOFILE=) to %d, or lower limits.connections",
                hard,
                connections,
                needed,
            )

    def check(self) -> None:
        """Says so where none is left."""
        try:
            os.close(os.dup(0))
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE) and time.monotonic() - self._said > SAY_EVERY:
                self._said = time.monotonic()
                log.error(
                    "out of file descriptors (%d allowed): new connections are closed unanswered; raise the limit of "
                    "open files (ulimit -n, LimitNOFILE=), or lower limits.connections",
                    resource.getrlimit(resource.RLIMIT_NOFILE)[0],
                )


async def run(
    app: Any,
    settings: Settings,
    sock: socket.socket,
    drain: Drain,
    lag: Callable[[float], None],
    hurry: Callable[[], None] = lambda: None,
    is_open: Callable[[], bool] | None = None,
    sharing: Sharing | None = None,
) -> None:
    """Serves until SIGTERM or SIGINT, then drains: `drain` returns when nothing runs any more. At a second signal
    `hurry` makes it return soon; a third cuts what still runs. `lag` is told how late the event loop comes, twice a
    second. `is_open`: whether a request needs no key now; left out, as the settings say. `sharing`: left out, nobody
    else has the socket."""
    sharing = sharing or Sharing()
    config = uvicorn.Config(
        app,
        http=protocol(settings, is_open),
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=settings.limits.idle_timeout,  # pyright: ignore[reportArgumentType]
        timeout_graceful_shutdown=CLOSING,
        ssl_certfile=settings.tls_cert,
        ssl_keyfile=settings.tls_key,
    )
    server = _Server(config, sharing.begun)
    asked = asyncio.Event()
    signals, began = 0, 0.0

    def on_signal() -> None:
        nonlocal signals, began
        signals += 1
        began = began or time.monotonic()
        asked.set()
        if signals == 2:
            config.timeout_graceful_shutdown = CLOSING_FAST
            hurry()
        elif signals == 3:
            server.should_exit = True
            for task in list(server.server_state.tasks):
                task.cancel()

    async def go_down() -> None:
        await asked.wait()
        if sharing.kept:
            server.accept_no_more()
        await drain()
        left = began + settings.drain_timeout + SENT - time.monotonic()
        closing = CLOSING if signals < 2 else CLOSING_FAST
        config.timeout_graceful_shutdown = max(1, min(closing, left))  # pyright: ignore[reportAttributeAccessIssue]
        server.should_exit = True

    async def finish() -> None:
        """Answers all that came before another process took over, and goes down with nothing to do."""
        nonlocal began
        await sharing.handed.wait()
        server.accept_no_more()
        server.answer_and_close()
        longest = max(settings.timeout, settings.stream_timeout) + settings.limits.idle_timeout
        until = time.monotonic() + longest
        while (server.server_state.connections or sharing.busy()) and time.monotonic() < until:  # noqa: ASYNC110
            await asyncio.sleep(FINISHED_EVERY)
        began = began or time.monotonic()
        asked.set()

    async def watch() -> None:
        files = _Files(settings.limits.connections)
        while True:
            before = time.perf_counter()
            await asyncio.sleep(LAG_EVERY)
            lag(time.perf_counter() - before - LAG_EVERY)
            files.check()

    # What is there lives as long as the server does: no request waits while the collector looks through it.
    gc.collect()
    gc.freeze()
    sys.setswitchinterval(TURN)
    loop = asyncio.get_running_loop()
    for sign in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(sign, on_signal)
    try:
        async with TaskGroup() as group:
            beside = [group.create_task(one()) for one in (go_down, finish, watch)]
            await server.serve(sockets=[sock])
            for task in beside:
                task.cancel()
    finally:
        for sign in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(sign)
