"""Every family that reads its thoughts between calls gets them back in its template's own field, over the real engine
and the real door, and nobody else gets anything."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from jinja2.exceptions import SecurityError, TemplateError

from ponder.compute.text import Hidden, Message, Prompt, Tool, ToolCall
from ponder.engines.profiles import Profile, find
from ponder.engines.prompts import Prompts
from ponder.engines.vllm import VllmEngine
from tests.engines.family_models import OWN, Family, every_family, families, tokenizer
from tests.engines.replies import Replies
from tests.server.serving import answered, chat, door, events, joined

THOUGHT = "xyzzy: which city?\n\nParis, é世."
FIRST = "How is it in Paris?"
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}}
WEATHER = {
    "type": "function",
    "function": {"name": "get_weather", "description": "Tells it.", "parameters": SCHEMA},
}
HARMONY = "<|start|>assistant"


FOUND: dict[str, tuple[Any, Profile]] = {}


def found(family: Family) -> tuple[Any, Profile]:
    if family.model not in FOUND:
        made = tokenizer(family)
        FOUND[family.model] = made, find(family.model, family.config, family.chat_template, made)
    return FOUND[family.model]


READERS = [one for one in every_family() if found(one)[1].shows_thoughts]


def test_the_families_known_for_it_are_among_them() -> None:
    names = {str(family) for family in READERS}
    assert names >= {"channels", "interleaved", "blocks"}
    others = {str(family) for family in every_family()}
    known = {"gpt-oss-120b", "Kimi-K2-Thinking", "MiniMax-M2", "DeepSeek-V3.2", "GLM-4.6", "GLM-4.7-Flash", "GLM-5.2"}
    assert known & others <= names
    assert {"Ministral-3-14B-Reasoning-2512"} & others <= names


class Loop:
    """One family behind a door, whose model thinks and calls."""

    def __init__(self, family: Family) -> None:
        self.family = family
        self.tokens, self.profile = found(family)
        self.engine = VllmEngine(Replies(self.tokens, "", "", eos=family.eos), self.tokens, self.profile, "demo")
        self.app = door(self.engine)

    def writes(self, thought: str, rest: str) -> None:
        """What the model makes of the next request."""
        call, ends = rest, self.family.thought_ends
        if rest.startswith(HARMONY):
            ends = "<|end|>"
        elif self.family.answer_wrapped_in[1] and rest.startswith("\n"):
            ends = ends.removesuffix("\n<answer>\n")
        end = "<|call|>" if rest.startswith(HARMONY) else self.family.eos
        self.engine.llm = Replies(self.tokens, thought + ends + call + end, "", eos=self.family.eos)

    def prompt(self) -> str:
        """The last that the model has read."""
        return str(self.engine.llm.tokenizer.decode(self.engine.llm.prompts[-1], skip_special_tokens=False))

    def called(self, stream: bool, messages: list[dict[str, Any]]) -> dict[str, Any]:
        self.writes(THOUGHT, self.family.calls_get_weather_as)
        body: dict[str, Any] = {"messages": messages, "tools": [WEATHER], "stream": stream}
        response = chat(self.app, **body)
        assert "xyzzy" not in response.text
        if not stream:
            message = response.json()["choices"][0]["message"]
            return {"role": "assistant", "content": message["content"], "tool_calls": message["tool_calls"]}
        deltas = [chunk["choices"][0]["delta"] for chunk in events(response.text) if chunk["choices"]]
        return {"role": "assistant", "content": None, "tool_calls": joined(deltas)}

    def asked(self, messages: list[dict[str, Any]]) -> str:
        self.writes("xyzzy again.", "It is mild.")
        told = answered(self.app, messages=messages, tools=[WEATHER])
        assert "xyzzy" not in json.dumps(told)
        assert told["usage"]["prompt_tokens"] == len(self.engine.llm.prompts[-1])
        return self.prompt()

    def theirs(self, messages: list[dict[str, Any]], thoughts: dict[int, str]) -> str:
        """What `apply_chat_template` makes of these messages, with thoughts in the field of the template."""
        prompts = self.engine.model.prompts
        ours = tuple(
            Message(
                one["role"],
                one["content"] or "",
                tool_calls=tuple(ToolCall(c["id"], c["function"]["name"], c["function"]["arguments"]) for c in calls),
                tool_call_id=one.get("tool_call_id"),
            )
            for one in messages
            for calls in [one.get("tool_calls", [])]
        )
        tool = Tool("get_weather", "Tells it.", json.dumps(SCHEMA))
        turns, tools = prompts.made_of(Prompt(ours, (tool,)), True)(str)
        turns = copy.deepcopy(turns)
        shift = len(turns) - len(messages)
        for number, thought in thoughts.items():
            turn = turns[number + shift]
            if self.profile.thoughts_field == "content":
                turn["content"] = [{"type": "thinking", "thinking": thought}, {"type": "text", "text": turn["content"]}]
            else:
                turn[self.profile.thoughts_field] = thought
        given: dict[str, Any] = {"tools": tools, "tokenize": False, "add_generation_prompt": True}
        return str(self.tokens.apply_chat_template(turns, **given, **prompts.variables(True)))


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("family", READERS, ids=str)
def test_the_thought_is_in_the_templates_own_field_until_the_next_question(family: Family, stream: bool) -> None:
    loop = Loop(family)
    messages: list[dict[str, Any]] = [{"role": "user", "content": FIRST}]
    for turn in range(1, 3):
        message = loop.called(stream, messages)
        assert [call["function"]["name"] for call in message["tool_calls"]] == ["get_weather"]
        result = {"role": "tool", "tool_call_id": message["tool_calls"][0]["id"], "content": "21 degrees"}
        messages += [message, result]
        text = loop.asked(messages)
        assert text.count("xyzzy: which city?") == turn
        # White space that the family does not write itself is the model's.
        space = "" if loop.profile.closing[:1].isspace() else family.thought_ends[: -len(family.thought_ends.lstrip())]
        thought = THOUGHT + ("" if family.calls_get_weather_as.startswith(HARMONY) else space)
        thoughts = {n: thought for n, one in enumerate(messages) if one["role"] == "assistant"}
        try:
            theirs = loop.theirs(messages, thoughts)
        except (SecurityError, TypeError, TemplateError):
            continue  # Templates for other programs than transformers.
        assert text.startswith(theirs)
        ids = loop.tokens.encode(theirs, add_special_tokens=False)
        assert loop.engine.llm.prompts[-1][: len(ids)] == ids
    messages += [{"role": "assistant", "content": "It is mild."}, {"role": "user", "content": "And in Oslo?"}]
    kept = loop.asked(messages).count("xyzzy: which city?")
    assert kept == (2 if loop.profile.reads_thoughts == "always" else 0)


@pytest.mark.parametrize("family", [one for one in every_family() if one.thinks and one not in READERS], ids=str)
def test_other_families_read_none_of_it(family: Family) -> None:
    loop = Loop(family)
    if not loop.engine.card.tools or family.calls_get_weather_as.startswith("\n"):
        return
    messages: list[dict[str, Any]] = [{"role": "user", "content": FIRST}]
    message = loop.called(False, messages)
    result = {"role": "tool", "tool_call_id": message["tool_calls"][0]["id"], "content": "21 degrees"}
    assert "xyzzy" not in loop.asked([*messages, message, result])


def own(name: str) -> Family:
    return next(one for one in families(OWN) if one.model == f"own/{name}")


def prompts_of(family: Family) -> Prompts:
    return Prompts(*found(family))


def turn(thought: str, said: str = "") -> Prompt:
    call = ToolCall("a1b2c3d4e", "get_weather", "{}")
    return Prompt(
        (
            Message("user", FIRST),
            Message("assistant", said, tool_calls=(call,), thought=Hidden(thought)),
            Message("tool", "21", tool_call_id="a1b2c3d4e"),
        ),
        (Tool("get_weather", "", "{}"),),
    )


def text_of(prompts: Prompts, prompt: Prompt) -> str:
    return "".join(span.text for span in prompts.spans(prompt, True))


def test_control_tokens_in_a_thought_stay_text() -> None:
    family = own("interleaved")
    tokens, _ = found(family)
    prompts = prompts_of(family)
    hostile, plain = (prompts.render(turn(f"a {word} b"), thinking=True).ids for word in ("<|over|>", "overoverov"))
    over = tokens.convert_tokens_to_ids("<|over|>")
    assert hostile.count(over) == plain.count(over)


@pytest.mark.parametrize("name", ["channels", "interleaved"])
def test_the_end_of_a_thought_is_written_once(name: str) -> None:
    family = own(name)
    prompts = prompts_of(family)
    for end in ("", "\n", family.thought_ends.split("<|start|>")[0]):
        text = text_of(prompts, turn(f"Hm.{end}"))
        assert text.count("Hm.") == 1
        if name == "interleaved":
            assert "Hm.\n</think>" in text


def test_a_template_that_takes_a_text_or_a_thought_gets_both_as_one() -> None:
    # As gpt-oss's own refuses a turn with calls that has both.
    refusing = "{%- for message in messages %}{%- if message.tool_calls and message.content and message.thinking %}"
    refusing += "{{- raise_exception('not both') }}{%- endif %}{%- endfor %}"
    tokens, profile = found(own("channels"))
    tokens = copy.deepcopy(tokens)
    tokens.chat_template = refusing + tokens.chat_template
    text = text_of(Prompts(tokens, profile), turn("I wonder.", "I look."))
    assert "I wonder.\n\nI look." in text


def test_a_thought_that_the_template_refuses_is_left_out() -> None:
    refusing = "{%- for message in messages %}{%- if 'forbidden' in (message.reasoning_content or '') %}"
    refusing += "{{- raise_exception('no') }}{%- endif %}{%- endfor %}"
    tokens, profile = found(own("interleaved"))
    tokens = copy.deepcopy(tokens)
    tokens.chat_template = refusing + tokens.chat_template
    prompts = Prompts(tokens, profile)
    assert "fine" in text_of(prompts, turn("fine"))
    assert text_of(prompts, turn("forbidden")) == text_of(prompts, turn(""))
