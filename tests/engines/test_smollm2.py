"""A real small language model in the real engine, behind the real door: a Llama with 49,152 words that talks.

It is not clever, so nothing here asks whether it is right: shapes, limits and counts hold for whatever it writes.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import httpx
import jsonschema
import pytest
from fastapi import FastAPI

from ponder.compute.lengths import Lengths
from ponder.engines import vllm
from ponder.engines.launch import EngineOptions, metrics_text
from ponder.engines.vllm import VllmEngine
from ponder.server.settings import Settings
from tests.server.serving import door, events, written

T = TypeVar("T")
WAIT = 3000
"""Seconds for one answer at most: a long one of many chains takes minutes on two cores."""
MOST = 6000
"""Tokens that all tests of this file but the long ones may have the model write."""
QUESTIONS = [
    "What is the capital of France?",
    "Tell me a story about a fox and a river.",
    "Why is the sky blue?",
    "List three fruits.",
]
STOCKED = "Make up the stock of a small shop: the name and the shelf of each item, and how many were sold each month."
CITY: dict[str, Any] = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "maxLength": 24},
        "size": {"enum": ["small", "large"]},
        "sights": {"type": "array", "items": {"type": "string", "maxLength": 16}, "minItems": 1, "maxItems": 3},
    },
    "required": ["city", "size", "sights"],
    "additionalProperties": False,
}
HELD = {"type": "json_schema", "json_schema": {"name": "city", "schema": CITY, "strict": True}}
WEATHER: dict[str, Any] = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 24}, "unit": {"enum": ["C", "F"]}},
    "required": ["city", "unit"],
    "additionalProperties": False,
}
TOOL = {"type": "function", "function": {"name": "weather", "parameters": WEATHER}}
ITEM: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 4, "maxLength": 24},
        "shelf": {"enum": ["upper", "middle", "lower"]},
        "sold": {
            "type": "array",
            "items": {"type": "integer", "minimum": 100, "maximum": 999},
            "minItems": 12,
            "maxItems": 12,
        },
    },
    "required": ["name", "shelf", "sold"],
    "additionalProperties": False,
}
STOCK: dict[str, Any] = {
    "type": "object",
    "properties": {"items": {"type": "array", "items": ITEM, "minItems": 16, "maxItems": 18}},
    "required": ["items"],
    "additionalProperties": False,
}
"""Some 80 tokens an item: four or five for each of its numbers, the rest for its names."""
LONG = {"type": "json_schema", "json_schema": {"name": "stock", "schema": STOCK, "strict": True}}


@dataclass
class Talk:
    """The engine in a loop of its own, and the door to it."""

    loop: asyncio.AbstractEventLoop
    engine: VllmEngine
    app: FastAPI

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(timeout=WAIT)

    async def post(self, question: str, **fields: Any) -> httpx.Response:
        body = {"model": "smollm2", "messages": [{"role": "user", "content": question}], **fields}
        transport = httpx.ASGITransport(self.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://door", timeout=WAIT) as client:
            return await client.post("/v1/chat/completions", json=body)

    def ask(self, question: str = QUESTIONS[0], **fields: Any) -> dict[str, Any]:
        """The answer to one question, which had to be given."""
        response = self.do(self.post(question, **fields))
        assert response.status_code == 200, response.text
        return response.json()

    def ask_all(self, requests: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """The answers to questions asked at one time, which had to be given."""

        async def all_of_them() -> list[httpx.Response]:
            return await asyncio.gather(*[self.post(**request) for request in requests])

        responses = self.do(all_of_them())
        assert [r.status_code for r in responses] == [200] * len(requests), [r.text for r in responses]
        return [response.json() for response in responses]

    def drawn(self) -> int:
        """Tokens the engine has written by its own count, when it runs nothing: that lags a step behind."""
        until = time.monotonic() + 30
        while self.engine.llm.get_num_unfinished_requests() or self._sum("num_requests_running"):
            assert time.monotonic() < until
            time.sleep(0.02)
        return self._sum("generation_tokens_total")

    def _sum(self, name: str) -> int:
        lines = metrics_text().decode().splitlines()
        return int(sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(f"vllm:{name}{{")))

    def metered(self) -> float:
        return written(self.app)


@pytest.fixture(scope="module")
def talk(loop: asyncio.AbstractEventLoop, smollm2: Path) -> Iterator[Talk]:
    options = EngineOptions(kv_cache_memory_bytes=1 << 29, max_model_len=4096)
    starting = vllm.start(str(smollm2), name="smollm2", profile=None, options=options)
    engine = asyncio.run_coroutine_threadsafe(starting, loop).result(timeout=600)
    app = door(engine, Settings(timeout=WAIT), name="smollm2", lengths=Lengths(*engine.card.typical_chain))
    talk = Talk(loop, engine, app)
    yield talk
    talk.do(engine.close())


def text(answer: dict[str, Any]) -> str:
    return answer["choices"][0]["message"]["content"]


def check(answer: dict[str, Any], budget: int) -> None:
    """What holds for every answer."""
    usage, thinking = answer["usage"], answer["thinking"]
    assert thinking["spent"] == usage["completion_tokens_details"]["reasoning_tokens"] <= budget
    assert usage["completion_tokens"] >= thinking["spent"]
    for choice in answer["choices"]:
        assert choice["finish_reason"] in ("stop", "length", "tool_calls")
        assert "<|im_" not in (choice["message"]["content"] or "")


def test_it_answers_directly_the_same_streamed_and_not(talk: Talk) -> None:
    for seed, question in enumerate(QUESTIONS[:2]):
        fields: dict[str, Any] = {"thinking_budget": 0, "seed": seed, "max_completion_tokens": 32}
        # In bfloat16 a prompt that is read from the cache may lead elsewhere than the same prompt read anew.
        talk.ask(question, **fields)
        answer = talk.ask(question, **fields)
        check(answer, 0)
        assert text(answer)
        streamed = talk.do(talk.post(question, **fields, stream=True, stream_options={"include_usage": True})).text
        chunks = events(streamed)
        pieces = [choice["delta"].get("content") or "" for chunk in chunks for choice in chunk["choices"]]
        assert "".join(pieces) == text(answer)
        assert (
            next(chunk["usage"] for chunk in chunks if chunk.get("usage"))["completion_tokens"]
            == answer["usage"]["completion_tokens"]
        )


def test_a_request_that_wishes_nothing_is_answered(talk: Talk) -> None:
    answer = talk.ask(max_completion_tokens=200, seed=1)
    check(answer, 200)
    assert answer["usage"]["completion_tokens"] <= 200
    assert text(answer).strip()


def test_it_answers_at_once_whatever_it_may_think(talk: Talk) -> None:
    """Nothing is added to its prompt, and all that it writes is its answer."""
    bare = talk.ask("What is 12 + 7?", thinking_budget=0, max_completion_tokens=60, temperature=0)
    fields: dict[str, Any] = {"thinking_budget": 500, "max_completion_tokens": 560, "strategy": "direct"}
    answer = talk.ask("What is 12 + 7?", temperature=0, **fields)
    check(answer, 0)
    assert answer["usage"]["prompt_tokens"] == bare["usage"]["prompt_tokens"]
    assert answer["choices"][0]["finish_reason"] == "stop"
    assert text(answer).strip()


def test_a_request_with_tools_is_answered_whole(talk: Talk) -> None:
    fields: dict[str, Any] = {"tools": [TOOL], "thinking_budget": 500, "strategy": "direct", "temperature": 0}
    answer = talk.ask("What is the weather in Paris?", max_completion_tokens=560, **fields)
    check(answer, 0)
    message = answer["choices"][0]["message"]
    assert (message["content"] or "").strip() or message["tool_calls"]


@pytest.mark.parametrize("budget", [1, 20, 100])
def test_what_it_reasons_stays_within_the_budget_and_inside(talk: Talk, budget: int) -> None:
    answer = talk.ask(QUESTIONS[1], thinking_budget=budget, max_completion_tokens=budget + 40, seed=budget)
    check(answer, budget)
    assert text(answer).strip()


def test_chains_are_sampled_counted_and_vote(talk: Talk) -> None:
    """As many tokens as the engine wrote are metered and told, the discarded chains' among them."""
    before, told = talk.drawn(), talk.metered()
    strategy = {"name": "majority_vote", "n": 3, "first": 3}
    answer = talk.ask(QUESTIONS[3], thinking_budget=1800, max_completion_tokens=1900, strategy=strategy, seed=3)
    check(answer, 1800)
    assert answer["thinking"]["samples"] > 1
    used = answer["usage"]["completion_tokens"]
    assert talk.drawn() - before == talk.metered() - told == used > 0


@pytest.mark.parametrize("budget", [0, 60])
def test_an_answer_is_held_to_a_schema(talk: Talk, budget: int) -> None:
    answer = talk.ask(response_format=HELD, thinking_budget=budget, max_completion_tokens=budget + 100, seed=5)
    check(answer, budget)
    assert answer["choices"][0]["finish_reason"] == "stop"
    jsonschema.validate(json.loads(text(answer)), CITY)


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "weather"}}])
def test_it_calls_a_tool(talk: Talk, choice: Any) -> None:
    wishes: dict[str, Any] = {"tool_choice": choice, "parallel_tool_calls": False, "seed": 6}
    answer = talk.ask(tools=[TOOL], thinking_budget=20, max_completion_tokens=120, **wishes)
    check(answer, 20)
    assert answer["choices"][0]["finish_reason"] == "tool_calls"
    (call,) = answer["choices"][0]["message"]["tool_calls"]
    assert call["function"]["name"] == "weather"
    jsonschema.validate(json.loads(call["function"]["arguments"]), WEATHER)


def test_all_this_took_few_tokens(talk: Talk) -> None:
    assert 0 < talk.drawn() <= MOST


STRATEGIES: list[dict[str, Any]] = [
    {"name": "direct"},
    {"name": "majority_vote", "n": 4},
    {"name": "best_of_n", "n": 4},
    {"name": "revision", "chains": 1, "rounds": 1},
    {"name": "beam_search", "beams": 2, "width": 2},
    {"name": "dvts", "beams": 2, "width": 2},
    {"name": "particle_filter", "particles": 3},
    {"name": "auto", "n": 4},
]


@pytest.mark.soak
@pytest.mark.parametrize("strategy", STRATEGIES, ids=lambda strategy: strategy["name"])
@pytest.mark.parametrize("question", QUESTIONS)
def test_every_strategy_keeps_its_budget_and_tells_what_the_engine_wrote(
    talk: Talk, strategy: dict[str, Any], question: str
) -> None:
    before, told = talk.drawn(), talk.metered()
    fields: dict[str, Any] = {"strategy": strategy, "verifier": "confidence", "max_completion_tokens": 1400}
    answer = talk.ask(question, thinking_budget=1200, **fields)
    check(answer, 1200)
    assert talk.drawn() - before == talk.metered() - told
    assert text(answer).strip()


@pytest.mark.soak
@pytest.mark.parametrize("strategy", STRATEGIES, ids=lambda strategy: strategy["name"])
@pytest.mark.parametrize("seed", range(5))
def test_every_strategy_holds_answers_to_a_schema(talk: Talk, strategy: dict[str, Any], seed: int) -> None:
    fields: dict[str, Any] = {"strategy": strategy, "verifier": "confidence", "seed": seed}
    answer = talk.ask(response_format=HELD, thinking_budget=600, max_completion_tokens=800, **fields)
    check(answer, 600)
    assert answer["choices"][0]["finish_reason"] == "stop"
    jsonschema.validate(json.loads(text(answer)), CITY)


PAIRS: list[dict[str, Any]] = [
    {"name": "direct"},
    {"name": "majority_vote", "n": 2, "first": 2},
    {"name": "best_of_n", "n": 2},
    {"name": "revision", "chains": 1, "rounds": 1},
    {"name": "beam_search", "beams": 2, "width": 2},
    {"name": "dvts", "beams": 2, "width": 2},
    {"name": "particle_filter", "particles": 2},
    {"name": "auto", "n": 2},
]


@pytest.mark.soak
@pytest.mark.timeout(WAIT)
@pytest.mark.parametrize("strategy", PAIRS, ids=lambda strategy: strategy["name"])
def test_every_strategy_holds_documents_of_more_than_a_thousand_tokens_to_their_schema(
    talk: Talk, strategy: dict[str, Any], record_property: Callable[[str, object], None]
) -> None:
    """Five at a time, two chains each, of which each may have to write the whole document."""
    before, told = talk.drawn(), talk.metered()
    fields: dict[str, Any] = {"strategy": strategy, "verifier": "confidence", "response_format": LONG}
    wish = {"thinking_budget": 6000, "max_answer_tokens": 2000}
    answers = talk.ask_all([{"question": STOCKED, "seed": seed, **wish, **fields} for seed in range(5)])
    used = [answer["usage"]["completion_tokens"] for answer in answers]
    visible = [n - answer["thinking"]["spent"] for n, answer in zip(used, answers, strict=True)]
    record_property("completion_tokens", used)
    record_property("visible_tokens", visible)
    record_property("samples", [answer["thinking"]["samples"] for answer in answers])
    for answer in answers:
        check(answer, 6000)
        assert answer["choices"][0]["finish_reason"] == "stop"
        jsonschema.validate(json.loads(text(answer)), STOCK)
    assert all(1000 <= n <= 2000 for n in visible), visible
    assert talk.drawn() - before == talk.metered() - told == sum(used)
