"""Strict tools in a free text on the real engine: whatever a model of random weights writes within a call is allowed.

It has no idea of tools. A bias makes it begin a call wherever it may, and the grammar holds what follows.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from contextlib import aclosing

import jsonschema
import pytest

from ponder.compute.budget import Budget, Spending
from ponder.compute.engine import CallSchema, Grammar, Sampling
from ponder.compute.text import Candidate, Message, Prompt, Tool
from ponder.compute.transcript import Transcript
from ponder.engines import vllm
from ponder.engines.launch import EngineOptions
from ponder.engines.vllm import VllmEngine
from ponder.server.calls import Offered, ToolCallParser
from tests.engines import vision_model

FORECAST = {
    "type": "object",
    "properties": {
        "city": {"enum": ["Rome", "Oslo"]},
        "days": {"type": "integer", "minimum": 1, "maximum": 9},
        "wind": {"type": "boolean"},
    },
    "required": ["city", "days", "wind"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def engine(loop: asyncio.AbstractEventLoop, tmp_path_factory: pytest.TempPathFactory) -> Iterator[VllmEngine]:
    folder = vision_model.make(tmp_path_factory.mktemp("random"))
    options = EngineOptions(max_model_len=512, kv_cache_memory_bytes=1 << 26, more={"load_format": "dummy"})
    started = vllm.start(str(folder), name="random", profile=None, options=options)
    made = asyncio.run_coroutine_threadsafe(started, loop).result(timeout=300)
    yield made
    asyncio.run_coroutine_threadsafe(made.close(), loop).result(timeout=60)


def written(engine: VllmEngine, loop: asyncio.AbstractEventLoop, *, strict: bool, seed: int) -> Candidate:
    """A chain that begins a call as soon as it may."""
    schema = json.dumps(FORECAST)
    prompt = Prompt((Message("user", "How is the weather?"),), tools=(Tool("forecast", "Tells it.", schema),))
    call = CallSchema("forecast", schema, "tools.0.function.parameters", strict)
    begins = engine.llm.get_tokenizer().convert_tokens_to_ids("<tool_call>")
    sampling = Sampling(
        thinking=0,
        answer=120,
        seed=seed,
        logit_bias=((begins, 100.0),),
        grammar=Grammar(calls=(call,), document=False, text=True) if strict else None,
    )

    async def go() -> Candidate:
        reservation = Spending(Budget(0, 120)).reserve("test", thinking=0, answer=120, bound=True)
        transcript = Transcript(reservation, prompt, None)
        async with aclosing(engine.generate(prompt, sampling, transcript)) as stream:
            async for _ in stream:
                pass
        return transcript.candidate()

    return asyncio.run_coroutine_threadsafe(go(), loop).result(timeout=120)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_call_of_a_strict_tool_is_held_where_it_begins_in_a_free_text(
    engine: VllmEngine, loop: asyncio.AbstractEventLoop, seed: int
) -> None:
    text = written(engine, loop, strict=True, seed=seed).text
    parser = ToolCallParser(Offered(frozenset({"forecast"}), parameters={"forecast": json.dumps(FORECAST)}))
    parser.feed(text)
    parser.end()
    assert parser.calls, text
    for call in parser.calls:
        assert call.name == "forecast"
        jsonschema.validate(json.loads(call.arguments), FORECAST)


def test_without_a_grammar_the_same_model_writes_no_call(engine: VllmEngine, loop: asyncio.AbstractEventLoop) -> None:
    text = written(engine, loop, strict=False, seed=1).text
    assert "<tool_call>" in text
    assert '"city"' not in text
