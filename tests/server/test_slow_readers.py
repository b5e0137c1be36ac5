"""A reader who pauses while its time ends: all that was written for it arrives, exactly once and in order."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Any

import pytest

from ponder.compute.engine import Delta, Sampling
from ponder.compute.text import Prompt
from ponder.compute.transcript import Transcript
from ponder.server.http.outbox import PIECE, ROOM, Outbox
from ponder.server.settings import Settings
from ponder.testing import Chain, ScriptedEngine, in_virtual_time
from tests.server.serving import ASK, Line, counted, door, events, its_door, serving, until, written

KEEPALIVE = b": keep-alive\n\n"

ANSWER = "".join(f"{number:04} " for number in range(4000))
WIDE = {"max_answer_tokens": 20_000, "stream_options": {"include_usage": True}, "stream": True}


def counting() -> ScriptedEngine:
    """Says the numbers in order, one token a character."""
    return ScriptedEngine(lambda p, t, c: Chain("t" * 5, ANSWER))


async def soon(true: Callable[[], object]) -> None:
    """Returns when it has come true, on this event loop."""
    for _ in range(1_000_000):
        if true():
            return
        await asyncio.sleep(0)
    raise AssertionError("it did not happen")


def cut(engine: ScriptedEngine, ends: str) -> bool:
    """The first call is over: by the deadline, or by the drain, after which a second completes the answer."""
    return engine.calls == 2 if ends == "draining" else engine.running == 0


def said(chunks: Sequence[dict[str, Any]], choice: int = 0) -> str:
    choices = [c for chunk in chunks for c in chunk["choices"] if c["index"] == choice]
    return "".join(c["delta"].get("content", "") for c in choices)


def visible(chunks: Sequence[dict[str, Any]]) -> int:
    """Visible tokens on the bill."""
    usage = chunks[-1]["usage"]
    return usage["completion_tokens"] - usage["completion_tokens_details"]["reasoning_tokens"]


def all_of_it(text: str) -> list[dict[str, Any]]:
    """The chunks of a stream in which every token that was billed has arrived."""
    chunks = events(text)
    told = said(chunks)
    assert ANSWER.startswith(told)
    assert len(told) == visible(chunks) > 0
    return chunks


@pytest.mark.parametrize("pause", [0, 400, 20_000])
@pytest.mark.parametrize("ends", ["deadline", "draining"])
def test_what_was_told_to_a_reader_who_pauses_arrives(ends: str, pause: int) -> None:
    async def go() -> None:
        engine = counting()
        app = door(engine, Settings(drain_timeout=0.05), answer_tokens=20_000)
        line = Line(**WIDE, timeout=0.3 if ends == "deadline" else 60)
        async with asyncio.timeout(30), asyncio.TaskGroup() as group:
            call = group.create_task(line.call(app))
            await soon(lambda: len(line.text) >= pause and line.sent)
            line.blocked.clear()
            before = len(line.text)
            await soon(lambda: engine.calls)
            if ends == "draining":
                group.create_task(its_door(app).drain())
            await soon(lambda: cut(engine, ends))
            assert len(line.text) == before
            assert not call.done()
            line.blocked.set()
        chunks = all_of_it(line.text.decode())
        assert chunks[-1]["thinking"]["stopped_by"] == ends
        assert written(app) == engine.produced

    asyncio.run(go())


@pytest.mark.parametrize("ends", ["deadline", "draining"])
def test_what_was_told_to_a_reader_who_pauses_arrives_over_a_socket(ends: str) -> None:
    engine = counting()
    app = door(engine, Settings(drain_timeout=0.05), answer_tokens=20_000)
    with serving(app) as place, socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.settimeout(30)
        sock.connect(("127.0.0.1", place.port))
        body = json.dumps(ASK | WIDE | {"timeout": 1 if ends == "deadline" else 60}).encode()
        head = "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        sock.sendall(f"{head}Connection: close\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
        until(lambda: engine.calls > 0)
        if ends == "draining":
            asyncio.run_coroutine_threadsafe(its_door(app).drain(), place.loop)
        until(lambda: cut(engine, ends))
        assert engine.produced < 15_000
        raw = b""
        while part := sock.recv(1 << 16):
            raw += part
    head, _, rest = raw.partition(b"\r\n\r\n")
    text = b""
    while rest:
        size, _, rest = rest.partition(b"\r\n")
        text, rest = text + rest[: int(size, 16)], rest[int(size, 16) + 2 :]
    chunks = all_of_it(text.decode())
    assert chunks[-1]["thinking"]["stopped_by"] == ends


def test_the_log_probabilities_of_what_is_told_late_are_told_too() -> None:
    async def go() -> None:
        engine = counting()
        app = door(engine, answer_tokens=20_000)
        line = Line(**WIDE, logprobs=True, timeout=0.3)
        async with asyncio.TaskGroup() as group:
            group.create_task(line.call(app))
            await soon(lambda: len(line.text) >= 2000)
            line.blocked.clear()
            await soon(lambda: engine.calls and not engine.running)
            line.blocked.set()
        chunks = all_of_it(line.text.decode())
        tokens = [c["logprobs"]["content"] for chunk in chunks for c in chunk["choices"] if c.get("logprobs")]
        assert "".join(token["token"] for some in tokens for token in some) == said(chunks)

    asyncio.run(go())


def test_an_error_comes_behind_the_text_that_a_paused_reader_has_not_read() -> None:
    async def go() -> None:
        engine = ScriptedEngine(lambda p, t, c: Chain("", "abc"))

        class Failing(ScriptedEngine):
            async def generate(
                self, prompt: Prompt, sampling: Sampling, transcript: Transcript
            ) -> AsyncGenerator[Delta]:
                async for delta in engine.generate(prompt, sampling, transcript):
                    yield delta
                raise ValueError("what it says is told to nobody")

        line = Line(stream=True)
        app = door(Failing(engine.script))
        async with asyncio.TaskGroup() as group:
            group.create_task(line.call(app))
            await soon(lambda: line.sent)
            line.blocked.clear()
            await soon(lambda: engine.calls and not engine.running)
            line.blocked.set()
        *lines, last = line.text.decode().strip().split("\n\n")
        assert said([json.loads(line.removeprefix("data: ")) for line in lines]) == "abc"
        assert json.loads(last.removeprefix("data: "))["error"]["code"] == "internal_error"
        assert line.sent[-1]["more_body"] is False
        assert counted(app, 'ponder_requests_total{outcome="failed"}') == 1

    asyncio.run(go())


class Slow:
    """Takes messages when it is let."""

    def __init__(self) -> None:
        self.let = asyncio.Event()
        self.bodies: list[bytes] = []

    async def send(self, message: Any) -> None:
        await self.let.wait()
        if message["type"] == "http.response.body":
            self.bodies.append(message["body"])


def test_what_is_taken_and_unsent_is_bounded_and_whoever_tells_waits() -> None:
    async def go() -> None:
        slow = Slow()
        out = Outbox(slow.send, (), keepalive=10, keep_alive=KEEPALIVE, send_timeout=10)
        taken = 0

        async def tell() -> None:
            nonlocal taken
            for number in range(1000):
                out.put(b"%9d " % number * 100)
                taken += 1000
                await out.room()
            await out.end(b"end")

        async with asyncio.TaskGroup() as group:
            group.create_task(out.write())
            group.create_task(tell())
            for _ in range(100):
                await asyncio.sleep(0)
            assert ROOM < taken <= ROOM + 1000
            slow.let.set()
        sent = b"".join(slow.bodies)
        assert sent == b"".join(b"%9d " % number * 100 for number in range(1000)) + b"end"
        assert max(map(len, slow.bodies)) <= PIECE

    asyncio.run(go())


def test_a_comment_never_stands_in_the_middle_of_an_event() -> None:
    async def go() -> None:
        slow = Slow()
        slow.let.set()
        out = Outbox(slow.send, (), keepalive=0.001, keep_alive=KEEPALIVE, send_timeout=10)
        event = b"data: " + b"x" * 3 * PIECE + b"\n\n"
        async with asyncio.TaskGroup() as group:
            group.create_task(out.write())
            keeper = group.create_task(out.keep())
            for _ in range(20):
                out.put(event)
                await asyncio.sleep(0.002)
            await out.end(b"data: [DONE]\n\n")
            keeper.cancel()
        sent = b"".join(slow.bodies)
        assert KEEPALIVE in sent
        assert sent.replace(KEEPALIVE, b"") == event * 20 + b"data: [DONE]\n\n"

    in_virtual_time(go())
