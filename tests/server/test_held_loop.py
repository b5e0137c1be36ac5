"""No input of the API holds the event loop: each is driven at its bound, a half and a quarter of it, and the processor
time that the loop's thread takes for it grows no faster than the input, and so does that of all threads.

The engine is the real one over a scripted vLLM, so prompts are rendered and tokenised and grammars compiled as ever.
Milliseconds are measured by `bench/bombs.py`.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi import FastAPI

from bench.inputs import INPUTS, LIMITS
from ponder.engines.vllm import VllmEngine
from ponder.server.settings import Settings
from tests.engines.scripted_vllm import FAMILIES, ScriptedVllm
from tests.server.serving import ASK, PATH, door

MEASURABLE = 0.02
"""Seconds of processor time below which nothing is said about growth."""


@pytest.fixture(scope="module")
def app() -> FastAPI:
    llm = ScriptedVllm(FAMILIES["ids"])
    model = VllmEngine(llm, llm.get_tokenizer(), llm.profile, "demo", grammar_seconds=0.3)
    return door(model, Settings(), answer_tokens=64)


@pytest.fixture(scope="module")
def place() -> Iterator[asyncio.Runner]:
    """One loop for all, in this thread."""
    with asyncio.Runner() as runner:
        yield runner


async def _call(app: FastAPI, body: bytes) -> int:
    sent: list[Any] = []
    parts = [{"type": "http.request", "body": body}]

    async def receive() -> Any:
        if parts:
            return parts.pop()
        return await asyncio.get_running_loop().create_future()

    async def send(message: Any) -> None:
        sent.append(message)

    await app(PATH | {"headers": [(b"content-type", b"application/json")]}, receive, send)
    return sent[0]["status"]


@pytest.mark.parametrize("name", INPUTS)
def test_an_input_at_its_bound_holds_the_loop_as_long_as_it_is_large_and_no_longer(
    app: FastAPI, place: asyncio.Runner, name: str
) -> None:
    bound, made = INPUTS[name]

    def spent(n: int) -> tuple[float, float]:
        """Seconds of this thread and of all."""
        body = json.dumps(ASK | {"thinking_budget": 64} | made(n)).encode()
        assert len(body) <= LIMITS.body_bytes
        loop, all_of_it = time.thread_time(), time.process_time()
        assert place.run(_call(app, body)) in (200, 400, 404)
        return time.thread_time() - loop, time.process_time() - all_of_it

    def least(n: int) -> tuple[float, float]:
        first, second = spent(n), spent(n)
        return min(first[0], second[0]), min(first[1], second[1])

    if max(spent(bound)) > MEASURABLE:
        sizes = [least(n) for n in (bound // 4, bound // 2, bound)]
        for one, two, four in zip(*sizes, strict=True):
            assert four <= MEASURABLE or four <= 9 * one or (two <= 3 * one and four <= 3 * two), sizes
