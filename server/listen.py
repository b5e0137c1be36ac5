"""The socket and the HTTP server on it: bounds on heads and connections that bare uvicorn lacks, and a way down that
lets running requests finish."""

from __future__ import annotations

import asyncio
import errno
import json
import secrets
import signal
import socket
import time
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from compute.errors import PonderError
from server.settings import Limits, Settings

KEEP_ALIVE = 30
"""Seconds an idle connection is kept: longer than clients keep theirs, so that none is closed under a request."""
CLOSING = 15
"""Seconds answers have to leave after the drain, before they are cut."""
BACKLOG = 2048
LAG_EVERY = 0.5

Drain = Callable[[], Awaitable[None]]


class CannotListen(PonderError):
    """The address is not to be had; the message says why and what else to try."""


def bind(host: str, port: int) -> socket.socket:
    """A socket bound to the address, not listening yet. Raises `CannotListen`."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (socket.gaierror, UnicodeError) as error:
        raise CannotListen(f"--host {host}: no such address; 127.0.0.1 is this machine") from error
    sock = socket.socket(family, kind, protocol)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.setblocking(False)
    try:
        sock.bind(address)
    except OSError as error:
        sock.close()
        raise CannotListen(_why(error, host, port)) from error
    return sock


def listen(sock: socket.socket) -> None:
    """From here on callers get in. Raises `CannotListen`, where another program was quicker."""
    try:
        sock.listen(BACKLOG)
    except OSError as error:
        host, port = sock.getsockname()[:2]
        raise CannotListen(_why(error, host, port)) from error


def url_of(sock: socket.socket) -> str:
    """The address as a link."""
    host, port = sock.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _why(error: OSError, host: str, port: int) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"port {port} on {host} is taken by another program: choose another with --port, or --port 0 for any"
    if error.errno == errno.EACCES:
        return f"port {port} needs more rights than this user has: choose one above 1023 with --port"
    if error.errno == errno.EADDRNOTAVAIL:
        return f"{host} is no address of this machine: choose another with --host"
    return f"cannot listen on {host} port {port}: {error.strerror}"


def _refusal(status: int, code: str, message: str) -> tuple[bytes, list[tuple[bytes, bytes]]]:
    kind = "server_error" if status >= 500 else "invalid_request_error"
    body = json.dumps({"error": {"message": message, "type": kind, "param": None, "code": code}}).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"x-request-id", b"req_" + secrets.token_hex(12).encode()),
        (b"connection", b"close"),
    ]
    return body, headers + ([(b"retry-after", b"1")] if status == 503 else [])


def _refuses(status: int, code: str, message: str) -> Callable[..., Awaitable[None]]:
    """An ASGI application that only says no."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        body, headers = _refusal(status, code, message)
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    return app


REASONS = {400: b"Bad Request", 408: b"Request Timeout", 431: b"Request Header Fields Too Large"}


def protocol(limits: Limits) -> type[HttpToolsProtocol]:
    """uvicorn's HTTP protocol within bounds: a head may be so long and take so long, connections may be so many."""
    too_long = f"the request's headers are above this server's limit of {limits.header_bytes} bytes"

    class Bounded(HttpToolsProtocol):
        _in_head = True
        _head = 0
        _refused = False
        _timer: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._wait_for_head()

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop_waiting()
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            if self._refused:
                return
            if self._in_head:
                self._head += len(data)
            super().data_received(data)
            if self._in_head and self._head > limits.header_bytes:
                self._refuse(431, "headers_too_large", too_long)

        def on_message_begin(self) -> None:
            super().on_message_begin()
            self._in_head = True
            if self._timer is None:
                self._wait_for_head()

        def on_headers_complete(self) -> None:
            self._stop_waiting()
            self._in_head, self._head = False, 0
            if len(self.url) + sum(len(n) + len(v) + 4 for n, v in self.headers) > limits.header_bytes:
                self.app = _refuses(431, "headers_too_large", too_long)
            elif len(self.connections) > limits.connections:
                self.app = _refuses(503, "too_many_connections", "the server has too many connections; try again soon")
            super().on_headers_complete()

        def send_400_response(self, msg: str) -> None:
            self._refuse(400, "invalid_http", "this is not an HTTP request the server understands")

        def _wait_for_head(self) -> None:
            self._timer = self.loop.call_later(limits.header_timeout, self._head_is_late)

        def _stop_waiting(self) -> None:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

        def _head_is_late(self) -> None:
            self._timer = None
            if self._head:
                self._refuse(408, "headers_timeout", f"the headers took longer than {limits.header_timeout:g} seconds")
            else:
                self.transport.close()

        def _refuse(self, status: int, code: str, message: str) -> None:
            if self._refused or self.transport.is_closing():
                return
            self._refused = True
            body, headers = _refusal(status, code, message)
            head = b"".join(name + b": " + value + b"\r\n" for name, value in headers)
            self.transport.write(b"HTTP/1.1 %d %s\r\n%s\r\n%s" % (status, REASONS[status], head, body))
            self.transport.close()

    return Bounded


class _Server(uvicorn.Server):
    """Leaves signals to us: uvicorn's own way ends the process by the signal, whatever was still to be done."""

    @contextmanager
    def capture_signals(self) -> Generator[None]:
        yield


async def run(app: Any, settings: Settings, sock: socket.socket, drain: Drain, lag: Callable[[float], None]) -> None:
    """Serves until SIGTERM or SIGINT, then drains: `drain` returns when nothing runs any more. A second signal cuts
    what still runs. `lag` is told how late the event loop comes, twice a second."""
    config = uvicorn.Config(
        app,
        http=protocol(settings.limits),
        ws="none",
        log_config=None,
        access_log=settings.access_log,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=KEEP_ALIVE,
        timeout_graceful_shutdown=CLOSING,
    )
    server = _Server(config)
    asked = asyncio.Event()

    def on_signal() -> None:
        if asked.is_set():
            server.should_exit = server.force_exit = True
        asked.set()

    async def go_down() -> None:
        await asked.wait()
        await drain()
        server.should_exit = True

    async def watch() -> None:
        while True:
            before = time.perf_counter()
            await asyncio.sleep(LAG_EVERY)
            lag(time.perf_counter() - before - LAG_EVERY)

    loop = asyncio.get_running_loop()
    for sign in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(sign, on_signal)
    try:
        async with asyncio.TaskGroup() as group:
            beside = [group.create_task(go_down()), group.create_task(watch())]
            await server.serve(sockets=[sock])
            for task in beside:
                task.cancel()
    finally:
        for sign in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(sign)
