"""Tool calls in every format: what is written is read again, whole or in pieces, and nothing else is a call."""

from __future__ import annotations

import json
import random
import sys
from dataclasses import replace
from typing import Any

import pytest

from ponder.compute.errors import EngineError
from ponder.engines.tools import DEFAULT, FORMATS, detect, format_of, knows_tools, openers_of, texts_of
from ponder.server.calls import Offered, ToolCallParser
from ponder.testing import CARD, Chain
from tests.engines.family_models import Family, every_family
from tests.server.serving import chat, door, events, joined, scripted
from tests.test_growth import quadratic

WEATHER: dict[str, Any] = {
    "type": "object",
    "properties": {
        "city": {"type": "string"},
        "days": {"type": "integer"},
        "share": {"type": "number"},
        "hourly": {"type": "boolean"},
        "nothing": {"type": "null"},
        "places": {"type": "array", "items": {"type": "string"}},
        "options": {"$ref": "#/$defs/Options"},
        "unit": {"enum": ["C", "F"]},
        "code": {"anyOf": [{"type": "integer"}, {"type": "null"}]},
    },
    "$defs": {"Options": {"type": "object", "properties": {"deep": {"type": "object"}}}},
}
SCHEMAS = {"get_weather": json.dumps(WEATHER), "time": '{"type": "object", "properties": {}}'}

HOSTILE: list[dict[str, Any]] = [
    {"city": "Paris"},
    {},
    {"city": ""},
    {"city": 'a "quoted" \\ word, it\'s {odd} [so] (to) say'},
    {"city": "two\nlines\n\tand a tab"},
    {"city": "Zürich 東京 🌦 ｜ \u2028"},
    {"city": "5", "days": 5, "share": -0.25, "hourly": True, "nothing": None, "unit": "F", "code": None},
    {"city": "true", "hourly": False, "days": -12, "code": 7},
    {"places": [], "options": {}},
    {"places": ["a", "b\nc", '"', "]", ")"], "options": {"deep": {"a": [1, {"b": [True, None, "x}"]}]}}},
    {"city": "get_weather(city='Rome')"},
    {"city": '{"name": "time", "arguments": {}}'},
    {"city": "x" * 3000},
]
CLOSERS = (
    "</tool_call>",
    "</function>",
    "<tool_call|>",
    "<｜tool▁call▁end｜>",
    "<|call|>",
    "```",
    "[ARGS]",
    "</arg_value>",
)
"""Of some format each; in the text of an argument they end nothing."""


def reader(name: str, *, parallel: bool = True, required: bool = False) -> ToolCallParser:
    return ToolCallParser(Offered(frozenset(SCHEMAS), required, parallel, required, name, SCHEMAS))


def read(
    name: str, text: str, size: int = 1 << 30, *, complete: bool = True, **how: bool
) -> tuple[str, list[Any], bool]:
    """(what is shown, the calls, whether it was cut within one), of a text that comes in pieces of a size."""
    parser, shown = reader(name, **how), ""
    told: list[Any] = []
    for at in range(0, len(text), size):
        more, calls = parser.feed(text[at : at + size])
        shown += more
        told += calls
    more, calls = parser.end(complete)
    assert [*told, *calls] == parser.calls
    return shown + more, [(call.name, json.loads(call.arguments)) for call in parser.calls], parser.cut


def written(name: str, *calls: tuple[str, dict[str, Any]]) -> str:
    return FORMATS[name].form.write(calls)


def awkward(name: str, text: str) -> bool:
    """The format cannot say it: it has no escape for what ends a string of its."""
    quote = getattr(FORMATS[name].form, "quote", "")
    return bool(quote) and quote in text


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("arguments", HOSTILE, ids=range(len(HOSTILE)))
def test_what_is_written_is_read_again(name: str, arguments: dict[str, Any]) -> None:
    if name == "minimax_m3" and "options" in arguments and arguments["options"]:
        pytest.skip("within an object of which the schema says nothing, its values are text")
    text = written(name, ("get_weather", arguments))
    for size in (1, 2, 7, 64, 1 << 30):
        assert read(name, text, size) == ("", [("get_weather", arguments)], False)
        assert read(name, text, size, required=True) == ("", [("get_weather", arguments)], False)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("closer", CLOSERS)
def test_an_end_in_the_text_of_an_argument_ends_nothing(name: str, closer: str) -> None:
    text = written(name, ("get_weather", {"city": f"a {closer} b"}))
    for size in (1, 5, 1 << 30):
        assert read(name, f"{text}\nand so on", size)[1] == [("get_weather", {"city": f"a {closer} b"})]


@pytest.mark.parametrize("name", FORMATS)
def test_calls_stand_beside_each_other_and_behind_text(name: str) -> None:
    calls: list[tuple[str, dict[str, Any]]] = [
        ("get_weather", {"city": "Rome", "days": 2}),
        ("time", {}),
        ("get_weather", {"city": "Oslo"}),
    ]
    text = written(name, *calls)
    for size in (1, 3, 11, 1 << 30):
        assert read(name, f"Let me look.\n\n{text}\n", size) == ("Let me look.", calls, False)
        assert read(name, text, size, parallel=False) == ("", calls[:1], False)
    apart = written(name, calls[0]) + "\n" + written(name, calls[1])
    assert read(name, apart) == ("", calls[:2], False)
    shown, found, _ = read(name, text + "\nThat is all.", 1)
    assert (shown, found) == ("That is all.", calls)


@pytest.mark.parametrize("name", FORMATS)
def test_a_tool_nobody_offered_is_text(name: str) -> None:
    text = written(name, ("remove", {"path": "/"}))
    for size in (1, 4, 1 << 30):
        assert read(name, text, size) == (text, [], False)
        shown, calls, _ = read(name, f"See {text} and {text} here.", size)
        assert (shown, calls) == (f"See {text} and {text} here.", [])


@pytest.mark.parametrize("name", FORMATS)
def test_a_call_that_is_cut_is_no_text_and_no_call(name: str) -> None:
    call = "get_weather", {"city": "Paris"}
    text = written(name, call)
    begins = min(len(one) for one in FORMATS[name].form.openers(SCHEMAS) if text.startswith(one))
    whole = len(text.rpartition("Paris")[0]) + len("Paris")
    for size in range(begins, len(text)):
        for pieces in (1, 1 << 30):
            shown, calls, cut = read(name, text[:size], pieces, complete=False)
            assert shown == ""
            assert (calls, cut) in (([], True), ([call], False))
            assert size > whole or not calls
    begun = text + text[: begins + 3]
    shown, calls, cut = read(name, begun, complete=False)
    assert (shown, calls[:1], cut) == ("", [call], True)


@pytest.mark.parametrize("name", FORMATS)
def test_text_without_calls_is_shown_as_it_is(name: str) -> None:
    text = "Plain <b>text</b>, [a](b), {c: d}, `functools` and ```\ncode(x=1)\n``` to=nobody, call: me.  "
    for size in (1, 6, 1 << 30):
        assert read(name, text, size) == (text, [], False)
        assert read(name, text, size, complete=False) == (text, [], False)


@pytest.mark.parametrize("name", FORMATS)
def test_however_the_text_is_cut_the_same_is_heard(name: str) -> None:
    lots = random.Random(name)
    call = written(name, ("get_weather", {"city": "Rome", "places": ["a"]}))
    parts = [call, written(name, ("time", {})), "text", " ", "\n", '"', "\\", "}", "]", ")", "{", "<", *CLOSERS]
    parts += [call[:n] for n in range(1, len(call), 5)] + [call[-n:] for n in range(1, len(call), 5)]
    for _ in range(40):
        text = "".join(lots.choices(parts, k=lots.randint(1, 8)))
        whole = read(name, text)
        for size in (1, 2, 3, 5, 17):
            assert read(name, text, size) == whole, text


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("size", [1, 1 << 30])
def test_time_grows_with_the_text_and_no_faster(name: str, size: int) -> None:
    form = FORMATS[name].form
    call = written(name, ("get_weather", {"city": "Rome", "places": ["a"]}))
    begun = call[: call.index("Rome")]
    opener = next(one for one in form.openers(SCHEMAS) if call.startswith(one))
    texts = [(begun, piece) for piece in ("a", '"', "\\", " ", opener, form.closers[0] if form.closers else "}")]
    texts += [("", piece) for piece in (opener, call, begun, " ")]
    if size > 1:
        texts += [("", piece) for piece in (*form.openers(SCHEMAS), *form.closers, "{", "[", call[: len(begun) // 2])]

    def listened(text: str) -> None:
        parser = reader(name)
        for at in range(0, len(text), size):
            parser.feed(text[at : at + size])
        parser.end()

    longest = 8_000 if size == 1 else 60_000
    assert next((text for text in texts if quadratic(listened, *text, "", longest)), None) is None


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("stream", [False, True])
def test_callers_see_the_same_whatever_the_model_writes(name: str, stream: bool) -> None:
    text = "Let me look.\n" + written(name, ("get_weather", {"city": "Rome", "days": 2}), ("time", {}))
    app = door(scripted(Chain("hm", text), card=replace(CARD, tools=name)))
    tools = [
        {"type": "function", "function": {"name": one, "parameters": json.loads(schema)}}
        for one, schema in SCHEMAS.items()
    ]
    reply = chat(app, tools=tools, stream=stream)
    messages = events(reply.text) if stream else [reply.json()]
    choices = [choice for message in messages for choice in message["choices"]]
    parts = [choice["delta"] if stream else choice["message"] for choice in choices]
    calls = joined(parts) if stream else parts[0]["tool_calls"]
    assert "".join(part.get("content") or "" for part in parts) == "Let me look."
    assert [(call["function"]["name"], json.loads(call["function"]["arguments"])) for call in calls] == [
        ("get_weather", {"city": "Rome", "days": 2}),
        ("time", {}),
    ]
    assert all(call["id"].startswith("call_") for call in calls)
    assert choices[-1]["finish_reason"] == "tool_calls"


def test_a_model_whose_form_is_not_known_refuses_tools_and_nothing_else() -> None:
    app = door(scripted(Chain("hm", "Hello."), card=replace(CARD, tools="")))
    tools = [{"type": "function", "function": {"name": "time"}}]
    refused = chat(app, tools=tools)
    assert refused.status_code == 400
    error = refused.json()["error"]
    assert (error["param"], error["code"]) == ("tools", "unsupported_parameter")
    assert "profile (tools = ...," in error["message"]
    for reply in (chat(app), chat(app, tools=tools, tool_choice="none")):
        assert reply.json()["choices"][0]["message"]["content"] == "Hello."


# -- types ------------------------------------------------------------------------------------------------------------


def test_what_is_written_without_quotes_gets_its_type_from_the_schema() -> None:
    def value(of: Any, text: str) -> Any:
        schema = json.dumps({"properties": {"a": of}})
        offered = Offered(frozenset({"f"}), format="qwen3_coder", parameters={"f": schema})
        parser = ToolCallParser(offered)
        parser.feed(f"<tool_call><function=f><parameter=a>{text}</parameter></function></tool_call>")
        return json.loads(parser.calls[0].arguments)["a"]

    assert value({"type": "string"}, "5") == "5"
    assert value({"type": "integer"}, "5") == 5
    assert value({"type": "integer"}, "five") == "five"
    assert value({"type": "number"}, "1e3") == 1000
    assert value({"type": "boolean"}, "True") is True
    assert value({"type": ["string", "null"]}, "null") is None
    assert value({"type": ["string", "null"]}, "none of them") == "none of them"
    assert value({"anyOf": [{"type": "string"}, {"type": "integer"}]}, "12") == 12
    assert value({"type": "array"}, " [1, 2] ") == [1, 2]
    assert value({"type": "number"}, "NaN") == "NaN"
    assert value({"type": "number"}, "-1e999") == -sys.float_info.max
    assert value({"enum": [1, 2]}, "2") == 2
    assert value({}, "2") == "2"
    assert value(True, "2") == "2"


# -- every family -----------------------------------------------------------------------------------------------------

FAMILIES = every_family()
MEANT = {
    "DeepSeek-V3.1": "deepseek_v31",
    "DeepSeek-V3.2": "dsml",
    "DeepSeek-R1": "deepseek_v3",
    "gpt-oss-120b": "harmony",
    "GLM-4.6": "glm45",
    "GLM-4.7-Flash": "glm47",
    "Kimi-K2-Thinking": "kimi_k2",
    "MiniMax-M1-80k": "minimax_m1",
    "MiniMax-M2": "minimax_m2",
    "Ministral-3-14B-Reasoning-2512": "mistral",
    "Mistral-Small-3.2-24B-Instruct-2506": "mistral_call_id",
    "Mistral-Nemo-Instruct-2407": "mistral_list",
    "Llama-3.3-70B-Instruct": "llama3_json",
    "NVIDIA-Nemotron-Nano-9B-v2": "nemotron",
    "granite-3.3-8b-instruct": "granite3",
    "granite-4.0-h-small": "hermes",
    "Olmo-3-7B-Think": "olmo3",
    "Phi-4-mini-instruct": "phi4_mini",
    "LFM2.5-8B-A1B": "lfm2",
    "gemma-3-27b-it": "tool_code",
    "gemma-4-31B-it": "gemma4",
    "EXAONE-4.0-32B": "exaone4",
    "Hunyuan-A13B-Instruct": "hunyuan",
    "Qwen3-8B": "hermes",
    "Qwen3-Coder-30B-A3B-Instruct": "qwen3_coder",
    "Step-3.5-Flash": "qwen3_coder",
    "MiniCPM5-1B": "minicpm5",
    "Ling-3.0-flash": "glm45",
}


@pytest.mark.parametrize("family", FAMILIES, ids=str)
def test_the_format_of_a_family_is_found_in_its_files_and_its_calls_are_read(family: Family) -> None:
    """The name does not help: the same files under another name give the same format."""
    found = detect(family.chat_template, (*family.special_tokens, *family.added_tokens))
    assert found == MEANT.get(str(family), found)
    assert format_of("none", family.chat_template, (*family.special_tokens, *family.added_tokens), "") == found
    begin, end = family.answer_wrapped_in
    text = family.calls_get_weather_as.removesuffix(end)
    if end and not begin:
        text = text.rpartition("<answer>\n")[2]
    for size in (1, 3, 1 << 30):
        parser = ToolCallParser(Offered(frozenset({"get_weather"}), format=found))
        shown = "".join(parser.feed(text[at : at + size])[0] for at in range(0, len(text), size)) + parser.end()[0]
        assert (shown, [(one.name, json.loads(one.arguments)) for one in parser.calls]) == (
            "",
            [("get_weather", {"city": "Paris"})],
        )


def test_a_template_that_shows_tools_in_an_unknown_form_is_known_to_be_unknown() -> None:
    template = "{% for tool in tools %}{{ tool }}{% endfor %} write CALL(name)"
    assert knows_tools(template)
    assert detect(template) == ""
    assert detect(template, (), "org/Qwen3-8B") == "hermes"
    assert detect("{{ messages }}") == DEFAULT
    assert format_of("glm45", template, (), "") == "glm45"
    with pytest.raises(EngineError, match="no format of tool calls; those known are harmony, "):
        format_of("mine", template, (), "")


def test_what_begins_a_call_ends_a_thought() -> None:
    assert openers_of("hermes") == ("<tool_call>",)
    assert "<|channel|>commentary to=functions." in openers_of("harmony")
    assert " to=functions." not in openers_of("harmony")
    assert '{"name"' not in "".join(openers_of("llama3_json"))
    assert openers_of("") == ()
    for name in FORMATS:
        # A word that people write ends no thought.
        assert all("<" in one or "[" in one or "```" in one for one in openers_of(name))


def test_the_tokens_that_calls_are_made_of_are_known() -> None:
    def tokens(name: str, *added: str) -> list[str]:
        return [token for token in added if any(token in text for text in texts_of(name))]

    assert tokens("mistral", "<s>", "[TOOL_CALLS]", "[ARGS]", "[INST]") == ["[TOOL_CALLS]", "[ARGS]"]
    own = "<|tool_call>", "<tool_call|>", '<|"|>'
    assert tokens("gemma4", "<bos>", *own) == list(own)
    assert tokens("harmony", "<|call|>", "<|message|>", "<|end|>") == ["<|call|>", "<|message|>"]
    assert texts_of("") == ()
