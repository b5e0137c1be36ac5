"""All that is read from a connection has a bound on its size and its time, on a wire and a clock held in the hand."""

from __future__ import annotations

import asyncio
import json
import re
import sys
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import pytest
import uvicorn
from uvicorn.server import ServerState

from ponder.server.http.protocol import PIPELINED, protocol
from ponder.server.settings import Limits, Settings

LIMITS = Limits(header_bytes=2048, header_timeout=7, body_timeout=11, connections=3)
KEEP_ALIVE = LIMITS.idle_timeout
GET = b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n"
CHUNKED = b"POST / HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n"
LENGTH = b"POST %s HTTP/1.1\r\nhost: localhost\r\ncontent-length: 9\r\n\r\n"


class Timer:
    """What a protocol wants to be done later."""

    def __init__(self, seconds: float, work: Callable[[], None]) -> None:
        self.seconds, self.work = seconds, work
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class Wire(asyncio.Transport):
    """A connection and the clock of its protocol."""

    def __init__(self, app: Any) -> None:
        super().__init__()
        config = uvicorn.Config(app, ws="none", log_config=None, access_log=False, timeout_keep_alive=int(KEEP_ALIVE))
        self.out = b""
        self.closed = self.shut = False
        self._ended = asyncio.Event()
        self._timers: list[Timer] = []
        self.protocol: Any = protocol(Settings(limits=LIMITS))(config, ServerState(), {}, self)  # pyright: ignore[reportArgumentType]
        self.protocol.connection_made(self)

    @property
    def timers(self) -> list[float]:
        """The seconds that are waited for."""
        return [timer.seconds for timer in self._timers if not timer.cancelled]

    def fire(self) -> None:
        """The time of all of them has come."""
        due, self._timers = self._timers, []
        for timer in due:
            if not timer.cancelled:
                timer.work()

    async def say(self, data: bytes) -> None:
        """The caller sends it, in pieces as a socket gives them; what can be done about it is done."""
        for at in range(0, len(data), 65536):
            if not self.closed:
                self.protocol.data_received(data[at : at + 65536])
        for _ in range(50):
            await asyncio.sleep(0)

    async def end(self) -> None:
        """Returns when the server has closed the connection."""
        await self._ended.wait()

    @property
    def statuses(self) -> list[int]:
        return [int(status) for status in re.findall(rb"HTTP/1.1 (\d{3})", self.out)]

    def code(self) -> str:
        """The code of the last error."""
        return str(json.loads(self.out.rpartition(b"\r\n\r\n")[2])["error"]["code"])

    # The event loop, as far as a protocol sees it.

    def call_later(self, seconds: float, work: Callable[..., None], *given: Any) -> Timer:
        self._timers.append(Timer(seconds, partial(work, *given)))
        return self._timers[-1]

    def create_task(self, work: Any) -> asyncio.Task[None]:
        return asyncio.get_running_loop().create_task(work)

    # The transport.

    def write(self, data: Any) -> None:
        if not self.closed:
            self.out += bytes(data)

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.shut = True
        self._ended.set()

    def abort(self) -> None:
        self.close()

    def time(self) -> float:
        return asyncio.get_running_loop().time()

    def close(self) -> None:
        if not self.closed:
            self.closed = self.shut = True
            self._ended.set()
            asyncio.get_running_loop().call_soon(self.protocol.connection_lost, None)

    def is_closing(self) -> bool:
        return self.closed

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default


class App:
    """Reads the body and answers with its length; on /deaf without having read; on /slow when it is let."""

    def __init__(self) -> None:
        self.let = asyncio.Event()
        self.asked = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.asked += 1
        size, more = 0, scope["path"] != "/deaf"
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            size += len(message.get("body", b""))
            more = message.get("more_body", False)
        body = b"%d" % size
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
        if scope["path"] == "/slow":
            await self.let.wait()
        await send({"type": "http.response.body", "body": body})


def on_a_wire(talk: Callable[[Wire, App], Awaitable[None]]) -> None:
    async def go() -> None:
        app = App()
        wire = Wire(app)
        async with asyncio.timeout(30):
            await talk(wire, app)
        wire.close()
        await asyncio.sleep(0)

    asyncio.run(go())


@pytest.mark.parametrize(
    "endless",
    [
        b"3\r\nabc\r\n0\r\n" + b"x: y\r\n" * 50_000,
        b"3\r\nabc\r\n0\r\nx: " + b"y" * 300_000,
        b"3\r\nabc\r\n0\r\n" + b"y" * 300_000,
        b"3;x=" + b"y" * 300_000,
        b"3;" + b"y=z;" * 100_000,
        b"0;" + b"y=z;" * 100_000,
    ],
    ids=["trailers", "value", "name", "extension", "extensions", "last"],
)
def test_what_comes_beside_a_body_is_bounded(endless: bytes) -> None:
    async def talk(wire: Wire, app: App) -> None:
        await wire.say(CHUNKED)
        await wire.say(endless)
        assert (wire.statuses, wire.code(), wire.shut) == ([431], "headers_too_large", True)

    on_a_wire(talk)


def test_of_trailers_nothing_is_kept_and_the_next_request_is_answered() -> None:
    async def talk(wire: Wire, app: App) -> None:
        await wire.say(CHUNKED + b"3;quoted=x\r\nabc\r\n0\r\nx-sum: 1\r\n\r\n")
        assert all(name != b"x-sum" for name, _ in wire.protocol.headers)
        await wire.say(GET)
        assert (wire.statuses, wire.closed) == ([200, 200], False)

    on_a_wire(talk)


@pytest.mark.parametrize(
    "trailer", [b"connection: close", b"connection: upgrade\r\nupgrade: h2c", b"content-length: 40", b"host: b"]
)
def test_a_trailer_changes_nothing_of_what_comes_behind_it(trailer: bytes) -> None:
    async def talk(wire: Wire, app: App) -> None:
        await wire.say(CHUNKED + b"3\r\nabc\r\n0\r\n" + trailer + b"\r\n\r\n" + GET)
        if wire.shut:
            assert wire.statuses in ([200], [400])
        else:
            assert wire.statuses == [200, 200]

    on_a_wire(talk)


def test_a_body_in_chunks_of_one_byte_is_no_burden() -> None:
    async def talk(wire: Wire, app: App) -> None:
        await wire.say(CHUNKED + b"1\r\nx\r\n" * 40_000 + b"0\r\n\r\n")
        assert wire.out.endswith(b"40000")
        assert not wire.closed

    on_a_wire(talk)


def test_so_many_requests_may_wait_on_one_connection_and_the_rest_is_not_read() -> None:
    async def talk(wire: Wire, app: App) -> None:
        await wire.say(LENGTH % b"/slow" + b"123456789")
        await wire.say(GET * 50_000)
        assert app.asked == 1
        assert len(wire.protocol.pipeline) == PIPELINED
        app.let.set()
        await wire.end()
        assert wire.statuses == [200] * (1 + PIPELINED)
        assert b"connection: close" in wire.out.rpartition(b"HTTP/1.1")[2]

    on_a_wire(talk)


def test_what_is_wrong_behind_a_request_is_not_told_into_its_answer() -> None:
    async def talk(wire: Wire, app: App) -> None:
        await wire.say(LENGTH % b"/slow" + b"123456789" + b"\x16\x03\x01 no http\r\n\r\n" + GET)
        assert wire.statuses == [200]
        assert not wire.closed
        app.let.set()
        await wire.end()
        assert wire.statuses == [200]
        assert wire.out.endswith(b"9")

    on_a_wire(talk)


def test_a_late_head_behind_a_request_is_not_told_into_its_answer() -> None:
    async def talk(wire: Wire, app: App) -> None:
        await wire.say(LENGTH % b"/slow" + b"123456789" + GET[:-5])
        assert LIMITS.header_timeout in wire.timers
        wire.fire()
        assert wire.statuses == [200]
        app.let.set()
        await wire.end()
        assert wire.statuses == [200]
        assert wire.out.endswith(b"9")

    on_a_wire(talk)


def test_a_faulty_body_that_waits_is_told_of_in_its_turn() -> None:
    async def talk(wire: Wire, app: App) -> None:
        await wire.say(LENGTH % b"/slow" + b"123456789" + CHUNKED + b"no size\r\n")
        assert wire.statuses == [200]
        app.let.set()
        await wire.end()
        assert wire.statuses == [200, 400]
        assert wire.code() == "invalid_http"
        assert app.asked == 1

    on_a_wire(talk)


def test_a_faulty_body_is_refused_at_once() -> None:
    async def talk(wire: Wire, app: App) -> None:
        await wire.say(CHUNKED + b"3\r\nabc\r\n")
        await wire.say(b"no size\r\n")
        assert (wire.statuses, wire.code(), wire.shut) == ([400], "invalid_http", True)

    on_a_wire(talk)


def test_a_connection_is_always_waited_for_by_some_clock() -> None:
    async def talk(wire: Wire, app: App) -> None:
        assert wire.timers == [LIMITS.header_timeout]
        await wire.say(GET[:9])
        assert wire.timers == [LIMITS.header_timeout]
        await wire.say(GET[9:])
        assert wire.timers == [KEEP_ALIVE]
        await wire.say(b"\r\n\r\n")
        assert wire.timers == [KEEP_ALIVE]
        await wire.say(LENGTH % b"/" + b"1234")
        assert wire.timers == [LIMITS.body_timeout]
        await wire.say(b"56789")
        assert wire.timers == [KEEP_ALIVE]
        await wire.say(LENGTH % b"/deaf" + b"1234")
        assert (wire.statuses[-1], wire.timers) == (200, [LIMITS.body_timeout])
        await wire.say(b"56789")
        assert wire.timers == [KEEP_ALIVE]
        await wire.say(LENGTH % b"/slow" + b"123456789" + GET[:9])
        app.let.set()
        await wire.say(b"")
        assert wire.timers == [LIMITS.header_timeout]
        wire.fire()
        assert (wire.statuses[-1], wire.shut) == (408, True)

    on_a_wire(talk)


def test_a_body_that_does_not_come_ends_the_connection_when_its_request_is_answered() -> None:
    async def talk(wire: Wire, app: App) -> None:
        await wire.say(LENGTH % b"/deaf" + b"1234")
        assert wire.statuses == [200]
        wire.fire()
        assert wire.closed

    on_a_wire(talk)


def test_a_body_that_nobody_reads_takes_no_room() -> None:
    async def talk(wire: Wire, app: App) -> None:
        await wire.say(b"POST /deaf HTTP/1.1\r\nhost: localhost\r\ncontent-length: 100000000\r\n\r\n")
        for _ in range(50):
            await wire.say(b"x" * 65536)
        assert wire.statuses == [200]
        assert sys.getsizeof(wire.protocol.cycle.body) < 100_000

    on_a_wire(talk)


def test_extensions_of_many_chunks_are_bounded_together() -> None:
    async def talk(wire: Wire, app: App) -> None:
        await wire.say(CHUNKED)
        for _ in range(50):
            await wire.say(b"1;" + b"y" * 500 + b"\r\nx\r\n")
        assert (wire.statuses, wire.code(), wire.shut) == ([431], "headers_too_large", True)

    on_a_wire(talk)


@pytest.mark.parametrize("path", [b"/deaf", b"/"])
def test_a_body_without_end_behind_a_get_ends_the_connection(path: bytes) -> None:
    async def talk(wire: Wire, app: App) -> None:
        await wire.say(b"GET %s HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n" % path)
        for _ in range(20):
            await wire.say(b"10000\r\n" + b"x" * 65536 + b"\r\n")
        if path == b"/deaf":
            assert (wire.statuses, wire.shut) == ([200], True)
        else:
            # Whoever reads it bounds it.
            assert LIMITS.body_timeout in wire.timers

    on_a_wire(talk)


def test_a_caller_who_goes_on_sending_behind_the_last_answer_is_heard_out_for_a_while() -> None:
    async def talk(wire: Wire, app: App) -> None:
        await wire.say(CHUNKED + b"no size\r\n")
        assert (wire.statuses, wire.shut, wire.closed) == ([400], True, False)
        await wire.say(b"x" * 100_000)
        wire.fire()
        assert not wire.closed
        wire.fire()
        assert wire.closed

    on_a_wire(talk)
