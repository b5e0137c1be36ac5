"""The HTTP server's own bounds, spoken to over raw sockets: what never reaches the application."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from ponder.server.http.server import run
from ponder.server.http.sockets import CannotListen, bind, listen, url_of
from ponder.server.settings import Limits, Settings

LIMITS = Limits(header_bytes=2048, header_timeout=0.5, connections=3)


async def hello(scope: Any, receive: Any, send: Any) -> None:
    """Answers with the length of the body; on /slow after half a second."""
    if scope["type"] != "http":
        return
    size, more = 0, True
    while more:
        message = await receive()
        size += len(message.get("body", b""))
        more = message.get("more_body", False)
    if scope["path"] == "/slow":
        await asyncio.sleep(0.5)
    body = str(size).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})


async def nothing() -> None:
    pass


Talk = Callable[[str, int], Awaitable[None]]


def served(
    talk: Talk,
    drain: Callable[[], Awaitable[None]] = nothing,
    ends_itself: bool = False,
    app: Any = hello,
    limits: Limits = LIMITS,
) -> list[float]:
    """Runs the server around `talk`, ends it by a signal (unless the talk does), and returns the lags it told."""
    lags: list[float] = []

    async def all_of_it() -> None:
        sock = bind("127.0.0.1", 0)
        listen(sock)
        async with asyncio.TaskGroup() as group:
            group.create_task(run(app, Settings(limits=limits), sock, drain, lags.append))
            await asyncio.sleep(0.05)
            try:
                await talk(*sock.getsockname())
            finally:
                if not ends_itself:
                    os.kill(os.getpid(), signal.SIGTERM)

    asyncio.run(all_of_it())
    return lags


async def say(host: str, port: int, data: bytes) -> tuple[int, dict[str, str], bytes]:
    """Sends bytes and reads one answer: status, headers, body."""
    reader, writer = await asyncio.open_connection(host, port)
    writer.write(data)
    await writer.drain()
    answer = await streamed(reader)
    writer.close()
    return answer


async def streamed(reader: asyncio.StreamReader) -> tuple[int, dict[str, str], bytes]:
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    first, *lines = head.strip().split("\r\n")
    headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
    return int(first.split()[1]), headers, await reader.readexactly(int(headers.get("content-length", 0)))


def code_of(body: bytes) -> str:
    error = json.loads(body)["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    return str(error["code"])


def test_an_ordinary_request_passes_with_a_body_of_any_size_and_no_server_header() -> None:
    async def talk(host: str, port: int) -> None:
        body = b"x" * 300_000
        status, headers, answer = await say(
            host, port, b"POST / HTTP/1.1\r\nhost: localhost\r\ncontent-length: %d\r\n\r\n" % len(body) + body
        )
        assert (status, answer) == (200, b"300000")
        assert "server" not in headers

    served(talk)


@pytest.mark.parametrize(
    "head",
    [
        b"GET / HTTP/1.1\r\nhost: localhost\r\nx: " + b"y" * 3000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: localhost\r\nx: " + b"y" * 3000,
        b"GET /" + b"y" * 3000 + b" HTTP/1.1\r\nhost: localhost\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: localhost\r\n" + b"".join(b"x%d: y\r\n" % i for i in range(400)) + b"\r\n",
    ],
    ids=["whole", "endless", "address", "many"],
)
def test_a_head_that_is_too_long_is_refused_in_openais_shape(head: bytes) -> None:
    async def talk(host: str, port: int) -> None:
        status, headers, body = await say(host, port, head)
        assert (status, code_of(body)) == (431, "headers_too_large")
        assert headers["x-request-id"].startswith("req_")

    served(talk)


def test_a_head_that_takes_too_long_is_refused_and_a_silent_caller_dropped() -> None:
    async def talk(host: str, port: int) -> None:
        status, _, body = await say(host, port, b"GET / HTTP/1.1\r\nhost")
        assert (status, code_of(body)) == (408, "headers_timeout")
        reader, writer = await asyncio.open_connection(host, port)
        assert await asyncio.wait_for(reader.read(), 50) == b""
        writer.close()

    served(talk)


def test_what_is_no_http_is_refused_in_openais_shape() -> None:
    async def talk(host: str, port: int) -> None:
        status, _, body = await say(host, port, b"\x16\x03\x01 hello\r\n\r\n")
        assert (status, code_of(body)) == (400, "invalid_http")

    served(talk)


def test_connections_are_bounded() -> None:
    async def talk(host: str, port: int) -> None:
        request = b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n"
        kept = [await asyncio.open_connection(host, port) for _ in range(3)]
        for reader, writer in kept:
            writer.write(request)
            assert (await streamed(reader))[0] == 200
        status, headers, body = await say(host, port, request)
        assert (status, code_of(body), headers["retry-after"]) == (503, "too_many_connections", "1")
        for reader, writer in kept:
            writer.write(request)
            assert (await streamed(reader))[0] == 200
            writer.close()

    served(talk)


def test_after_the_signal_what_runs_gets_its_answer_and_the_drain_is_waited_for() -> None:
    answers: list[tuple[int, dict[str, str], bytes]] = []
    drained: list[bool] = []

    async def drain() -> None:
        await asyncio.sleep(0.1)
        drained.append(True)

    async def talk(host: str, port: int) -> None:
        async with asyncio.TaskGroup() as group:
            asked = group.create_task(say(host, port, b"GET /slow HTTP/1.1\r\nhost: localhost\r\n\r\n"))
            await asyncio.sleep(0.1)
            os.kill(os.getpid(), signal.SIGTERM)
        answers.append(asked.result())

    served(talk, drain, ends_itself=True)
    assert answers[0][0] == 200
    assert drained == [True]


def test_the_event_loops_lag_is_told() -> None:
    async def talk(host: str, port: int) -> None:
        await asyncio.sleep(1.2)

    lags = served(talk)
    assert lags
    assert all(lag > -0.1 for lag in lags)


def test_an_address_that_is_not_to_be_had_is_said_to_be() -> None:
    with bind("127.0.0.1", 0) as taken:
        listen(taken)
        port = taken.getsockname()[1]
        assert url_of(taken) == f"http://127.0.0.1:{port}"
        with pytest.raises(CannotListen, match=f"port {port} on 127.0.0.1 is taken by another program"):
            bind("127.0.0.1", port)
    with pytest.raises(CannotListen, match="no such address"):
        bind("no.such.host.invalid", 0)
    with pytest.raises(CannotListen, match="is no address of this machine"):
        bind("192.0.2.1", 0)
