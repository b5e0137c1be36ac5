"""Where one request ends and the next begins: nobody can make two servers see that in different places, neither a real
nginx and ours nor ours and itself (RFC 9112, 6.3 and 11.2)."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from ponder.server.settings import Limits
from tests.server import nginx
from tests.server.test_listen import served, streamed

HIDDEN = b"GET /hidden HTTP/1.1\r\nhost: localhost\r\nx: "
LENGTH = b"content-length: %d\r\n"
CHUNKED = b"transfer-encoding: chunked\r\n"
ENDED = b"0\r\n\r\n"


def post(*framing: bytes, body: bytes) -> bytes:
    return b"POST /a HTTP/1.1\r\nhost: localhost\r\n" + b"".join(framing) + b"\r\n" + body


OPENED = b"0\r\n\r\n" + HIDDEN
ATTACKS = {
    "length and chunks": post(LENGTH % len(OPENED), CHUNKED, body=OPENED),
    "chunks and length": post(CHUNKED, LENGTH % 4, body=b"5c\r\n" + HIDDEN.ljust(0x5C, b"x") + b"\r\n" + ENDED),
    "two lengths": post(LENGTH % 0, LENGTH % len(HIDDEN), body=HIDDEN),
    "two lengths turned": post(LENGTH % len(HIDDEN), LENGTH % 0, body=HIDDEN),
    "lengths in a list": post(b"content-length: 0, %d\r\n" % len(HIDDEN), body=HIDDEN),
    "a signed length": post(b"content-length: +0\r\n", body=HIDDEN),
    "a hexadecimal length": post(b"content-length: 0x0\r\n", body=HIDDEN),
    "a length of nothing": post(b"content-length: \r\n", body=HIDDEN),
    "a negative length": post(b"content-length: -1\r\n", body=HIDDEN),
    "a length with a blank before its colon": post(b"content-length : 0\r\n", LENGTH % len(HIDDEN), body=HIDDEN),
    "chunks with a blank before their colon": post(b"transfer-encoding : chunked\r\n", LENGTH % 5, body=OPENED),
    "chunks by another name": post(b"transfer-encoding: xchunked\r\n", LENGTH % 5, body=OPENED),
    "chunks twice": post(CHUNKED, b"transfer-encoding: identity\r\n", LENGTH % 5, body=OPENED),
    "chunks inside something else": post(b"transfer-encoding: chunked, identity\r\n", LENGTH % 5, body=OPENED),
    "chunks behind a line break": post(b"x: y\ntransfer-encoding: chunked\r\n", LENGTH % 5, body=OPENED),
    "chunks on a folded line": post(b"transfer-encoding:\r\n chunked\r\n", LENGTH % 5, body=OPENED),
    "chunks with a null": post(b"transfer-encoding: chunked\0\r\n", LENGTH % 5, body=OPENED),
    "chunks that end in bare line feeds": post(CHUNKED, body=b"0\n\n" + HIDDEN),
    "a chunk longer than it says": post(CHUNKED, body=b"1\r\nab\r\n" + ENDED + HIDDEN),
    "a chunk with a wide size": post(CHUNKED, body=b"100000000000000005\r\nabcde\r\n" + ENDED + HIDDEN),
    "a chunk of a negative size": post(CHUNKED, body=b"-1\r\n" + HIDDEN),
    "an extension with a line break": post(CHUNKED, body=b"1;\nx\r\na\r\n" + b"0;\n" + HIDDEN + b"\r\n\r\n"),
    "a body of a GET": b"GET /a HTTP/1.1\r\nhost: localhost\r\n" + LENGTH % len(HIDDEN) + b"\r\n" + HIDDEN,
    "a body of a HEAD": b"HEAD /a HTTP/1.1\r\nhost: localhost\r\n" + LENGTH % len(HIDDEN) + b"\r\n" + HIDDEN,
    "a second request line": b"GET /a HTTP/1.1\r\nGET /hidden HTTP/1.1\r\nhost: localhost\r\n\r\n",
    "a line break in the address": b"GET /a HTTP/1.1\nhost: x\n\nGET /hidden HTTP/1.1\r\nhost: localhost\r\n\r\n"[:-4],
}
"""Requests within which a second one is hidden, for whoever reads their framing in another way than it is meant."""


class Seen:
    """Answers with the path and the length of the body, and remembers the paths."""

    def __init__(self) -> None:
        self.paths: list[str] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        self.paths.append(scope["path"])
        size, more = 0, True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            size, more = size + len(message.get("body", b"")), message.get("more_body", False)
        body = f"{scope['path']} {size}".encode()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})


async def said(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, data: bytes) -> bytes:
    """All that comes back, until the other side is silent or has closed."""
    writer.write(data)
    told = b""
    try:
        async with asyncio.timeout(0.3):
            while part := await reader.read(1 << 16):
                told += part
    except (TimeoutError, ConnectionResetError):
        pass
    writer.close()
    return told


def test_no_framing_hides_a_request_from_us() -> None:
    seen = Seen()

    async def talk(host: str, port: int) -> None:
        for name, attack in ATTACKS.items():
            # What would be read as a request of its own is completed by the next bytes on the connection.
            await said(*await asyncio.open_connection(host, port), attack + b"\r\n\r\n")
            assert "/hidden" not in seen.paths, name

    served(talk, app=seen, limits=Limits())


@pytest.mark.parametrize("buffered", ["on", "off"])
def test_behind_nginx_nobody_gets_the_answer_to_another_request(tmp_path: Path, buffered: str) -> None:
    seen = Seen()
    more = f'proxy_set_header Connection ""; proxy_request_buffering {buffered};'

    async def talk(host: str, port: int) -> None:
        async with nginx.before(tmp_path, host, port, more) as front:

            async def mine() -> bytes:
                reader, writer = await asyncio.open_unix_connection(front)
                writer.write(b"POST /mine HTTP/1.1\r\nhost: localhost\r\ncontent-length: 3\r\n\r\nabc")
                told = await streamed(reader)
                writer.close()
                return told[2]

            for name, attack in ATTACKS.items():
                await said(*await asyncio.open_unix_connection(front), attack)
                assert [await mine(), await mine()] == [b"/mine 3"] * 2, name
                assert "/hidden" not in seen.paths, name
            # Requests that are meant to follow one another get their answers in order.
            pipelined = b"".join(
                b"POST /%d HTTP/1.1\r\nhost: localhost\r\ncontent-length: %d\r\n\r\n" % (i, i) + b"x" * i
                for i in range(12)
            )
            reader, writer = await asyncio.open_unix_connection(front)
            writer.write(pipelined)
            for i in range(12):
                assert (await streamed(reader))[2] == b"/%d %d" % (i, i)
            writer.close()

    served(talk, app=seen, limits=Limits())
