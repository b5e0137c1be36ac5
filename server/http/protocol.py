"""uvicorn's HTTP protocol within bounds: all that is read has a size and a time, connections may be so many, and what
is wrong is answered in OpenAI's shape."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable, MutableMapping, Sequence
from typing import Any, Literal, cast

import httptools
from starlette.routing import Match
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from ponder.server.http import places as http_places
from ponder.server.http.hosts import Hosts
from ponder.server.http.places import PROBES, Places
from ponder.server.http.refusals import as_bytes, new_id, refuses
from ponder.server.settings import Settings

PIPELINED = 16
"""Requests that may wait on one connection for the answer before theirs. What comes behind them is not read: the
connection ends when they are answered, and the caller sends the rest again (RFC 9112, 9.3.2)."""
UNHEADED = re.compile(rb"[\x00\r\n]")


LINGER = 2
"""Seconds a caller may be silent that was still sending when the last answer was given."""
FRAME = 16
"""Bytes around one of a body, at most, that are no burden: the size of a chunk and its line breaks."""


log = logging.getLogger("ponder.access")


class _Enough(Exception):
    """No more is read from this connection."""


class _StillSending:
    """The transport of an answer whose request is not read to its end: closed at once, the answer would be lost with
    what has arrived unread (RFC 9112, 9.6)."""

    def __init__(self, transport: asyncio.Transport, close: Callable[[], None]) -> None:
        self.write, self.is_closing, self.close = transport.write, transport.is_closing, close


class _AccessLog:
    """A line for each answer: who asked, the request's id, for which route and what came of it. Of the address itself
    there is nothing: keys and texts are put there by mistake."""

    def __init__(self, request: Callable[[], MutableMapping[str, Any]]) -> None:
        """`request` is the ASGI scope of the one that is answered."""
        self._request = request

    def info(self, _form: str, client: str, method: str, _path: str, version: str, status: int) -> None:
        """Called by uvicorn where an answer begins."""
        scope = self._request()
        request_id = scope.get("state", {}).get("request_id", "-")
        log.info('%s %s "%s %s HTTP/%s" %d', request_id, client, method, _route(scope), version, status)


def _route(scope: MutableMapping[str, Any]) -> str:
    """The route an application has for a request, as it is written in its table; `-` where it has none."""
    routes: Sequence[Any] = getattr(getattr(scope.get("app"), "router", None), "routes", ())
    return next((route.path for route in routes if route.matches(scope)[0] is not Match.NONE), "-")


class _Unframed:
    """Answers a caller of HTTP/1.0, who knows no chunks: without a length an answer ends with the connection."""

    cycle: RequestResponseCycle

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        framed = True

        async def sending(message: Any) -> None:
            nonlocal framed
            if message["type"] == "http.response.start":
                framed = any(name.lower() == b"content-length" for name, _ in message.get("headers", ()))
                if not framed:
                    self.cycle.chunked_encoding = False
            elif not framed:
                self.cycle.expected_content_length = len(message.get("body", b""))
            await send(message)

        await self._app(scope, receive, sending)


def protocol(settings: Settings, is_open: Callable[[], bool] | None = None) -> type[HttpToolsProtocol]:
    """uvicorn's HTTP protocol within bounds: all that is read has a size and a time, connections may be so many, and an
    offer to go on in another protocol is passed over. `is_open`: as for `Hosts`."""
    limits, hosts, places = settings.limits, Hosts(settings, is_open), Places(settings.limits)
    too_long = f"the request's headers are above this server's limit of {limits.header_bytes} bytes"
    too_much = (
        "what the request carries beside its body (trailers, extensions of chunks) is above this server's limit of "
        f"{limits.header_bytes} bytes"
    )

    waits = "a request behind one that is not answered yet has a body of at most 65536 bytes: use another connection"

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
        _unwanted = 0
        """Bytes of a body that came behind the answer."""
        _lingering = False
        """The last answer is given and what still comes is thrown away."""
        _heard = False
        """Something came since the timer was set."""
        _answering: RequestResponseCycle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._address = http_places.of(self.client)
            self.access_log = settings.access_log
            self.access_logger = cast("Any", _AccessLog(lambda: cast("Any", self._answering).scope))
            self._slow = cast("asyncio.Transport", _StillSending(transport, self._linger))
            self._set_timer(limits.header_timeout)
            places.come(self, self._address)

        def connection_lost(self, exc: Exception | None) -> None:
            places.go(self, self._address)
            self._unset_timer()
            super().connection_lost(exc)
            self._unset_keepalive_if_required()
            # The one that is answered is not the last that was read, where others wait behind it.
            for cycle in (self._answering, *(waiting for waiting, _ in self.pipeline)):
                if cycle is not None and not cycle.response_complete:
                    cycle.disconnected = True
                    cycle.message_event.set()

        def drop(self) -> None:
            """Closes it at once."""
            self.transport.abort()

        # -- what comes in --------------------------------------------------------------------------------------------

        def data_received(self, data: bytes) -> None:
            if self._deaf:
                self._heard = True
                return
            self._read += len(data)
            try:
                self._parse(data)
            except httptools.HttpParserError:
                self._refuse(400, "invalid_http", "this is not an HTTP request the server understands")
            if self._read > limits.header_bytes:
                self._refuse(431, "headers_too_large", too_much if self._reading == "body" else too_long)
            if self._reading == "body" and not self.cycle.response_complete:
                self.cycle.transport = self._slow
            if self._timed != self._steps and not self._lingering:
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
            self._read = self._unwanted = 0
            full = places.full(self, self._address)
            old = self.parser.get_http_version() == "1.0"
            app = self._application(full)
            self.app = unframed = _Unframed(app) if old else app
            super().on_headers_complete()
            # Also where it has to wait: a paused connection would not tell that its caller has gone.
            self.flow.resume_reading()
            if isinstance(unframed, _Unframed):
                unframed.cycle, self.cycle.waiting_for_100_continue = self.cycle, False
            if full is not None:
                self.cycle.keep_alive = False

        def _application(self, full: str | None) -> Any:
            """What answers the request whose head is read: the application, or what refuses it."""
            size, named, host, origin = len(self.url), 0, b"", None
            for name, value in self.headers:
                size += len(name) + len(value) + 4
                if name == b"host":
                    named, host = named + 1, value
                elif name == b"origin":
                    origin = value
            if size > limits.header_bytes:
                return refuses(431, "headers_too_large", too_long)
            version = self.parser.get_http_version()
            fault = hosts.fault(named, host, origin, self.parser.get_method(), self.url, version)
            if fault is not None:
                return refuses(*fault)
            if full is not None and self.url.partition(b"?")[0] not in PROBES:
                return refuses(503, "too_many_connections", full)
            return cast("Any", self.config).loaded_app

        def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
            self._answering = cycle
            super()._start_asgi_task(cycle, app)

        def on_body(self, body: bytes) -> None:
            size = len(body)
            self._read = max(0, self._read - (FRAME + 1) * size)
            if self.cycle.response_complete:
                self._unwanted += size
                if self._unwanted > limits.body_bytes:
                    self._refuse(413, "body_too_large", "the body goes on behind its answer")
                    raise _Enough
            elif self.pipeline and len(self.cycle.body) + size > HIGH_WATER_LIMIT:
                self._refuse(503, "pipelined_too_much", waits)
                raise _Enough
            super().on_body(body)

        def on_message_complete(self) -> None:
            if self.parser.should_upgrade():
                return
            self._step(None)
            self._read = 0
            self.cycle.transport = self.transport
            super().on_message_complete()
            if not self.parser.should_keep_alive():
                # Said so late as in a trailer: the parser takes no more.
                self.cycle.keep_alive = False
            if self.cycle.response_complete:
                self._keep_alive() if self.cycle.keep_alive else self.transport.close()

        def on_response_complete(self) -> None:
            super().on_response_complete()
            if self._reading is not None or self._lingering:
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

        def _linger(self) -> None:
            """Closes our half, and the other when the caller is done or silent, or after the time of a body."""
            if self._lingering or self.transport.is_closing():
                return
            self._deaf = self._lingering = self._heard = True
            self._unset_timer()
            if self.transport.can_write_eof():
                self.transport.write_eof()
            self.flow.resume_reading()
            self._discard(self.loop.time() + limits.body_timeout)

        def _discard(self, until: float) -> None:
            self._timer = None
            if not self._heard or self.loop.time() > until:
                self.transport.close()
                return
            self._heard = False
            self._timer = self.loop.call_later(LINGER, self._discard, until)

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
                    self.pipeline[0] = last, refuses(status, code, message)
                    return
                if last.response_started:
                    self.transport.close()
                    return
                last.disconnected = True
                last.message_event.set()
            elif self._reading == "body":
                self._linger()
                return
            request_id = new_id()
            self.transport.write(as_bytes(status, code, message, request_id))
            if settings.access_log:
                log.info('%s %s:%d "-" %d', request_id, *(self.client or ("-", 0)), status)
            self._linger()

    return Bounded
