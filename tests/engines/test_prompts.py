"""Prompts: the ordinary ids for ordinary text, and no control token out of what a caller typed."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from ponder.compute.errors import EngineError, RequestError
from ponder.compute.text import Hidden, Message, Prompt, Tool, ToolCall
from ponder.engines.profiles import PROFILES, Profile, find
from ponder.engines.prompts import ChatTokenizer, Prompts

DEMO = Path(__file__).parents[2] / "models" / "demo"
LOOP = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ BODY }}<|im_end|>\n{% endfor %}"
ASK = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
SWITCH = "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}"
TOOLS = (
    "{% if tools %}<|im_start|>system\n{% for t in tools %}{{ t | tojson }}\n{% endfor %}<|im_end|>\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}"
    "{% for c in m.tool_calls or [] %}{{ c.function.name }}({{ c.function.arguments | tojson }}){% endfor %}"
    "<|im_end|>\n{% endfor %}"
)


def loop(body: str = "m.content") -> str:
    return LOOP.replace("BODY", body)


def bundled() -> Any:
    return cast(Any, AutoTokenizer).from_pretrained(str(DEMO))


def tokenizer(template: str) -> ChatTokenizer:
    made = bundled()
    made.chat_template = template
    return cast(ChatTokenizer, made)


@cache
def prompts(template: str = loop() + ASK, profile: str = "demo", context: int | None = None) -> Prompts:
    return Prompts(tokenizer(template), PROFILES[profile], context)


@cache
def whole() -> Any:
    return bundled()


def ordinary(text: str) -> tuple[int, ...]:
    return tuple(whole().encode(text, add_special_tokens=False))


def user(text: str) -> Prompt:
    return Prompt((Message("user", text),))


MARKS = ["<|im_start|>", "<|im_end|>", "<think>", "</think>", "<|pad|>", "<|endoftext|>"]
benign = st.text(alphabet=st.characters(codec="utf-8", exclude_characters="<|>\r"), max_size=40)
hostile = st.lists(
    st.sampled_from([*MARKS, "<|im_", "end|>", "<", "|>", "\ue0f0", '0"', "\ue0f1", "a", " ", "\n"]), max_size=8
)


@settings(max_examples=100)
@given(st.lists(benign, min_size=1, max_size=3))
def test_ordinary_text_gives_the_ordinary_ids(texts: list[str]) -> None:
    rendered = prompts().render(Prompt(tuple(Message("user", text) for text in texts)), thinking=True)
    turns = "".join(f"<|im_start|>user\n{text}<|im_end|>\n" for text in texts)
    assert rendered.ids == ordinary(turns + "<|im_start|>assistant\n<think>\n")
    assert rendered.inside


@settings(max_examples=200)
@given(
    st.lists(hostile, min_size=1, max_size=3), st.sampled_from(["m.content", "m.content | trim", "m.content | upper"])
)
def test_no_marker_comes_out_of_what_a_caller_typed(texts: list[list[str]], body: str) -> None:
    asked = prompts(loop(body) + ASK)
    marks = {whole().convert_tokens_to_ids(mark) for mark in MARKS}
    typed = Prompt(tuple(Message("user", "".join(text)) for text in texts))
    plain = Prompt(tuple(Message("user", "a") for _ in texts))
    found = [i for i in asked.render(typed, thinking=True).ids if i in marks]
    assert found == [i for i in asked.render(plain, thinking=True).ids if i in marks]


@settings(max_examples=60)
@given(hostile)
def test_a_hostile_text_is_still_the_text(pieces: list[str]) -> None:
    text = "x" + "".join(pieces) + "x"
    rendered = prompts().render(user(text), thinking=True)
    assert whole().decode(rendered.ids) == f"<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n<think>\n"


def test_templates_that_trim_trim() -> None:
    rendered = prompts(loop("m.content | trim") + ASK).render(user("  two words \n"), thinking=True)
    assert rendered.ids == ordinary("<|im_start|>user\ntwo words<|im_end|>\n<|im_start|>assistant\n<think>\n")


def test_templates_that_change_the_text_get_the_text() -> None:
    rendered = prompts(loop("m.content | upper") + ASK).render(user("hello </think>"), thinking=True)
    assert "HELLO </THINK><|im_end|>" in whole().decode(rendered.ids)


@pytest.mark.parametrize(
    ("template", "on", "off"),
    [
        (loop() + ASK, "<think>\n", "<think>\n</think>\n"),
        (loop() + ASK[:-11] + SWITCH + "{% endif %}", "<think>\n", "<think>\n\n</think>\n\n"),
        (loop() + ASK[:-11] + "<think>\n{% endif %}", "<think>\n", "<think>\n\n</think>\n"),
    ],
)
def test_thinking_is_opened_and_shut_whoever_does_it(template: str, on: str, off: str) -> None:
    """The template lacks a switch, has one, or always opens the thought."""
    asked = prompts(template)
    turn = "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    assert asked.render(user("hi"), thinking=True).ids == ordinary(turn + on)
    close_thought = asked.render(user("hi"), thinking=False)
    assert close_thought.ids == ordinary(turn + off)
    assert not close_thought.inside


def test_a_marker_typed_last_does_not_pass_for_the_templates() -> None:
    for text in ("<think>", "</think>", "<think></think>"):
        assert prompts().render(user(text), thinking=True).inside
        assert not prompts().render(user(text), thinking=False).inside


def test_a_template_that_shuts_the_thought_does_not_fit_a_thinking_profile() -> None:
    with pytest.raises(EngineError, match="does not fit"):
        Prompts(tokenizer(loop() + ASK[:-11] + "<think></think>{% endif %}"), PROFILES["demo"])


def test_a_model_without_a_template_is_refused() -> None:
    with pytest.raises(EngineError, match="chat template"):
        Prompts(tokenizer(""), PROFILES["demo"])


def test_a_conversation_the_template_refuses_is_the_callers_to_mend() -> None:
    template = "{% if messages | length > 1 %}{{ raise_exception('one turn only') }}{% endif %}" + loop() + ASK
    with pytest.raises(RequestError, match="one turn only") as caught:
        prompts(template).render(user("secret").then(Message("user", "secret")), thinking=True)
    assert caught.value.param == "messages"
    assert "secret" not in caught.value.message


def test_a_word_of_effort_that_the_template_refuses_is_named_and_not_the_conversation() -> None:
    refuses = (
        "{% if effort is defined and effort not in ('low', 'high') %}{{ raise_exception('low or high') }}{% endif %}"
    )
    made = Prompts(tokenizer(refuses + loop() + ASK), replace_profile(effort="effort"))
    assert made.render(replace(user("secret"), effort="high"), thinking=True).ids
    assert made.render(replace(user("secret"), effort="medium"), thinking=False).ids
    with pytest.raises(RequestError, match="low or high") as caught:
        made.render(replace(user("secret"), effort="medium"), thinking=True)
    assert caught.value.param == "thinking"
    assert caught.value.message.startswith("thinking ")
    assert "secret" not in caught.value.message


def replace_profile(**fields: Any) -> Profile:
    return PROFILES["demo"].model_copy(update=fields)


def test_tools_and_their_calls_are_rendered_as_json_with_markers_kept_out() -> None:
    schema = {"type": "object", "properties": {"city<|im_end|>": {"type": "string", "description": 'say "hi"\n'}}}
    tool = Tool("weather", 'the "weather" </think>', json.dumps(schema))
    call = ToolCall("1", "weather", '{"city": "<|im_start|>\\"Rome\\"", "n": 3}')
    prompt = Prompt((Message("user", "go"), Message("assistant", "", tool_calls=(call,))), (tool,))
    text = whole().decode(prompts(TOOLS + ASK).render(prompt, thinking=True).ids)
    function = {"name": "weather", "description": tool.description, "parameters": schema}
    assert json.dumps({"type": "function", "function": function}, ensure_ascii=False) in text
    assert 'weather({"city": "<|im_start|>\\"Rome\\"", "n": 3})' in text
    ids = prompts(TOOLS + ASK).render(prompt, thinking=True).ids
    assert ids.count(ordinary("<|im_end|>")[0]) == 3


SCHEMA_WORDS = (
    "{% for t in tools or [] %}{% set p = t.function.parameters %}{% for name, s in p.properties.items() %}"
    "{{ name }}: {{ 'number' if s.type == 'number' else 'one of ' ~ s.enum | join('|') if s.enum else 'any' }}"
    "{{ ' (required)' if name in p.required }};{% endfor %}{% endfor %}"
)
COMPARING = (
    "{% for m in messages %}{% if m.tool_call_id and m.tool_call_id not in ns.ids %}{{ raise_exception('no call') }}"
    "{% endif %}{% for c in m.tool_calls or [] %}{% set ns.ids = ns.ids + [c.id] %}{{ c.function.arguments }}"
    "{% endfor %}<|im_start|>{{ m.role }}\n{{ m.content.split('</think>')[-1] }}<|im_end|>\n{% endfor %}"
    "{% if '/no_think' in messages[0].content %}off{% endif %}"
)


def test_schemas_reach_the_template_with_their_own_words() -> None:
    schema = {
        "type": "object",
        "properties": {"n": {"type": "number"}, "unit": {"type": "string", "enum": ["C", "F"]}},
        "required": ["n"],
    }
    prompt = Prompt((Message("user", "go"),), (Tool("f", "d", json.dumps(schema)),))
    text = whole().decode(prompts(SCHEMA_WORDS + ASK).render(prompt, thinking=True).ids)
    assert text.startswith("n: number (required);unit: one of C|F;<|im_start|>")


def test_a_template_compares_what_was_typed_as_it_is() -> None:
    call = ToolCall("abc", "f", '{"city": "Rome"}')
    prompt = Prompt(
        (
            Message("user", "go /no_think"),
            Message("assistant", "hm</think>done", tool_calls=(call,)),
            Message("tool", "r", tool_call_id="abc"),
        )
    )
    asked = prompts("{% set ns = namespace(ids=[]) %}" + COMPARING + ASK)
    text = whole().decode(asked.render(prompt, thinking=True).ids)
    assert text == (
        '<|im_start|>user\ngo /no_think<|im_end|>\n{"city": "Rome"}<|im_start|>assistant\ndone<|im_end|>\n'
        "<|im_start|>tool\nr<|im_end|>\noff<|im_start|>assistant\n<think>\n"
    )


def test_the_bundled_model_is_read_without_detours() -> None:
    """Its vocabulary has words that were added like markers (" + "); they stay words."""
    made = bundled()
    asked = Prompts(cast(ChatTokenizer, made), PROFILES["demo"])
    text = "What is 2 + 2 - 1? <think>"
    messages = [{"role": "user", "content": text[:-7]}]
    plain = made.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert asked.render(user(text[:-7]), thinking=True).ids == ordinary(plain + "<think>\n")
    assert whole().decode(asked.render(user(text), thinking=True).ids) == plain.replace(text[:-7], text) + "<think>\n"


def test_an_earlier_thought_is_shown_where_the_profile_says_so() -> None:
    body = "(m.reasoning_content or '') ~ m.content"
    turns = Prompt((Message("user", "q"), Message("assistant", "a", thought=Hidden("deep")), Message("user", "again")))
    shown = prompts(loop(body) + ASK).render(turns, thinking=True)
    unshown = prompts(loop(body) + ASK, "think").render(turns, thinking=True)
    assert "deep" in whole().decode(shown.ids)
    assert "deep" not in whole().decode(unshown.ids)


def test_a_model_that_does_not_think_is_asked_to_only_when_it_shall() -> None:
    asked = prompts(loop() + ASK, "step_by_step")
    on, off = (asked.render(user("hi"), thinking=thinking) for thinking in (True, False))
    assert "Final answer:" in whole().decode(on.ids)
    assert on.inside
    assert off.ids == ordinary("<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n")
    assert not off.inside
    both = asked.render(Prompt((Message("developer", "Be kind."), Message("user", "hi"))), thinking=True)
    assert "system\nBe kind.\n\nThink step" in whole().decode(both.ids)


@settings(max_examples=200)
@given(st.lists(st.text(max_size=60) | benign | hostile.map("".join), min_size=1, max_size=3))
def test_the_size_of_a_prompt_never_promises_more_tokens_than_it_has(texts: list[str]) -> None:
    """A context of no token at all: the least is all that is told."""
    prompt = Prompt(tuple(Message("user", text) for text in texts))
    assert 0 < prompts(context=0).length(prompt, thinking=True) <= len(prompts().render(prompt, thinking=True).ids)


def test_a_prompt_that_fits_is_counted_exactly() -> None:
    bounded = prompts(context=2048)
    for text in ("hi", "two words " * 300):
        assert bounded.length(user(text), thinking=True) == len(prompts().render(user(text), thinking=True).ids)


def test_tokenising_a_long_prompt_leaves_the_other_threads_their_turn() -> None:
    asked = prompts()
    reading = threading.Thread(target=asked.render, args=(user("hello world 12 " * 30_000),), kwargs={"thinking": True})
    turns = 0
    reading.start()
    while reading.is_alive():
        time.sleep(0.001)
        turns += 1
    assert turns > 20


def test_a_text_full_of_markers_stays_the_text() -> None:
    upper = prompts(loop("m.content | upper") + ASK)
    text = "<think>" * 50_000
    assert whole().decode(upper.render(user(text), thinking=True).ids).count("<THINK>") == 50_000


@pytest.mark.parametrize(
    ("path", "config", "template", "name"),
    [
        ("models/demo", {"vocab_size": 1152}, "<think>", "demo"),
        ("Qwen/Qwen3-8B", {"model_type": "qwen3"}, "enable_thinking <think>", "qwen3"),
        ("/srv/mine", {"model_type": "qwen3_moe"}, "enable_thinking <think>", "qwen3"),
        ("Qwen/QwQ-32B", {}, "<think>", "qwq"),
        ("deepseek-ai/DeepSeek-R1-Distill-Qwen-7B", {}, "<think>", "deepseek-r1"),
        ("someone/reasoner", {}, "<think>", "think"),
        ("meta-llama/Llama-3.1-8B-Instruct", {}, "{{ messages }}", "instruct"),
    ],
)
def test_the_profile_is_found(path: str, config: dict[str, Any], template: str, name: str) -> None:
    assert find(path, config, template).name == name


def test_a_profile_whose_closing_phrase_closes_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="must contain the end marker"):
        Profile(name="bad", closing="so")
