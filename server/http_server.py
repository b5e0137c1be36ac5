"""The HTTP server: bounds on heads and connections that bare uvicorn lacks, and a way down that lets running requests
finish."""

from __future__ import annotations

import asyncio
import gc
import json
import re
import secrets
import signal
import socket
import time
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from typing import Any, Literal, cast

import httptools
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from ponder.server.settings import Limits, Settings

KEEP_ALIVE = 30
"""Seconds an idle connection is kept: longer than clients keep theirs, so that none is closed under a request."""
CLOSING = 15
"""Seconds answers have to leave after the drain, before they are cut."""
LAG_EVERY = 0.5

Drain = Callable[[], Awaitable[None]]


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


REASONS = {
    400: b"Bad Request",
    405: b"Method Not Allowed",
    408: b"Request Timeout",
    431: b"Request Header Fields Too Large",
}
PIPELINED = 16
"""Requests that may wait on one connection for the answer before theirs. What comes behind them is not read: the
connection ends when they are answered, and the caller sends the rest again (RFC 9112, 9.3.2)."""
UNHEADED = re.compile(rb"[\x00\r\n]")


class _Enough(Exception):
    """No more is read from this connection."""


def protocol(limits: Limits) -> type[HttpToolsProtocol]:
    """uvicorn's HTTP protocol within bounds: all that is read has a size and a time, connections may be so many, and an
    offer to go on in another protocol is passed over."""
    too_long = f"the request's headers are above this server's limit of {limits.header_bytes} bytes"
    too_much = (
        "what the request carries beside its body (trailers, extensions of chunks) is above this server's limit of "
        f"{limits.header_bytes} bytes"
    )

    class Bounded(HttpToolsProtocol):
        _reading: Literal["head", "body"] | None = None
        """What of a message is being read; None between two."""
        _read = 0
        """Bytes since the last that were of use: of a head, a chunk's extension, trailers."""
        _steps = 0
        """Changes of `_reading`."""
        _timed = 0
        """`_steps` when the timer was set."""
        _deaf = False
        """Nothing more is read."""
        _timer: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._set_timer(limits.header_timeout)

        def connection_lost(self, exc: Exception | None) -> None:
            self._unset_timer()
            self._unset_keepalive_if_required()
            super().connection_lost(exc)

        # -- what comes in --------------------------------------------------------------------------------------------

        def data_received(self, data: bytes) -> None:
            if self._deaf:
                return
            self._read += len(data)
            try:
                self._parse(data)
            except httptools.HttpParserError:
                self._refuse(400, "invalid_http", "this is not an HTTP request the server understands")
            if self._read > limits.header_bytes:
                self._refuse(431, "headers_too_large", too_much if self._reading == "body" else too_long)
            if self._timed != self._steps:
                self._timed = self._steps
                self._unset_timer()
                if self._reading is not None and not self._deaf:
                    self._set_timer(limits.header_timeout if self._reading == "head" else limits.body_timeout)

        def _parse(self, data: bytes) -> None:
            """Reads on. At an offer to upgrade the parser stops behind the head: the same head without the offer makes
            a new one take what follows for the body it is (RFC 9110, 7.8: a server may ignore the offer)."""
            rest = memoryview(data)
            while rest and not self._deaf:
                try:
                    self.parser.feed_data(rest)
                    return
                except httptools.HttpParserUpgrade as offer:
                    rest = rest[offer.args[0] :]
                    head = self._head_without_offer()
                    if head is None:
                        return
                    self.parser = httptools.HttpRequestParser(self)
                    self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
                    self.parser.feed_data(head)

        def _head_without_offer(self) -> bytes | None:
            """None: it is refused."""
            method = self.parser.get_method()
            if method == b"CONNECT":
                self._refuse(405, "method_not_allowed", "this server is no proxy: it does not take the method CONNECT")
                return None
            lines = [b"%s %s HTTP/%s" % (method, self.url, self.parser.get_http_version().encode())]
            lines += [b"%s: %s" % header for header in self.headers if header[0] != b"upgrade"]
            if any(UNHEADED.search(line) for line in lines):
                raise httptools.HttpParserError("a folded header")
            return b"\r\n".join([*lines, b"", b""])

        def on_message_begin(self) -> None:
            if len(self.pipeline) >= PIPELINED:
                self._deaf, self.cycle.keep_alive = True, False
                raise _Enough
            super().on_message_begin()
            self._step("head")
            self._unset_keepalive_if_required()

        def on_header(self, name: bytes, value: bytes) -> None:
            # What comes behind a body (RFC 9110, 6.5.1) may be dropped, and nobody here asks for it.
            if self._reading == "head":
                super().on_header(name, value)

        def on_headers_complete(self) -> None:
            if self.parser.should_upgrade():
                return
            self._step("body")
            self._read = 0
            if len(self.url) + sum(len(n) + len(v) + 4 for n, v in self.headers) > limits.header_bytes:
                self.app = _refuses(431, "headers_too_large", too_long)
            elif len(self.connections) > limits.connections:
                self.app = _refuses(503, "too_many_connections", "the server has too many connections; try again soon")
            super().on_headers_complete()

        def on_chunk_header(self) -> None:
            self._read = 0

        def on_body(self, body: bytes) -> None:
            self._read = 0
            super().on_body(body)

        def on_message_complete(self) -> None:
            if self.parser.should_upgrade():
                return
            self._step(None)
            self._read = 0
            super().on_message_complete()
            if not self.parser.should_keep_alive():
                # Said so late as in a trailer: the parser takes no more.
                self.cycle.keep_alive = False
            if self.cycle.response_complete:
                self._keep_alive() if self.cycle.keep_alive else self.transport.close()

        def on_response_complete(self) -> None:
            super().on_response_complete()
            if self._reading is not None:
                self._unset_keepalive_if_required()

        def _step(self, reading: Literal["head", "body"] | None) -> None:
            self._reading = reading
            self._steps += 1

        # -- how long it takes ----------------------------------------------------------------------------------------

        def _set_timer(self, seconds: float) -> None:
            self._timer = self.loop.call_later(seconds, self._late)

        def _unset_timer(self) -> None:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

        def _keep_alive(self) -> None:
            self._unset_keepalive_if_required()
            end = self.timeout_keep_alive_handler
            self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, end)

        def _late(self) -> None:
            self._timer = None
            if self._reading == "head":
                self._refuse(408, "headers_timeout", f"the headers took longer than {limits.header_timeout:g} seconds")
            elif self._reading is None or self.cycle.response_complete:
                self.transport.close()
            else:
                # Whoever wants the body has its own clock, and says so; nothing is asked behind it.
                self.cycle.keep_alive = False

        # -- what is not answered by the application ------------------------------------------------------------------

        def _refuse(self, status: int, code: str, message: str) -> None:
            """The last that is read of this connection: answered with an error, in its turn where others wait."""
            if self._deaf or self.transport.is_closing():
                return
            self._deaf = True
            last = cast("RequestResponseCycle | None", self.cycle)
            if last is not None and not last.response_complete:
                if self._reading != "body":
                    last.keep_alive = False
                    return
                if self.pipeline:
                    self.pipeline[0] = last, _refuses(status, code, message)
                    return
                if last.response_started:
                    self.transport.close()
                    return
                last.disconnected = True
                last.message_event.set()
            elif self._reading == "body":
                self.transport.close()
                return
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

    # What is there lives as long as the server does: no request waits while the collector looks through it.
    gc.collect()
    gc.freeze()
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
