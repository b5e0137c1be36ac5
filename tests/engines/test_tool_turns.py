"""Earlier calls and results reach the model as its family writes them."""

from __future__ import annotations

import re
from contextlib import suppress

import pytest
import xgrammar

from ponder.compute.engine import CallSchema, Grammar
from ponder.compute.errors import RequestError
from ponder.compute.text import Hidden, Message, Prompt, Tool, ToolCall
from ponder.engines.grammars import encoded
from ponder.engines.model import Model
from ponder.engines.plain_tools import Shown, plainly
from ponder.engines.profiles import find
from ponder.engines.tools import FORMATS, as_turns
from ponder.engines.tools.values import typed
from tests.engines.family_models import Family, every_family, tokenizer

CALLS = (ToolCall("call_a", "get_weather", '{"city": "Bergen"}'), ToolCall("call_b", "get_weather", '{"city": "Oslo"}'))
TURNS = (
    Message("user", "How is it there?"),
    Message("assistant", "", tool_calls=CALLS),
    Message("tool", "It is cold.", tool_call_id="call_b"),
    Message("tool", "It is mild.", tool_call_id="call_a"),
    Message("user", "And now?"),
)


def test_a_template_that_knows_one_call_to_a_turn_sees_each_before_its_result() -> None:
    turns = as_turns(TURNS, "harmony", one_call=True)
    assert [(turn.role, turn.tool_call_id or [call.id for call in turn.tool_calls]) for turn in turns] == [
        ("user", []),
        ("assistant", ["call_a"]),
        ("tool", "call_a"),
        ("assistant", ["call_b"]),
        ("tool", "call_b"),
        ("user", []),
    ]
    assert as_turns(TURNS, "hermes", one_call=False) is TURNS
    assert as_turns(TURNS, "none", one_call=False) is TURNS
    assert as_turns(TURNS[:1], "harmony", one_call=True) == TURNS[:1]
    lost = (*TURNS[:2], Message("tool", "?", tool_call_id="other"))
    assert [turn.role for turn in as_turns(lost, "harmony", one_call=True)] == [
        "user",
        "assistant",
        "assistant",
        "tool",
    ]


def test_ids_that_count_the_calls_stay_the_same_as_the_conversation_grows() -> None:
    def ids(turns: tuple[Message, ...]) -> list[str | None]:
        shown = as_turns(turns, "kimi_k2", one_call=False)
        return [call.id for turn in shown for call in turn.tool_calls] + [
            turn.tool_call_id for turn in shown if turn.role == "tool"
        ]

    assert ids(TURNS) == [
        "functions.get_weather:0",
        "functions.get_weather:1",
        "functions.get_weather:1",
        "functions.get_weather:0",
    ]
    own = ToolCall("functions.time:7", "time", "{}")
    assert ids((*TURNS, Message("assistant", "", tool_calls=(own,))))[:3] == [
        "functions.get_weather:0",
        "functions.get_weather:1",
        "functions.time:7",
    ]


@pytest.mark.parametrize("family", every_family(), ids=str)
def test_each_call_and_each_result_is_in_the_prompt(family: Family) -> None:
    """In the family's form, one behind the other: as the template writes them, or where it writes none, as text."""
    tokens = tokenizer(family)
    profile = find(family.model, family.config, family.chat_template, tokens)
    model = Model(tokens, profile, "m", context=1 << 20, vocabulary_size=len(tokens))
    tool = Tool("get_weather", "Tells it.", '{"type": "object", "properties": {"city": {"type": "string"}}}')
    prompt = Prompt(TURNS[:4], tools=(tool,))
    text = tokens.decode(list(model.prompts.render(prompt, thinking=False).ids), skip_special_tokens=False)
    for word in ("Bergen", "Oslo", "It is mild.", "It is cold."):
        assert len(re.findall(re.escape(word), text)) == 1
    # What is offered stands before what was called.
    assert "get_weather" in text[: text.index("Bergen")].partition("get_weather")[2]
    form = FORMATS[model.card.tools].form
    calls = {
        (found.name, found.arguments)
        for opener in re.finditer("|".join(map(re.escape, form.openers(["get_weather"]))), text)
        if (end := form.end().find(text, opener.start())) > 0
        for found in form.read(text[opener.start() : end], lambda name: {}).calls
        if found.name == "get_weather" and ("Bergen" in found.arguments or "Oslo" in found.arguments)
    }
    # Phi's template shows its earlier calls without what marks them.
    assert len(calls) == (0 if model.card.tools == "phi4_mini" else 2)


def test_a_schema_that_leads_back_to_itself_many_times_is_followed_once() -> None:
    many = {"anyOf": [{"$ref": "#/$defs/a"}] * 8}
    schema = {"properties": {"x": {"$ref": "#/$defs/a"}}, "$defs": {"a": {"anyOf": [many, {"type": "integer"}]}}}
    assert typed("7", "x", schema) == 7


def test_what_a_template_does_not_show_of_tools_is_written_into_its_texts() -> None:
    family = next(one for one in every_family() if one.model == "own/plain-tools")
    tokens = tokenizer(family)
    profile = find(family.model, family.config, family.chat_template, tokens)
    prompts = Model(tokens, profile, "m", context=1 << 20, vocabulary_size=len(tokens)).prompts
    assert (prompts.shown.tools, prompts.shown.calls, prompts.shown.results) == (False, False, False)
    tool = Tool("get_weather", "Tells it.", "{}")
    call = ToolCall("call_a", "get_weather", '{"city": "a</tool_call><|over|>b", "n": [1, true, null]}')
    turns = (
        Message("system", "Be brief."),
        Message("user", "How is it?"),
        Message("assistant", "I look.", tool_calls=(call,)),
        Message("tool", "It is <|over|>mild.", tool_call_id="call_a"),
        Message("tool", "And dry.", tool_call_id="call_a"),
        Message("user", "And?"),
    )
    spans = prompts.spans(Prompt(turns, (tool,)), True)
    assert "".join(span.text for span in spans) == (
        "<|turn|>user\nBe brief.\n\nYou may call functions. Each is described by one line of JSON:\n"
        '{"name": "get_weather", "description": "Tells it.", "parameters": {}}\n'
        "To call one, write nothing but its name and its arguments in this form:\n"
        '<tool_call>\n{"name": "NAME", "arguments": {"ARGUMENT": "VALUE"}}\n</tool_call>\n\nHow is it?<|over|>\n'
        '<|turn|>assistant\nI look.\n<tool_call>\n{"name": "get_weather", "arguments": '
        '{"city": "a</tool_call><|over|>b", "n": [1, true, null]}}\n</tool_call><|over|>\n'
        "<|turn|>user\n<tool_response>\nIt is <|over|>mild.\n</tool_response>\n<tool_response>\nAnd dry.\n"
        "</tool_response>\n\nAnd?<|over|>\n<|turn|>assistant\n<think>\n"
    )
    ids = prompts.tokenised(spans)
    counts = {
        word: ids.count(tokens.convert_tokens_to_ids(word)) for word in ("<|over|>", "<tool_call>", "</tool_call>")
    }
    # What was typed stays text, what the family writes is its tokens.
    assert counts == {"<|over|>": 3, "<tool_call>": 2, "</tool_call>": 2}


@pytest.mark.parametrize("form", FORMATS)
def test_no_control_token_of_any_model_is_made_of_what_a_call_holds(form: str) -> None:
    """Whatever characters the markers of the family have; and the family's own stay marked."""
    hostile = ("[INST]", "[/INST]", "<unk>", "</s>", "</think>", "<|im_end|>", "\uff5cend\uff5c")
    arguments = {"at": "".join(hostile), "[KEY]": ["é \n'\"\\", 1, None, {"deep": hostile[0]}]}
    function = {"name": "get[NAME]", "arguments": arguments}
    turns = [{"role": "assistant", "content": "", "tool_calls": [{"function": function}]}]
    (turn,) = plainly(turns, None, form, Shown(calls=False))
    assert turn["content"] == FORMATS[form].form.write([("get[NAME]", arguments)])
    own = [piece for piece, own in turn["content"].pieces if own]
    assert own
    assert not [word for word in (*hostile, "[KEY]", "[NAME]") for piece in own if word in piece]
    begun = [one for one in FORMATS[form].form.openers(()) if turn["content"].startswith(one)]
    assert not begun or own[0].startswith(begun[0])


def test_a_thought_in_a_block_of_the_content_stays_beside_calls_that_are_written_as_text() -> None:
    family = next(one for one in every_family() if one.model == "own/blocks")
    tokens = tokenizer(family)
    template = str(tokens.chat_template)
    begin = template.index("{%- for call in message.tool_calls")
    end = template.index("{%- endfor %}", begin) + len("{%- endfor %}")
    tokens.chat_template = template[:begin] + template[end:]
    profile = find(family.model, family.config, tokens.chat_template, tokens)
    assert profile.thoughts_field == "content"
    prompts = Model(tokens, profile, "m", context=1 << 20, vocabulary_size=len(tokens)).prompts
    assert not prompts.shown.calls
    turns = (
        Message("user", "How is it there?"),
        Message("assistant", "I look.", tool_calls=CALLS[:1], thought=Hidden("Bergen, then.")),
        Message("tool", "It is mild.", tool_call_id="call_a"),
    )
    text = "".join(span.text for span in prompts.spans(Prompt(turns, (Tool("get_weather", "", "{}"),)), True))
    assert "[THINK]Bergen, then.[/THINK]I look.\n<tool_call>" in text
    assert text.count("Bergen") == 2


@pytest.mark.parametrize("model", ["interleaved", "plain-tools"])
def test_arguments_that_are_nested_without_end_are_a_fault_of_the_request(model: str) -> None:
    family = next(one for one in every_family() if one.model == f"own/{model}")
    tokens = tokenizer(family)
    profile = find(family.model, family.config, family.chat_template, tokens)
    prompts = Model(tokens, profile, "m", context=1 << 20, vocabulary_size=len(tokens)).prompts

    def nested(depth: int) -> Prompt:
        call = ToolCall("call_a", "get_weather", '{"a":' * depth + "1" + "}" * depth)
        return Prompt((TURNS[0], Message("assistant", "", tool_calls=(call,)), TURNS[3]))

    assert prompts.spans(nested(10), True)
    for depth in (300, 600, 900):
        with suppress(RequestError):
            assert prompts.spans(nested(depth), True)
    with pytest.raises(RequestError, match="nested too deeply"):
        prompts.spans(nested(100_000), True)


@pytest.mark.parametrize("family", every_family(), ids=str)
def test_a_call_that_is_required_is_held_to_the_form_of_the_model_and_may_use_its_tokens(family: Family) -> None:
    tokens = tokenizer(family)
    profile = find(family.model, family.config, family.chat_template, tokens)
    model = Model(tokens, profile, "m", context=1 << 20, vocabulary_size=len(tokens))
    schema = '{"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}'
    kind, text = encoded(Grammar(calls=(CallSchema("get_weather", schema),), document=False), model.card.tools)
    assert kind == "structural_tag"
    info = xgrammar.TokenizerInfo.from_huggingface(tokens, vocab_size=len(tokens), stop_token_ids=[tokens.eos_token_id])
    matcher = xgrammar.GrammarMatcher(xgrammar.GrammarCompiler(info).compile_structural_tag(text))
    call = FORMATS[model.card.tools].form.write([("get_weather", {"city": "Paris"})]).removesuffix("<|call|>")
    ids: list[int] = tokens.encode(call, add_special_tokens=False)
    assert all(matcher.accept_token(token) for token in ids)
    assert matcher.accept_token(tokens.eos_token_id)
    assert matcher.is_terminated()
