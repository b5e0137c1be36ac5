"""Offers to go on in another protocol are passed over: a body is a body, for sockets, real clients and real proxies.

RFC 9110, 7.8. A server that takes such an offer for the end of the request reads the body as the next request on the
connection, and behind a proxy that reuses connections somebody else gets its answer (request smuggling).
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from ponder.server.settings import Limits
from tests.needs import tool
from tests.server import nginx
from tests.server.serving import ASK, door, scripted
from tests.server.test_listen import code_of, say, served, streamed

CLIENT = Path(__file__).parent / "JdkClient.java"
HIDDEN = b"GET /hidden HTTP/1.1\r\nhost: localhost\r\n\r\n"
OFFER = (
    b"POST / HTTP/1.1\r\nhost: localhost\r\nconnection: Upgrade, HTTP2-Settings\r\n"
    b"upgrade: %s\r\nhttp2-settings: AAMAAABk\r\n"
)
NEXT = b"GET / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"
WIDE = Limits(body_bytes=1 << 22)

HANDS_ON = 'proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection "upgrade";'
"""The way to let websockets through nginx that is copied everywhere: it hands on every caller's offer."""


def framed(body: bytes, chunked: bool) -> bytes:
    if not chunked:
        return b"content-length: %d\r\n\r\n" % len(body) + body
    return b"transfer-encoding: chunked\r\n\r\n%x\r\n" % len(body) + body + b"\r\n0\r\n\r\n"


@pytest.mark.parametrize("protocol", [b"h2c", b"websocket", b"TLS/1.0"])
@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("pieces", ["one", "head", "bytes"])
def test_the_body_of_a_request_that_offers_an_upgrade_is_its_body(pieces: str, chunked: bool, protocol: bytes) -> None:
    request = OFFER % protocol + framed(HIDDEN, chunked)
    end = request.index(b"\r\n\r\n") + 4
    parts: dict[str, Sequence[bytes]] = {
        "one": [request],
        "head": [request[:end], request[end:]],
        "bytes": [request[i : i + 1] for i in range(len(request))],
    }

    async def talk(host: str, port: int) -> None:
        reader, writer = await asyncio.open_connection(host, port)
        for part in parts[pieces]:
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(0)
        assert (await streamed(reader))[::2] == (200, b"%d" % len(HIDDEN))
        writer.write(NEXT)
        assert (await streamed(reader))[::2] == (200, b"0")
        assert await reader.read() == b""
        writer.close()

    served(talk)


def test_offers_on_one_connection_are_passed_over_each() -> None:
    async def talk(host: str, port: int) -> None:
        reader, writer = await asyncio.open_connection(host, port)
        writer.write((OFFER % b"h2c" + framed(HIDDEN, False)) * 5 + NEXT)
        answers = [(await streamed(reader))[::2] for _ in range(6)]
        assert answers == [(200, b"%d" % len(HIDDEN))] * 5 + [(200, b"0")]
        assert await reader.read() == b""
        writer.close()

    served(talk)


def test_a_tunnel_is_refused_and_ends_the_connection() -> None:
    async def talk(host: str, port: int) -> None:
        reader, writer = await asyncio.open_connection(host, port)
        writer.write(b"CONNECT a:80 HTTP/1.1\r\nhost: localhost:80\r\n\r\n" + HIDDEN)
        status, _, body = await streamed(reader)
        assert (status, code_of(body)) == (405, "method_not_allowed")
        assert await reader.read() == b""
        writer.close()

    served(talk)


def test_what_speaks_http2_from_the_start_is_refused() -> None:
    async def talk(host: str, port: int) -> None:
        status, _, body = await say(host, port, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        assert (status, code_of(body)) == (400, "invalid_http")

    served(talk)


async def output(*command: str) -> str:
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    out, _ = await process.communicate()
    assert process.returncode == 0
    return out.decode()


def test_the_jdks_own_client_is_answered() -> None:
    java = tool("java", "default-jdk-headless")
    tool("javac", "default-jdk-headless")

    async def talk(host: str, port: int) -> None:
        url = f"http://{host}:{port}/v1/chat/completions"
        lines = (await output(java, str(CLIENT), url, json.dumps(ASK))).splitlines()
        assert [line.split(" ", 1)[0] for line in lines] == ["200", "200"]
        for line in lines:
            assert json.loads(line.split(" ", 1)[1])["choices"][0]["message"]["content"] == "It is 7."

    served(talk, app=door(scripted()), limits=Limits())


def test_curl_is_answered_when_it_offers_http2() -> None:
    curl = tool("curl", "curl")

    async def talk(host: str, port: int) -> None:
        url = f"http://{host}:{port}/v1/chat/completions"
        ask = json.dumps(ASK)
        told = await output(curl, "-sS", "--http2", url, "-H", "Content-Type: application/json", "-d", ask)
        assert json.loads(told)["choices"][0]["message"]["content"] == "It is 7."

    served(talk, app=door(scripted()), limits=Limits())


def test_behind_nginx_nobody_gets_the_answer_to_what_another_has_put_into_a_body(tmp_path: Path) -> None:
    smuggled = HIDDEN * 30_000

    async def talk(host: str, port: int) -> None:
        async with nginx.before(tmp_path, host, port, HANDS_ON) as front:

            async def through(request: bytes) -> bytes:
                reader, writer = await asyncio.open_unix_connection(front)
                writer.write(request)
                status, _, body = await streamed(reader)
                writer.close()
                assert status == 200
                return body

            for _ in range(3):
                attack = asyncio.ensure_future(through(OFFER % b"h2c" + framed(smuggled, False)))
                assert await attack == b"%d" % len(smuggled)
                mine = b"POST /mine HTTP/1.1\r\nhost: localhost\r\ncontent-length: 3\r\n\r\nabc"
                assert [await through(mine) for _ in range(3)] == [b"3"] * 3

    served(talk, limits=WIDE)
