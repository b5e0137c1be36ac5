"""An answer in one piece that takes long begins before it is there, so that no client takes the server for dead."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any

import pytest

from ponder.server.settings import Limits, Settings
from ponder.testing import Chain, in_virtual_time
from tests.server.serving import ASK, PATH, door, scripted

SLOW = Chain("a" * 30, "b" * 30)


async def said(app: Any, *, slow: float = 0.0, send: Any = None, **body: Any) -> list[tuple[float, Mapping[str, Any]]]:
    """What the application sends, and after how many seconds; a message without the last one where it stops. `slow`:
    seconds that the first waits for a reader, as a server's does whose buffer is full."""
    loop = asyncio.get_running_loop()
    began, sent = loop.time(), list[tuple[float, Mapping[str, Any]]]()
    content: list[Any] = [{"type": "http.request", "body": json.dumps(ASK | body).encode()}]

    async def receive() -> Any:
        if content:
            return content.pop()
        return await asyncio.Event().wait()

    async def record(message: Any) -> None:
        if not sent:
            await asyncio.sleep(slow)
        sent.append((loop.time() - began, message))

    scope: dict[str, Any] = PATH | {
        "headers": [(b"content-type", b"application/json"), (b"host", b"door")],
        "state": {},
    }
    await app(scope, receive, send or record)
    return sent


def whole(sent: list[tuple[float, Mapping[str, Any]]]) -> bytes:
    return b"".join(message.get("body", b"") for _, message in sent[1:])


def test_headers_and_white_space_go_before_an_answer_that_takes_long() -> None:
    app = door(scripted(SLOW, delay=10.0), Settings(timeout=2000, headers_after=240))
    sent = in_virtual_time(said(app, thinking_budget=64))
    times = [round(at) for at, _ in sent]
    assert times[:3] == [240, 240, 480]
    assert sent[0][1]["status"] == 200
    headers = dict(sent[0][1]["headers"])
    assert headers[b"content-type"] == b"application/json"
    assert b"content-length" not in headers
    assert all(message["body"] == b" " and message["more_body"] for _, message in sent[1:-1])
    assert not sent[-1][1].get("more_body", False)
    told = json.loads(whole(sent))
    assert told["choices"][0]["message"]["content"] == "b" * 30
    assert told["usage"]["completion_tokens"] == 61


def test_an_answer_that_is_there_before_is_sent_as_ever() -> None:
    app = door(scripted(SLOW, delay=1.0), Settings(timeout=2000, headers_after=240))
    sent = in_virtual_time(said(app, thinking_budget=64))
    assert len(sent) == 2
    assert int(dict(sent[0][1]["headers"])[b"content-length"]) == len(sent[1][1]["body"])


@pytest.mark.parametrize(("delay", "status"), [(1.0, 503), (10.0, 200)])
def test_a_failure_has_its_status_until_then_and_is_never_a_whole_answer_behind_it(delay: float, status: int) -> None:
    engine = scripted(SLOW, delay=delay, vanish_at={0: 50})
    app = door(engine, Settings(timeout=2000, headers_after=240))
    sent = in_virtual_time(said(app, thinking_budget=64))
    assert sent[0][1]["status"] == status
    told = json.loads(whole(sent))
    assert told["error"]["code"]
    assert sent[-1][1].get("more_body", False) is (status == 200)


@pytest.mark.parametrize("fails", [False, True])
def test_headers_that_wait_for_their_reader_are_sent_before_what_comes_meanwhile(fails: bool) -> None:
    """The last of 61 tokens comes at 244 s, four seconds after the headers have begun to be sent."""
    engine = scripted(SLOW, delay=4.0, vanish_at={0: 60} if fails else {})
    app = door(engine, Settings(timeout=2000, headers_after=240))
    sent = in_virtual_time(said(app, thinking_budget=64, slow=8.0))
    assert [message["type"] for _, message in sent][:2] == ["http.response.start", "http.response.body"]
    assert [message["type"] for _, message in sent].count("http.response.start") == 1
    told = json.loads(whole(sent))
    assert ("error" in told) is fails
    assert sent[-1][1].get("more_body", False) is fails


def test_headers_that_nobody_reads_end_an_answer_and_nothing_is_left() -> None:
    async def asked() -> int:
        app = door(scripted(SLOW, delay=4.0), Settings(timeout=2000, headers_after=240, limits=Limits(send_timeout=5)))
        sent = await said(app, thinking_budget=64, slow=1000.0)
        assert sent == []
        return len(asyncio.all_tasks())

    assert in_virtual_time(asked()) == 1


def test_a_stream_whose_headers_were_not_read_when_the_server_ends_is_sent_nothing_without_them() -> None:
    sent = list[Any]()

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            await asyncio.sleep(1000)
        sent.append(message)

    async def asked() -> None:
        app = door(scripted(SLOW, delay=1.0), Settings(timeout=2000, limits=Limits(send_timeout=100)))
        task = asyncio.create_task(said(app, send=send, thinking_budget=64, stream=True))
        await asyncio.sleep(70)
        task.cancel()
        await asyncio.wait([task])

    in_virtual_time(asked())
    assert sent == []
