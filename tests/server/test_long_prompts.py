"""Long prompts: read beside the other requests, once, and refused without being read where they cannot fit."""

from __future__ import annotations

import asyncio
import json
import re
import threading
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field, replace
from typing import Any, cast

import pytest
from transformers import AutoTokenizer

from ponder.compute.engine import LONG, Delta, Sampling
from ponder.compute.text import Message, Prompt
from ponder.compute.transcript import Transcript
from ponder.engines.profiles import PROFILES
from ponder.engines.prompts import ChatTokenizer, Prompts
from ponder.engines.span_tokens import SpanTokenizer
from ponder.testing import CARD, MARKER, ScriptedEngine, always
from tests.memory import within
from tests.server.reading import DEMO, ReadingEngine, demo_prompts
from tests.server.serving import CHAIN, Line, answered, chat, counted, door, refused

WORDS = "hello world 12 "


@dataclass
class Counting(ScriptedEngine):
    """Remembers where it counted a prompt."""

    counted: list[bool] = field(default_factory=list[bool])
    """Of each count: it was on the thread of the event loop."""
    begun: threading.Event = field(default_factory=threading.Event)
    until: threading.Event | None = None
    """A prompt is counted for as long as this is not set; None: as quickly as it can be."""

    def length(self, prompt: Prompt, *, thinking: bool = True) -> int:
        self.counted.append(threading.current_thread() is threading.main_thread())
        tokens = super().length(prompt, thinking=thinking)
        self.begun.set()
        if self.until is not None:
            assert self.until.wait(60), "nothing goes on beside it"
        return tokens


def asks(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def test_streams_go_on_while_a_long_prompt_is_counted() -> None:
    async def go() -> None:
        counted = threading.Event()
        engine = Counting(always(CHAIN), card=replace(CARD, context=500), until=counted)
        app, line = door(engine), Line(messages=asks(WORDS * 2000))
        async with asyncio.TaskGroup() as group:
            group.create_task(line.call(app))
            assert await asyncio.to_thread(engine.begun.wait, 60)
            counted.set()
        assert not any(engine.counted)
        assert line.sent[0]["status"] == 400

    asyncio.run(go())


def test_a_short_prompt_needs_no_thread() -> None:
    engine = Counting(always(CHAIN))
    answered(door(engine))
    assert all(engine.counted)


@pytest.mark.parametrize("where", ["messages", "tools", "arguments"])
def test_a_long_prompt_is_counted_beside_the_event_loop_wherever_its_length_is(where: str) -> None:
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": json.dumps({"a": WORDS * 2000})}}
    tool = {"type": "function", "function": {"name": "f", "description": WORDS * 2000}}
    body: dict[str, dict[str, Any]] = {
        "messages": {"messages": asks(WORDS * 2000)},
        "tools": {"tools": [tool]},
        "arguments": {"messages": [*asks("x"), {"role": "assistant", "tool_calls": [call]}]},
    }
    engine = Counting(always(CHAIN))
    answered(door(engine), **body[where])
    assert engine.counted == [False]


def test_a_prompt_that_is_too_long_is_counted_once() -> None:
    engine = Counting(always(CHAIN), card=replace(CARD, context=500))
    refused(chat(door(engine), messages=asks("x" * 600)), code="context_length_exceeded", param="messages")
    assert len(engine.counted) == 1


def test_a_prompt_whose_size_says_that_it_cannot_fit_is_not_read() -> None:
    engine = ReadingEngine(always(CHAIN), card=replace(CARD, context=2048), reads=demo_prompts(context=2048))
    text = WORDS * 60_000
    message = refused(chat(door(engine), messages=asks(text)), code="context_length_exceeded", param="messages")
    told = re.search("at least ([0-9]+) tokens", message)
    assert told
    assert 2048 < len(text) // 12 <= int(told[1]) < 60_000 * 4


def watched() -> tuple[Prompts, list[tuple[str, bool]]]:
    """Prompts, and which long texts they have tokenised, with whether that was on the event loop's thread."""
    read: list[tuple[str, bool]] = []

    class Watched(SpanTokenizer):
        def text_ids(self, text: str, *, behind: bool = False) -> list[int]:
            if len(text) >= LONG:
                read.append((text, threading.current_thread() is threading.main_thread()))
            return super().text_ids(text, behind=behind)

    tokenizer: Any = cast(Any, AutoTokenizer).from_pretrained(str(DEMO))
    return Prompts(cast(ChatTokenizer, tokenizer), PROFILES["demo"], 1 << 20, Watched), read


@dataclass
class Generating(ReadingEngine):
    """Renders what it is asked to write for, as a real engine does."""

    async def generate(self, prompt: Prompt, sampling: Sampling, transcript: Transcript) -> AsyncGenerator[Delta]:
        self.reads.render(prompt, thinking=sampling.thinking > 0)
        async for delta in super().generate(prompt, sampling, transcript):
            yield delta


WISHES: list[dict[str, Any]] = [
    {"thinking_budget": 0},
    {"thinking_budget": 500},
    {"thinking_budget": 500, "n": 3, "stream": True},
    {"thinking_budget": 500, "strategy": "majority_vote"},
    {"thinking_budget": 900, "strategy": "revision"},
    {"thinking_budget": 500, "strategy": "best_of_n", "verifier": "judge"},
    {"thinking_budget": 0, "strategy": "majority_vote"},
]


@pytest.mark.parametrize("wish", WISHES, ids=str)
def test_a_long_text_is_tokenised_once_and_beside_the_event_loop(wish: dict[str, Any]) -> None:
    prompts, read = watched()
    engine = Generating(always(CHAIN), card=replace(CARD, context=1 << 20), reads=prompts)
    response = chat(door(engine), messages=[{"role": "system", "content": "Be brief."}, *asks(WORDS * 2000)], **wish)
    assert response.status_code == 200
    assert read
    assert not [on_loop for _, on_loop in read if on_loop]
    texts = [text for text, _ in read]
    assert len(set(texts)) == len(texts)


def test_nothing_of_a_conversation_is_kept_when_its_request_is_over() -> None:
    prompts = demo_prompts()
    prompt = Prompt((Message("user", "What a " + MARKER),))
    prompts.render(prompt, thinking=True)
    prompts.length(prompt, thinking=False)
    assert not [value for value in within(prompts) if isinstance(value, str) and MARKER in value]
    ids = prompts.render(prompt, thinking=True).ids
    assert not [value for value in within(prompts) if value == ids]


def test_a_hang_up_is_noticed_while_a_prompt_is_read() -> None:
    reads, ends = threading.Event(), threading.Event()

    class Waiting(ScriptedEngine):
        def length(self, prompt: Prompt, *, thinking: bool = True) -> int:
            reads.set()
            ends.wait(20)
            return super().length(prompt, thinking=thinking)

    async def go() -> None:
        engine = Waiting(always(CHAIN))
        app, line = door(engine), Line(messages=asks(WORDS * 2000))
        try:
            async with asyncio.timeout(10), asyncio.TaskGroup() as group:
                group.create_task(line.call(app))
                await asyncio.to_thread(reads.wait)
                line.gone.set()
        finally:
            ends.set()
        assert line.sent == []
        assert engine.calls == 0
        assert counted(app, 'ponder_client_disconnects_total{phase="planning"}') == 1
        assert counted(app, "ponder_inflight_requests") == 0

    asyncio.run(go())
