"""vLLM's parsers as the reference: what one of our families writes, they read as we do."""

from __future__ import annotations

import dataclasses
import json
import re
from typing import Any

import pytest
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.reasoning import ReasoningParserManager
from vllm.tool_parsers import ToolParserManager

from ponder.engines.proving import ANSWER, THOUGHT
from ponder.engines.tools import FORMATS
from tests.engines.family_models import OWN, Family, families, tokenizer
from tests.engines.parser_families import ROWS
from tests.engines.parser_tools import CALLS
from tools.models_table import PAGE, made, outcome

THINKING = {"thinking": True, "enable_thinking": True, "reasoning_effort": "high", "thinking_mode": "enabled"}
"""What vLLM's parsers look at to know that a thought is to come."""
NO_TEXT = {"cohere_command3", "cohere_command4", "openai_gptoss", "olmo3"}
"""Parsers that read nothing whole: stubs of others, and one that wants a vocabulary of its own."""
OPENED = {"step3"}
"""Parsers that take what opens a thought for a part of it: their models' prompts open it."""
CALL = ("get_weather", {"city": "Paris", "days": 3})
READ_OTHERWISE = {"openai", "functiongemma", "mimo", "cohere_command3", "cohere_command4"}
"""A stub; one that drops numbers; one that keeps the line breaks around a text; two that are a package of their own."""


def asked(**fields: Any) -> Any:
    made: Any = ChatCompletionRequest
    return made(messages=[{"role": "user", "content": "hi"}], model="m", **fields)


@pytest.mark.parametrize("row", [row for row in ROWS if row.family], ids=lambda row: row.parser)
def test_a_family_with_the_markers_of_the_parser_is_found_and_proven(row: Any) -> None:
    profile, wrong = outcome(row.family)
    assert not wrong
    assert profile.opening.strip() == row.family.thought_begins.strip()


@pytest.mark.parametrize(
    "row", [row for row in ROWS if row.family and row.parser not in NO_TEXT], ids=lambda r: r.parser
)
def test_the_parser_tells_thought_and_answer_apart_as_we_do(row: Any) -> None:
    family: Family = row.family
    request = asked()
    parser: Any = ReasoningParserManager.get_reasoning_parser(row.parser)
    opened = "" if row.parser in OPENED else family.thought_begins
    whole = f"{opened}{THOUGHT}{family.thought_ends}{ANSWER}{family.answer_wrapped_in[1]}"
    thought, answer = parser(tokenizer(family), chat_template_kwargs=THINKING).extract_reasoning(whole, request)
    assert (thought.strip(), answer.strip()) == (THOUGHT, ANSWER)


@pytest.mark.parametrize("name", [name for name, (form, _) in CALLS.items() if form and name not in READ_OTHERWISE])
def test_the_parser_reads_a_call_that_we_write(name: str) -> None:
    form = FORMATS[CALLS[name][0]]
    parameters = {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}}
    tool = {"type": "function", "function": {"name": CALL[0], "description": "", "parameters": parameters}}
    request = asked(tools=[tool], tool_choice="auto")
    text = form.form.write([CALL])
    tags = re.findall(r"<[^<>\s]{1,60}>|\[[A-Z_]+\]", text)
    tokens = dict.fromkeys([*tags, *form.tokens, "<think>", "</think>", "<assistant>"])
    known = tokenizer(dataclasses.replace(families(OWN)[0], added_tokens=tuple(tokens)))
    parser: Any = ToolParserManager.get_tool_parser(name)
    found = parser(known, request.tools).extract_tool_calls(text, request)
    assert [(call.function.name, json.loads(call.function.arguments)) for call in found.tool_calls] == [CALL]


def test_every_parser_has_a_row() -> None:
    reasoning: Any = ReasoningParserManager
    calls: Any = ToolParserManager
    assert sorted(row.parser for row in ROWS) == sorted(reasoning.list_registered())
    assert sorted(CALLS) == sorted(calls.list_registered())
    for name, (form, note) in CALLS.items():
        assert form in FORMATS if form else note, name
    for row in ROWS:
        assert row.family or row.note


def test_the_page_of_models_says_what_was_found() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert made(page) == page, "python -m tools.models_table writes it anew"
