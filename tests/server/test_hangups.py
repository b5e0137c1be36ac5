"""Callers who leave, do not read, or wait long: the model stops, every token is counted, and nothing is left behind."""

from __future__ import annotations

import asyncio
import json
import random
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from ponder.compute.transcript import Transcript
from ponder.server.settings import Settings
from ponder.testing import MARKER, Chain, ScriptedEngine, in_virtual_time
from tests.server.serving import ASK, Line, counted, door, its_door, scripted, serving, until, written

LONG = Chain(MARKER + "t" * 60, "a" * 60)


def settled(app: FastAPI, engine: ScriptedEngine) -> None:
    """Soon nothing runs, and then all that was written is counted and nothing is held."""
    until(lambda: engine.running == 0 and its_door(app).admission.inside == 0)
    until(lambda: counted(app, "ponder_inflight_requests") == 0)
    assert written(app) == engine.produced
    assert counted(app, "ponder_budget_violations_total") == 0


def test_two_hundred_hang_ups_at_random_moments_leave_nothing_running_and_nothing_uncounted() -> None:
    engine = ScriptedEngine(lambda p, t, c: LONG, delay=0.001, tail=2)
    app = door(engine)
    lots = random.Random(11)

    async def one(port: int, number: int) -> None:
        choice: dict[str, Any] = {
            "stream": number % 2 == 0,
            "n": 1 + number % 3,
            "thinking_budget": lots.choice([0, 16, 200]),
        }
        if number % 5 == 0:
            choice["strategy"] = "majority_vote"
        body = json.dumps(ASK | choice).encode()
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        head = "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        await asyncio.sleep(lots.random() * 0.25)
        if number % 4 == 0:
            writer.transport.abort()
        writer.close()

    async def all_of_them(port: int) -> None:
        async with asyncio.TaskGroup() as group:
            for number in range(200):
                group.create_task(one(port, number))
                await asyncio.sleep(0.002)

    with serving(app) as place:
        asyncio.run(all_of_them(place.port))
        until(lambda: counted(app, "ponder_requests_total") + its_door(app).admission.inside >= 150)
        settled(app, engine)
        assert counted(app, 'ponder_requests_total{outcome="disconnected"}') > 50


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("moment", [0.0, 0.001, 0.02, 0.05])
def test_a_hang_up_in_any_phase_stops_the_model(stream: bool, moment: float) -> None:
    async def go() -> None:
        engine = ScriptedEngine(lambda p, t, c: LONG, delay=0.001, tail=3)
        app = door(engine)
        line = Line(stream=stream)
        async with asyncio.TaskGroup() as group:
            group.create_task(line.call(app))
            await asyncio.sleep(moment)
            line.gone.set()
        assert engine.running == 0
        assert written(app) == engine.produced
        assert counted(app, "ponder_client_disconnects_total") == 1
        assert counted(app, "ponder_inflight_requests") == 0
        assert b"[DONE]" not in line.text

    in_virtual_time(go())


def test_a_hang_up_in_the_queue_gives_the_place_up() -> None:
    async def go() -> None:
        engine = ScriptedEngine(lambda p, t, c: LONG, delay=0.001)
        app = door(engine, Settings(max_inflight=1))
        first, second, third = Line(), Line(), Line()
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(line.call(app)) for line in (first, second, third)]
            await asyncio.sleep(0.02)
            assert its_door(app).admission.queued == 2
            second.gone.set()
            await tasks[1]
            assert its_door(app).admission.queued == 1
        assert (first.sent[0]["status"], second.sent, third.sent[0]["status"]) == (200, [], 200)
        assert its_door(app).admission.inside == 0
        assert counted(app, 'ponder_client_disconnects_total{phase="queued"}') == 1

    in_virtual_time(go())


@pytest.mark.parametrize("stream", [False, True])
def test_a_reader_who_does_not_read_is_dropped(stream: bool) -> None:
    async def go() -> None:
        engine = ScriptedEngine(lambda p, t, c: LONG, delay=0.0005)
        app = door(engine, Settings(limits={"send_timeout": 0.1}))  # pyright: ignore[reportArgumentType]
        line = Line(stream=stream)
        async with asyncio.timeout(5), asyncio.TaskGroup() as group:
            group.create_task(line.call(app))
            await asyncio.sleep(0.01)
            line.blocked.clear()
        assert engine.running == 0
        assert written(app) == engine.produced
        assert counted(app, 'ponder_client_disconnects_total{phase="slow_reader"}') == 1

    in_virtual_time(go())


def test_a_silent_stream_hears_comments() -> None:
    async def go() -> None:
        engine = ScriptedEngine(lambda p, t, c: LONG, delay=0.005)
        app = door(engine, Settings(keepalive=0.02))
        line = Line(stream=True)
        await line.call(app)
        text = line.text
        assert text.startswith(b"data: ")
        assert text.count(b": keep-alive\n\n") >= 3
        assert text.endswith(b"data: [DONE]\n\n")

    in_virtual_time(go())


def test_the_role_is_sent_before_the_model_has_begun() -> None:
    async def go() -> None:
        app = door(ScriptedEngine(lambda p, t, c: LONG, delay=0.2))
        line = Line(stream=True, n=2)
        async with asyncio.TaskGroup() as group:
            task = group.create_task(line.call(app))
            await asyncio.sleep(0.1)
            assert line.text.count(b'"role": "assistant"') == 2
            line.gone.set()
            await task

    in_virtual_time(go())


def test_the_end_of_the_server_task_is_the_end_of_the_request() -> None:
    async def go() -> None:
        engine = ScriptedEngine(lambda p, t, c: LONG, delay=0.001, tail=2)
        app = door(engine)
        line = Line(stream=True)
        async with asyncio.TaskGroup() as group:
            task = group.create_task(line.call(app))
            await asyncio.sleep(0.03)
            task.cancel()
        assert engine.running == 0
        assert written(app) == engine.produced
        assert counted(app, "ponder_inflight_requests") == 0

    in_virtual_time(go())


def test_an_engine_that_fails_in_a_stream_says_so_and_does_not_say_done() -> None:
    async def go() -> None:
        engine = scripted(fail_at=0)
        app = door(engine)
        line = Line(stream=True)
        await line.call(app)
        last = line.text.decode().strip().rpartition("data: ")[2]
        error = json.loads(last)["error"]
        assert (error["type"], error["code"]) == ("server_error", "engine_error")
        assert b"[DONE]" not in line.text
        assert line.sent[-1]["more_body"] is False
        assert written(app) == engine.produced

    in_virtual_time(go())


def test_a_model_that_goes_away_in_a_stream_says_so_behind_the_text_it_wrote() -> None:
    async def go() -> None:
        engine = scripted(vanish_at={0: 45})
        app = door(engine)
        line = Line(stream=True)
        await line.call(app)
        last = line.text.decode().strip().rpartition("data: ")[2]
        error = json.loads(last)["error"]
        assert (error["type"], error["code"]) == ("service_unavailable_error", "engine_lost")
        assert b"[DONE]" not in line.text
        assert b"content" in line.text
        assert written(app) == engine.produced == 45

    in_virtual_time(go())


@pytest.mark.parametrize(("fail_at", "outcome", "times"), [(None, "answered", 10), (0, "failed", 1)])
def test_a_stream_that_was_read_to_its_end_is_no_hang_up(fail_at: int | None, outcome: str, times: int) -> None:
    """The HTTP server tells of a disconnect as soon as the last byte of an answer is sent."""
    app = door(scripted() if fail_at is None else scripted(fail_at=fail_at))
    with serving(app) as place, httpx.Client(base_url=place.url, timeout=30) as client:
        for _ in range(times):
            with client.stream("POST", "/v1/chat/completions", json=ASK | {"stream": True}) as answer:
                assert answer.read().rstrip().endswith(b"[DONE]" if outcome == "answered" else b"}")
        until(lambda: counted(app, "ponder_inflight_requests") == 0)
    assert counted(app, f'ponder_requests_total{{outcome="{outcome}"}}') == times
    assert counted(app, "ponder_client_disconnects_total") == 0


@dataclass
class Slow(ScriptedEngine):
    """Takes a second to stop a call."""

    async def make(self, transcript: Transcript) -> None:
        try:
            await super().make(transcript)
        except asyncio.CancelledError:
            await asyncio.sleep(1.0)
            raise


@pytest.mark.parametrize("strategy", ["direct", "majority_vote"])
def test_a_hang_up_while_the_other_answers_of_one_that_failed_are_stopped_ends_the_request(strategy: str) -> None:
    """Python before 3.13 forgets that a task was cancelled where a group of tasks in it is ending over an error."""
    engine = Slow(lambda p, t, c: LONG, delay=0.1, fail_at=0)
    app, line = door(engine), Line(stream=True, n=2, strategy=strategy, thinking_budget=200)
    fails = len(LONG.thought) // 2 * engine.delay

    async def asked() -> float:
        loop = asyncio.get_running_loop()
        loop.call_later(fails + 0.5, line.gone.set)
        async with asyncio.timeout(60):
            await line.call(app)
        return loop.time()

    assert in_virtual_time(asked()) < fails + 2
    assert its_door(app).admission.inside == engine.running == 0
    assert written(app) == engine.produced
