"""Long prompts: read beside the other requests, once, and refused without being read where they cannot fit."""

from __future__ import annotations

import asyncio
import json
import re
import threading
import time
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from compute.text import Prompt
from tests.fakes import CARD, ScriptedEngine, always
from tests.server.reading import ReadingEngine, demo_prompts
from tests.server.serving import CHAIN, answered, chat, door, refused
from tests.server.test_hangups import Line

WORDS = "hello world 12 "


@dataclass
class Slow(ScriptedEngine):
    """Takes its time to count a prompt, and remembers where it did."""

    counted: list[bool] = field(default_factory=list[bool])
    """Of each count: it was on the thread of the event loop."""

    def length(self, prompt: Prompt, *, thinking: bool = True) -> int:
        self.counted.append(threading.current_thread() is threading.main_thread())
        tokens = super().length(prompt, thinking=thinking)
        if tokens > 10_000:
            time.sleep(0.5)
        return tokens


def asks(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def test_streams_go_on_while_a_long_prompt_is_counted() -> None:
    async def go() -> None:
        engine = Slow(always(CHAIN), card=replace(CARD, context=500))
        app, line = door(engine), Line(messages=asks(WORDS * 2000))
        begun = time.monotonic()
        longest = 0.0
        async with asyncio.TaskGroup() as group:
            call = group.create_task(line.call(app))
            while not call.done():
                before = time.monotonic()
                await asyncio.sleep(0.001)
                longest = max(longest, time.monotonic() - before)
        assert time.monotonic() - begun >= 0.5
        assert longest < 0.4
        assert line.sent[0]["status"] == 400

    asyncio.run(go())


def test_a_short_prompt_needs_no_thread() -> None:
    engine = Slow(always(CHAIN))
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
    engine = Slow(always(CHAIN))
    answered(door(engine), **body[where])
    assert not engine.counted[0]


def test_a_prompt_that_is_too_long_is_counted_once() -> None:
    engine = Slow(always(CHAIN), card=replace(CARD, context=500))
    refused(chat(door(engine), messages=asks("x" * 600)), code="context_length_exceeded", param="messages")
    assert len(engine.counted) == 1


def test_a_prompt_whose_size_says_that_it_cannot_fit_is_not_read() -> None:
    engine = ReadingEngine(always(CHAIN), card=replace(CARD, context=2048), reads=demo_prompts(context=2048))
    text = WORDS * 60_000
    message = refused(chat(door(engine), messages=asks(text)), code="context_length_exceeded", param="messages")
    told = re.search("at least ([0-9]+) tokens", message)
    assert told
    assert 2048 < len(text) // 12 <= int(told[1]) < 60_000 * 4
