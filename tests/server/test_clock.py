"""A request goes by the clock of its event loop alone: with a virtual one, minutes of waiting take no time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

import pytest

from ponder.server.settings import Settings
from ponder.testing import Chain, ScriptedEngine, always
from ponder.testing.virtual_time import VirtualTimeLoop
from tests.server.serving import Line, counted, door, its_door

T = TypeVar("T")
TEN = Chain("t" * 6, "aaa")
"""Ten tokens, the closing marker included."""


def in_virtual_time(work: Awaitable[T]) -> T:
    async def go() -> T:
        return await work

    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return runner.run(go())


@pytest.mark.parametrize("stream", [False, True])
def test_durations_are_the_loops(stream: bool) -> None:
    app = door(ScriptedEngine(always(TEN), delay=10.0), Settings(keepalive=35.0))
    line = Line(stream=stream, timeout=400)
    in_virtual_time(line.call(app))
    assert line.text.count(b": keep-alive") == (2 if stream else 0), "one in each 35 seconds without text"
    assert counted(app, "ponder_request_duration_seconds_sum") == pytest.approx(100)
    assert counted(app, "ponder_time_to_first_visible_token_seconds_sum") == pytest.approx(80 if stream else 100)


def test_time_in_the_queue_is_part_of_the_deadline() -> None:
    async def go() -> None:
        async with asyncio.TaskGroup() as group:
            for line in lines:
                group.create_task(line.call(app))

    app = door(ScriptedEngine(always(TEN), delay=10.0), Settings(max_inflight=1))
    lines = Line(timeout=400), Line(timeout=190)
    in_virtual_time(go())
    assert [line.sent[0]["status"] for line in lines] == [200, 200]
    assert counted(app, "ponder_queue_wait_seconds_sum") == pytest.approx(100)
    assert b'"stopped_by":"deadline"' in lines[1].text.replace(b" ", b"")
    assert counted(app, "ponder_request_duration_seconds_sum") == pytest.approx(100 + 190)
    assert its_door(app).admission.inside == 0
