"""An answer in one piece that takes long begins before it is there, so that no client takes the server for dead."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any

import pytest

from ponder.server.settings import Settings
from ponder.testing import Chain, in_virtual_time
from tests.server.serving import ASK, PATH, door, scripted

SLOW = Chain("a" * 30, "b" * 30)


async def said(app: Any, **body: Any) -> list[tuple[float, Mapping[str, Any]]]:
    """What the application sends, and after how many seconds; a message without the last one where it stops."""
    loop = asyncio.get_running_loop()
    began, sent = loop.time(), list[tuple[float, Mapping[str, Any]]]()
    content: list[Any] = [{"type": "http.request", "body": json.dumps(ASK | body).encode()}]

    async def receive() -> Any:
        if content:
            return content.pop()
        return await asyncio.Event().wait()

    async def send(message: Any) -> None:
        sent.append((loop.time() - began, message))

    scope: dict[str, Any] = PATH | {
        "headers": [(b"content-type", b"application/json"), (b"host", b"door")],
        "state": {},
    }
    await app(scope, receive, send)
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
