"""What vLLM's own tool parser for a family reads in a text is what is read here, where it reads all that is written.

vLLM is the reference of the tests alone; the server has tables of its own.
"""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from ponder.engines.tools import FORMATS, texts_of
from ponder.server.calls import Offered, ToolCallParser
from tests.engines.family_models import OWN, families, tokenizer

PARSERS = {
    "dsml_v41": "deepseek_v41",
    "dsml_v4": "deepseek_v4",
    "dsml": "deepseek_v32",
    "deepseek_v3": "deepseek_v3",
    "deepseek_v31": "deepseek_v31",
    "kimi_k2": "kimi_k2",
    "minimax_m2": "minimax_m2",
    "minimax_m3": "minimax_m3",
    "kimi_k3": "kimi_k3",
    "plamo3": "plamo3",
    "inkling": "inkling",
    "xlam": "xlam",
    "seed_oss": "seed_oss",
    "qwen3_coder": "qwen3_coder",
    "k2_horizon": "k2_horizon",
    "hunyuan_v3": "hy_v3",
    "hunyuan_v4": "hy_v4",
    "glm47": "glm47",
    "glm45": "glm45",
    "minicpm5": "minicpm5",
    "step3": "step3",
    "dots": "dots",
    "atem": "muse_glimmer",
    "mistral": "mistral",
    "mistral_list": "mistral",
    "phi4_mini": "phi4_mini_json",
    "lfm2": "lfm2",
    "olmo3": "olmo3",
    "gemma4": "gemma4",
    "functiongemma": "functiongemma",
    "apertus": "apertus",
    "internlm2": "internlm",
    "hunyuan": "hunyuan_a13b",
    "jamba": "jamba",
    "longcat": "longcat",
    "gigachat3": "gigachat3",
    "granite_20b_fc": "granite-20b-fc",
    "exaone4": "hermes",
    "hermes": "hermes",
    "granite3": "granite",
    "llama3_json": "llama3_json",
    "pythonic": "pythonic",
}
LESS = {
    ("step3", "nested"),  # keeps lists and objects as text
    ("phi4_mini", "nested"),  # reads to the first bracket
    ("gemma4", "nested"),  # makes a text of what stands alone in a list
    ("functiongemma", "typed"),  # reads texts only
    ("functiongemma", "nested"),
    ("internlm2", "two"),  # reads one call
    ("minimax_m3", "nested"),  # has no types but those of the schema, which says nothing of these
    ("gigachat3", "two"),
}
"""(format, case) of which vLLM's parser reads less."""

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "city": {"type": "string"},
        "days": {"type": "integer"},
        "share": {"type": "number"},
        "hourly": {"type": "boolean"},
        "places": {"type": "array", "items": {"type": "string"}},
        "options": {"type": "object"},
    },
}
NOTHING: dict[str, Any] = {"type": "object", "properties": {}}
TOOLS: list[dict[str, Any]] = [
    {"type": "function", "function": {"name": name, "description": name, "parameters": schema}}
    for name, schema in (("get_weather", SCHEMA), ("time", NOTHING))
]
CASES: dict[str, list[tuple[str, dict[str, Any]]]] = {
    "plain": [("get_weather", {"city": "Paris"})],
    "typed": [("get_weather", {"city": "Zürich 東京", "days": 3, "share": 0.5, "hourly": True})],
    "nested": [("get_weather", {"city": 'a "b" it\'s', "places": ["x", "y"], "options": {"a": [1, {"b": None}]}})],
    "lines": [("get_weather", {"city": "two\nlines"})],
    "two": [("get_weather", {"city": "Rome"}), ("time", {})],
    "empty": [("time", {})],
}


def parser_of(name: str, offered: Sequence[dict[str, Any]] = TOOLS) -> Any:
    """vLLM's, with a tokenizer that has the format's markers as tokens."""
    marks = sorted(set(re.findall(r"<[^<>\n= ]+>|\[[A-Z_]+\]|｜DSML｜", "".join(texts_of(name)))))
    own = next(one for one in families(OWN) if one.model == "own/single-tokens")
    family = replace(own, special_tokens=(*own.special_tokens, *marks))
    tools = importlib.import_module("vllm.tool_parsers").ToolParserManager.get_tool_parser(PARSERS[name])
    request = importlib.import_module("vllm.entrypoints.openai.chat_completion.protocol").ChatCompletionRequest
    asked = request(model="m", messages=[{"role": "user", "content": "hi"}], tools=list(offered))

    def calls(text: str) -> Any:
        return tools(tokenizer(family), tools=asked.tools).extract_tool_calls(text, asked).tool_calls

    return calls


def parsed(name: str, text: str) -> list[tuple[str, Any]]:
    offered = Offered(
        frozenset({"get_weather", "time"}), format=name, parameters={"get_weather": json.dumps(SCHEMA), "time": "{}"}
    )
    parser = ToolCallParser(offered)
    parser.feed(text)
    parser.end()
    return [(call.name, json.loads(call.arguments)) for call in parser.calls]


def test_elements_that_nest_are_read_by_their_schema() -> None:
    inner = {"type": "object", "properties": {"sku": {"type": "string"}, "count": {"type": "integer"}}}
    more = {"items": {"type": "array", "items": inner}, "gift": {"type": "boolean"}, "tags": {"type": "array"}}
    schema = {"type": "object", "properties": {"city": {"type": "string"}, "order": {**inner, "properties": more}}}
    values = {"city": "Rome", "order": {"items": [{"sku": "007", "count": 2}, {"sku": "b"}], "gift": True, "tags": []}}
    text = FORMATS["minimax_m3"].form.write([("get_weather", values)])
    parser = ToolCallParser(
        Offered(frozenset({"get_weather"}), format="minimax_m3", parameters={"get_weather": json.dumps(schema)})
    )
    for size in (1, 7, len(text)):
        parser = replace(parser, calls=[])
        for at in range(0, len(text), size):
            assert parser.feed(text[at : at + size])[0] == ""
        parser.end()
        assert [json.loads(call.arguments) for call in parser.calls] == [values]
    function = {"name": "get_weather", "description": "", "parameters": schema}
    calls = parser_of("minimax_m3", ({"type": "function", "function": function},))(text)
    assert [json.loads(call.function.arguments) for call in calls] == [values]


@pytest.mark.parametrize("name", PARSERS)
@pytest.mark.parametrize("case", CASES)
def test_the_reference_reads_the_same(name: str, case: str) -> None:
    if (name, case) in LESS:
        pytest.skip("vLLM's parser reads less")
    text = FORMATS[name].form.write(CASES[case])
    calls = parser_of(name)(text)
    assert [(call.function.name, json.loads(call.function.arguments)) for call in calls] == CASES[case]
    assert parsed(name, text) == CASES[case]
