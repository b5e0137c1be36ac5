"""A reward model's server that never ends its answers: what is read of them is bounded, in bytes and in time."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import pytest

from ponder.compute.errors import EngineError
from ponder.engines.reward_remote import REPLY, REPLY_FOR_TOKEN, RemoteReader, reach
from tests.engines.pooler import PRM

CARDS = json.dumps({"data": [{"id": "judge", "root": str(PRM), "max_model_len": 512}]}).encode()
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"
BLOCK = b" " * 2**16
BUFFERS = 2**24
"""Bytes that may be under way in the sockets of both sides, at most."""

Answer = Callable[[], Iterator[bytes]]


@dataclass
class Hostile:
    """A server behind a real socket that says which model it has, and answers all else by a script."""

    answer: Answer
    pause: float = 0.0
    """Seconds between two parts."""
    sent: int = 0
    hung_up: asyncio.Event = field(default_factory=asyncio.Event)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                size = [line.split(b":")[1] for line in head.lower().split(b"\r\n") if line.startswith(b"content-le")]
                await reader.readexactly(int(size[0]) if size else 0)
                if head.startswith(b"GET"):
                    writer.write(HEAD + b"content-length: %d\r\n\r\n" % len(CARDS) + CARDS)
                    continue
                for part in self.answer():
                    writer.write(part)
                    await writer.drain()
                    self.sent += len(part)
                    await asyncio.sleep(self.pause)
        writer.close()
        self.hung_up.set()


def endless(head: bytes, part: bytes) -> Answer:
    def answer() -> Iterator[bytes]:
        yield head
        while True:
            yield part

    return answer


def chunk(part: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(part), part)


def bomb() -> Iterator[bytes]:
    body = gzip.compress(b"0" * 2**26)
    yield HEAD + b"content-encoding: gzip\r\ncontent-length: %d\r\n\r\n" % len(body) + body
    while True:
        yield b" "


CHUNKED = HEAD + b"transfer-encoding: chunked\r\n\r\n"
TOO_MUCH = f"answers /pooling with more than {REPLY + 3 * REPLY_FOR_TOKEN} bytes: a reward model's server is vLLM's"
TOO_LONG = "has not answered /pooling within 1 s"
WRONG: dict[str, tuple[Answer, float, str]] = {
    "a body without end": (endless(HEAD + b"\r\n", BLOCK), 0, TOO_MUCH),
    "chunks without end": (endless(CHUNKED, chunk(BLOCK)), 0, TOO_MUCH),
    "a long body": (endless(HEAD + b"content-length: 1000000000000\r\n\r\n", BLOCK), 0, TOO_MUCH),
    "chunks that trickle": (endless(CHUNKED, chunk(b" ")), 0.01, TOO_LONG),
    "a body that trickles": (endless(HEAD + b"\r\n", b" "), 0.01, TOO_LONG),
    "a head that trickles": (endless(HEAD, b"x: y\r\n"), 0.01, TOO_LONG),
    "answers to come": (endless(b"", b"HTTP/1.1 102 Processing\r\n\r\n"), 0.01, TOO_LONG),
    "a head without end": (endless(HEAD, b"x: " + BLOCK + b"\r\n"), 0, r"cannot be reached (RemoteProtocolError)"),
    "little that becomes much": (bomb, 0.01, "answers /pooling compressed, which was not asked for"),
    "an error without end": (endless(b"HTTP/1.1 500 No\r\n\r\n", BLOCK), 0, "answers /pooling with status 500"),
}


async def asked(server: Hostile, use: Callable[[RemoteReader], Any], seconds: float = 60) -> str:
    """What is said of its answer, and which address it is at."""
    listening = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
    reader = await reach(url, model=None, key=None, seconds=seconds)
    with pytest.raises(EngineError) as caught:
        await use(reader)
    await server.hung_up.wait()
    await reader.close()
    listening.close()
    assert f"judge at {url} " in caught.value.message
    return caught.value.message


@pytest.mark.parametrize("what", WRONG)
def test_an_answer_without_end_is_given_up_and_said_to_be_so(what: str) -> None:
    async def go() -> None:
        answer, pause, words = WRONG[what]
        server = Hostile(answer, pause)
        seconds = 1 if words == TOO_LONG else 60
        assert words in await asked(server, lambda reader: reader.read((1, 2, 3), (), None), seconds)
        assert server.sent < REPLY + BUFFERS

    asyncio.run(go())
