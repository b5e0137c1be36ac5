"""Structured answers under every strategy, from the real engine to the socket: one valid document, streamed and not.

`make soak` asks each strategy for every form 200 times.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import pytest
from fastapi import FastAPI

from ponder.compute.lengths import Lengths
from ponder.engines import vllm
from ponder.engines.launch import EngineOptions
from ponder.server.app import ServedModel, create_app
from ponder.server.settings import ModelSettings, Settings
from tests.server.serving import ASK, events, joined

DEMO = Path(__file__).parents[2] / "models" / "demo"
STRATEGIES = [
    *("direct", "majority_vote", "best_of_n", "auto", "revision", "beam_search", "dvts", "particle_filter"),
    *("budget_forcing", "deep_think", "short_m_at_k"),
]
STEPS: dict[str, Any] = {
    "type": "object",
    "properties": {
        "steps": {
            "type": "array",
            "items": {"type": "integer", "minimum": 0, "maximum": 99},
            "minItems": 2,
            "maxItems": 6,
        },
        "unit": {"enum": ["apples", "pens"]},
        "answer": {"$ref": "#/$defs/Number"},
    },
    "required": ["steps", "unit", "answer"],
    "$defs": {
        "Number": {
            "type": "object",
            "properties": {"value": {"type": "integer", "minimum": 0, "maximum": 999}},
            "required": ["value"],
        }
    },
}
TOOL = {"type": "function", "function": {"name": "count", "parameters": STEPS}}
OTHER = {
    "type": "function",
    "function": {
        "name": "shop",
        "parameters": {
            "type": "object",
            "properties": {"list": {"$ref": "#/$defs/List"}},
            "required": ["list"],
            "$defs": {"List": {"type": "array", "items": {"enum": ["apples", "pens"]}, "maxItems": 3}},
        },
    },
}


def form(schema: Any) -> dict[str, Any]:
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "form", "schema": schema}}}


FORMS: dict[str, dict[str, Any]] = {
    "object": form(STEPS),
    "array": form({"type": "array", "items": {"enum": ["apples", "pens", "books"]}, "minItems": 3, "maxItems": 9}),
    "long": form({"type": "array", "items": {"enum": ["apples", "pens", "books"]}, "minItems": 36, "maxItems": 40}),
    "enum": form({"enum": ["apples", "pens", "none of them"]}),
    "json_object": {"response_format": {"type": "json_object"}, "max_answer_tokens": 120},
    "required": {"tools": [TOOL, OTHER], "tool_choice": "required", "parallel_tool_calls": False},
    "named": {"tools": [TOOL, OTHER], "tool_choice": {"type": "function", "function": {"name": "shop"}}},
    "either": {"tools": [TOOL, OTHER], "parallel_tool_calls": False} | form(STEPS),
}


@pytest.fixture(scope="module")
def app(loop: asyncio.AbstractEventLoop) -> Iterator[FastAPI]:
    options = EngineOptions(kv_cache_memory_bytes=1 << 28)
    starting = vllm.start(str(DEMO), name="structured", profile=None, options=options)
    engine = asyncio.run_coroutine_threadsafe(starting, loop).result(timeout=300)
    served = ServedModel(engine, Lengths(*engine.card.typical_chain), ModelSettings(path=str(DEMO)))
    yield create_app(Settings(), {"demo": served})
    asyncio.run_coroutine_threadsafe(engine.close(), loop).result(timeout=60)


async def asked(app: FastAPI, stream: bool, **body: Any) -> tuple[str, list[tuple[str, str]], str]:
    """(text, calls, finish reason)."""
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://door", timeout=300) as client:
        response = await client.post("/v1/chat/completions", json=ASK | body | {"stream": stream})
    assert response.status_code == 200, response.text
    if not stream:
        choice = response.json()["choices"][0]
        calls = [call["function"] for call in choice["message"].get("tool_calls", [])]
        text = choice["message"]["content"] or ""
        return text, [(call["name"], call["arguments"]) for call in calls], choice["finish_reason"]
    chunks = [chunk["choices"][0] for chunk in events(response.text) if chunk["choices"]]
    text = "".join(chunk["delta"].get("content") or "" for chunk in chunks)
    made = [call["function"] for call in joined(chunk["delta"] for chunk in chunks)]
    # What was sent of a call that was cut stands.
    made = made[: len(made) - (chunks[-1]["finish_reason"] == "length" and bool(made))]
    return text, [(call["name"], call["arguments"]) for call in made], chunks[-1]["finish_reason"]


def fulfils(name: str, text: str, calls: list[tuple[str, str]], finish: str) -> None:
    """The answer is what its form wants, or was cut and says so."""
    schemas: dict[str, Any] = {"count": STEPS, "shop": OTHER["function"]["parameters"]}  # type: ignore[index]
    for tool, arguments in calls:
        jsonschema.validate(json.loads(arguments), schemas[tool])
    if calls:
        assert name in ("required", "named", "either")
        assert name != "named" or [tool for tool, _ in calls] == ["shop"]
        assert (text, finish) == ("", "tool_calls")
    elif name in ("required", "named"):
        pytest.fail(f"no call: {finish}")
    elif name == "json_object":
        # Nothing of its own ends it: it is an object, or was cut and says so.
        assert finish == "length" or isinstance(json.loads(text), dict)
    else:
        assert finish == "stop"
        schema = (FORMS[name]["response_format"]["json_schema"])["schema"]
        jsonschema.validate(json.loads(text), schema)


async def times(app: FastAPI, strategy: str, name: str, asking: Iterable[int]) -> None:
    """Asks once for each of the numbers: the odd are streamed; of four in a row the first and the last are seeded."""
    places = asyncio.Semaphore(8)

    async def one(i: int) -> None:
        async with places:
            wishes: dict[str, Any] = {"seed": i} if i % 4 in (0, 3) else {}
            found = await asked(
                app, bool(i % 2), strategy=strategy, verifier="confidence", thinking_budget=256, **FORMS[name], **wishes
            )
            fulfils(name, *found)

    async with asyncio.TaskGroup() as group:
        for i in asking:
            group.create_task(one(i))


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_structured_answer_is_whole(loop: asyncio.AbstractEventLoop, app: FastAPI, strategy: str, name: str) -> None:
    """Each strategy is asked for each form, and each of the two is asked streamed and not, seeded and not."""
    number = STRATEGIES.index(strategy) + list(FORMS).index(name)
    asyncio.run_coroutine_threadsafe(times(app, strategy, name, [number]), loop).result(timeout=600)


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_two_hundred_structured_answers_are_whole(
    loop: asyncio.AbstractEventLoop, app: FastAPI, strategy: str, name: str
) -> None:
    asyncio.run_coroutine_threadsafe(times(app, strategy, name, range(200)), loop).result(timeout=3500)
