"""Thoughts stay inside where the model is a server elsewhere: the checks of `test_thoughts_stay_inside`, over HTTP on
both sides of the application."""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from aiohttp import web
from fastapi import FastAPI

from ponder.compute.lengths import Lengths
from ponder.testing import MARKER, ScriptedRewards
from tests.engines.scripted_server import ScriptedServer, replica
from tests.engines.scripted_vllm import FAMILIES, Nature, ScriptedVllm
from tests.server.serving import ASK, asked, door
from tests.server.test_thoughts_stay_inside import (
    CUT,
    HABITS,
    KEY,
    TRACE,
    WHOLE,
    WISHES,
    contents,
    keyed,
    nothing_in,
)  # fmt: skip

SOME = 24
"""One wish in so many."""
OF_THE_ENGINE = re.compile("http://127.0.0.1:[0-9]+")


@pytest.fixture(autouse=True)
def _log(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    caplog.set_level(logging.DEBUG)
    yield
    assert TRACE not in caplog.text


async def whatever(
    family: str, nature: Nature, wishes: list[tuple[bool, dict[str, Any]]], portions: tuple[int, ...] = (1, 2, 3, 5)
) -> None:
    """No thought outside; and the answer is the visible text, within its budget, every token billed."""
    llm = ScriptedVllm(FAMILIES[family], nature, portions)
    async with replica(ScriptedServer(llm, scale_out=True)) as engine:
        rewards = ScriptedRewards(lambda line: 0.9 if MARKER in line else 0.4)
        app = door(engine, keyed(retain_text=True), reward_model=rewards, lengths=Lengths(20, 40))
        ids: list[str] = []
        for stream, wish in wishes:
            made = llm.made
            more = {"stream": True, "stream_options": {"include_usage": True}} if stream else {}
            response = await asked(app, "POST", "/v1/chat/completions", json=ASK | more | wish, headers=KEY)
            assert response.status_code == 200, (wish, response.text)
            nothing_in(response)
            choices, usage, thinking = contents(response)
            reasoning = usage["completion_tokens_details"]["reasoning_tokens"]
            assert usage["completion_tokens"] == llm.made - made, wish
            assert reasoning == thinking["spent"] <= thinking["budget"], wish
            assert llm.running == 0, wish
            for text, finish in choices:
                if finish == "stop" and CUT.isdisjoint(wish):
                    assert text == WHOLE, wish
            ids.append(response.headers["x-request-id"])
        await nothing_kept(app, ids)
    assert MARKER in llm.hidden or not llm.profile.thinks


async def nothing_kept(app: FastAPI, request_ids: list[str]) -> None:
    for url in (*(f"/v1/traces/{one}" for one in request_ids), "/metrics", "/healthz", "/v1/models"):
        told = await asked(app, "GET", url, headers=KEY)
        assert told.status_code in (200, 503), told.text
        assert TRACE not in told.text


def held(wish: dict[str, Any]) -> bool:
    """Its answers are held to a schema, which a plain server goes on with in other calls: `test_replica` has these."""
    return "response_format" in wish


@pytest.mark.parametrize(("family", "nature"), HABITS, ids=str)
def test_whatever_a_model_elsewhere_does_and_a_caller_asks(family: str, nature: Nature) -> None:
    number = HABITS.index((family, nature))
    some = [wish for wish in WISHES if not held(wish)][number % SOME :: SOME]
    wishes = [(bool((i + number) % 2), wish) for i, wish in enumerate(some)]
    asyncio.run(whatever(family, nature, wishes, (1, 7, 64)))


@pytest.mark.soak
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize(("family", "nature"), HABITS, ids=str)
def test_every_habit_and_every_wish(family: str, nature: Nature, stream: bool) -> None:
    asyncio.run(whatever(family, nature, [(stream, wish) for wish in WISHES if not held(wish)]))


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("strategy", ["direct", "majority_vote", "beam_search", "revision"])
def test_nothing_that_a_server_says_tells_a_thought(strategy: str, stream: bool) -> None:
    """It answers with errors that quote what it was asked, with events that are none, and breaks off."""

    async def go() -> None:
        async def quotes(request: web.Request) -> web.StreamResponse:
            number = len(server.bodies) % 4
            if number == 0:
                return web.json_response({"error": {"message": MARKER}}, status=500)
            if number == 1:
                return web.json_response({"error": {"message": MARKER}}, status=400)
            response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
            await response.prepare(request)
            event = {"error": {"message": MARKER}} if number == 2 else {"choices": MARKER}
            await response.write(b"data: " + json.dumps(event).encode() + b"\n\n")
            return response

        llm = ScriptedVllm(FAMILIES["ids"], Nature("forgotten"), (3,))
        server = ScriptedServer(llm, scale_out=True)
        async with replica(server) as engine:
            server.answer = quotes
            app = door(engine, keyed(retain_text=True), lengths=Lengths(20, 40))
            for _ in range(4):
                body = ASK | {"strategy": strategy, "thinking_budget": 400, "stream": stream}
                response: httpx.Response = await asked(app, "POST", "/v1/chat/completions", json=body, headers=KEY)
                assert TRACE not in response.text + str(response.headers)
                assert not OF_THE_ENGINE.search(response.text)
                await nothing_kept(app, [response.headers["x-request-id"]])

    asyncio.run(go())
