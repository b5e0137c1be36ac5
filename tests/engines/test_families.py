"""Every family that there are facts of: found by what is in its files, and proven before a token is drawn."""

from __future__ import annotations

import json
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ponder.compute.errors import EngineError
from ponder.compute.text import Message, Prompt
from ponder.engines.launch import read_generation
from ponder.engines.model import Model
from ponder.engines.profiles import PROFILES, Profile, find, sampled
from ponder.engines.profiles.markers import Pair, pairs
from ponder.engines.profiles.reading import Side, side
from ponder.engines.proving import ANSWER, QUESTION, THOUGHT, demand, proofs_of, table, written
from tests.engines.family_models import OWN, Family, every_family, families, tokenizer

FAMILIES = every_family()
OF = pytest.mark.parametrize("family", FAMILIES, ids=str)
THINKING = pytest.mark.parametrize("family", [one for one in FAMILIES if one.thinks], ids=str)
ASKED = Prompt((Message("user", "How many apples are 12 and 7?"),))


def found(family: Family, made: Any = None) -> Profile:
    return find(family.model, family.config, family.chat_template, made or tokenizer(family))


def model(family: Family, profile: Profile | None = None) -> Model:
    made = tokenizer(family)
    return Model(made, profile or found(family, made), str(family), context=4096, vocabulary_size=len(made))


def own(name: str) -> Family:
    return next(one for one in families(OWN) if one.model == f"own/{name}")


@OF
def test_a_family_is_found_as_its_facts_say(family: Family) -> None:
    profile = found(family)
    assert profile.thinks == family.thinks
    if not family.thinks:
        assert profile.instruction == ""
        return
    assert profile.opening.strip() == family.thought_begins.strip()
    assert profile.start in profile.opening
    assert profile.closing.split() == family.thought_ends.split()
    assert profile.end in profile.closing
    assert family.answer_wrapped_in[1].strip() in ("", profile.wrapper[1])


@OF
def test_all_that_is_to_be_proven_is(family: Family) -> None:
    made = tokenizer(family)
    asked = model(family)
    proofs = proofs_of(asked, made)
    assert [proof for proof in proofs if proof.ok is False] == []
    assert {proof.of for proof in proofs} >= {"markers", "side", "silent"}
    demand("x", proofs)


@THINKING
def test_with_no_budget_a_prompt_ends_outside_a_thought_and_with_one_inside(family: Family) -> None:
    asked = model(family)
    pair = Pair(asked.profile.start, asked.profile.end)
    for thinking in (True, False):
        rendered = asked.prompts.render(ASKED, thinking=thinking)
        text = asked.vocabulary.tokenizer.decode(list(rendered.ids), skip_special_tokens=False)
        tail = text.rpartition("12 and 7?")[2]
        assert rendered.inside == thinking
        if not asked.profile.channels:
            assert (side(tail, pair, asked.profile.wrapper[0]) == Side.INSIDE) == thinking


@THINKING
def test_switched_on_and_off_it_reads_two_different_prompts(family: Family) -> None:
    asked = model(family)
    for prompt in (ASKED, QUESTION):
        on, off = (asked.prompts.render(prompt, thinking=thinking).ids for thinking in (True, False))
        assert on != off


@THINKING
def test_what_the_model_writes_is_told_apart_as_the_family_writes_it(family: Family) -> None:
    """The text of the facts, not that of the profile."""
    asked = model(family)
    marked = asked.prompts.with_markers
    wrapped = f"{ANSWER}{family.answer_wrapped_in[1]}"
    ids = [*marked(THOUGHT), *marked(family.thought_ends), *marked(wrapped)]
    for portion in (1, 2, 5, 1000):
        text, hidden = written(asked, ids, thinking=len(ids) + 9, portion=portion)
        assert text.strip() == ANSWER
        assert THOUGHT in hidden


WAYS: dict[str, dict[str, Any]] = {
    "single-tokens": {"switch": "enable_thinking"},
    "other-switch": {"switch": "", "on": {"deliberation": "deep"}, "off": {"deliberation": "none"}},
    "several-tokens": {"switch": "thinking", "wrapper": ("<|open|>response<|sep|>", "<|close|>response<|sep|>")},
    "channels": {"channels": "harmony", "effort": "reasoning_effort", "reads_thoughts": "tool_loop"},
    "wrapped": {"switch": "thinking", "wrapper": ("<response>", "</response>")},
    "sentence": {"switch": "", "system": ("", "pondering off, thinking off"), "word": ("", "")},
    "word": {"switch": "", "system": ("", ""), "word": ("", "/no_think")},
    "native-budget": {"switch": "", "off": {"thinking_budget": 0}, "budget": "thinking_budget"},
    "no-thinking": {"name": "instruct", "thinks": False},
    "interleaved": {"switch": "", "reads_thoughts": "tool_loop", "thoughts_field": "reasoning_content"},
}


@pytest.mark.parametrize("name", WAYS)
def test_each_way_to_switch_and_to_wrap_is_read_from_the_template(name: str) -> None:
    profile = found(own(name))
    assert {field: getattr(profile, field) for field in WAYS[name]} == WAYS[name]


@pytest.mark.parametrize(
    ("effort", "told"),
    [(None, "medium"), ("minimal", "low"), ("low", "low"), ("high", "high"), ("xhigh", "high"), ("odd", "odd")],
)
def test_the_callers_word_for_how_much_to_think_reaches_the_template(effort: str | None, told: str) -> None:
    prompts = model(own("channels")).prompts
    text = "".join(span.text for span in prompts.spans(replace(ASKED, effort=effort), True))
    assert f"Reasoning: {told}\n" in text
    assert "Reasoning: medium\n" in "".join(span.text for span in prompts.spans(replace(ASKED, effort=effort), False))


def test_an_effort_is_set_to_what_the_profile_says() -> None:
    profile = Profile(effort="level", efforts={"low": 1, "xhigh": "max"})
    given = [profile.variables(True, effort=word).get("level") for word in ("minimal", "low", "high", "xhigh", None)]
    assert given == [1, 1, "high", "max", None]


def test_a_budget_of_the_familys_own_reaches_its_template() -> None:
    prompts = model(own("native-budget")).prompts

    def text(budget: int | None, thinking: bool = True) -> str:
        return "".join(span.text for span in prompts.spans(replace(ASKED, budget=budget), thinking))

    assert "You may think for 1536 tokens." in text(1536)
    assert "tokens" not in text(None)
    assert "the thinking budget is 0" in text(1536, False)
    assert prompts.length(replace(ASKED, budget=1536), thinking=True) > prompts.length(ASKED, thinking=True)


@pytest.mark.parametrize(
    ("start", "end"),
    [
        ("<think>", "</think>"),
        ("<seed:think>", "</seed:think>"),
        ("<mm:think>", "</mm:think>"),
        ("<ifm|think>", "</ifm|think>"),
        ("<think:6124c78e>", "</think:6124c78e>"),
        ("[THINK]", "[/THINK]"),
        ("◁think▷", "◁/think▷"),
        ("<|START_THINKING|>", "<|END_THINKING|>"),
        ("<|plamo:begin_think:plamo|>", "<|plamo:end_think:plamo|>"),
        ("<|begin_of_thought|>", "<|end_of_thought|>"),
        ("<|inner_prefix|>", "<|inner_suffix|>"),
        ("<|content_thinking|>", "<|content_text|>"),
        ("to=self<|message|>", "to=user<|message|>"),
        ("Here is my thought process:", "Here is my response:"),
        ("<reasoning>", "</reasoning>"),
    ],
)
def test_markers_are_known_by_their_form(start: str, end: str) -> None:
    source = f"a {start} b {end} c"
    assert pairs([source], source) == [Pair(start, end)]
    assert pairs([start], start) == []


def test_an_end_that_is_only_looked_for_in_earlier_turns_makes_no_thinker() -> None:
    template = "{{ messages[0].content.split('</think>')[-1] }}"
    assert find("own/chat", {}, template).name == "instruct"
    assert find("own/chat", {}, "<think>" + template).thinks


def test_a_variable_that_only_tells_the_model_what_to_do_switches_too() -> None:
    template = (
        "{{ '[SETTINGS]' + reasoning_effort if reasoning_effort in ['none', 'high'] }}{{ messages[0].content }}"
        "{% if messages[0].thought %}[THINK]{{ messages[0].thought }}[/THINK]{% endif %}"
    )
    profile = find("own/x", {}, template)
    assert (profile.switch, profile.on, profile.off) == ("", {"reasoning_effort": "high"}, {"reasoning_effort": "none"})


def test_a_name_with_two_words_of_a_path_and_of_the_configuration() -> None:
    template = own("no-thinking").chat_template
    assert find("/srv/x", {"_name_or_path": "nvidia/Llama-3.1-Nemotron-Nano-8B-v1"}, template).system[0]
    assert not find("/srv/x", {"_name_or_path": "nvidia/Llama-3.1-Nemotron-70B-Instruct"}, template).thinks


def test_the_name_is_looked_at_last() -> None:
    template = own("single-tokens").chat_template
    assert find("own/qwq-like", {}, template).name == "qwq"
    assert find("own/qwq-like", {"model_type": "qwen3"}, template).name == "qwen3"
    assert not find("own/answers", {}, own("no-thinking").chat_template).thinks
    assert find("own/thinker", {}, own("no-thinking").chat_template).thinks


def test_the_makers_sampling_goes_first_and_a_users_own_before_it(tmp_path: Path) -> None:
    said = {"temperature": 0.9, "top_p": 0.8, "top_k": 17, "min_p": 7, "do_sample": True}
    (tmp_path / "generation_config.json").write_text(json.dumps(said))
    generation = read_generation(str(tmp_path))
    profile = find("own/x", {}, own("single-tokens").chat_template, None, generation)
    assert (profile.temperature, profile.top_p, profile.top_k, profile.min_p) == (0.9, 0.8, 17, 0.0)
    mine = Profile(temperature=0.1)
    assert sampled(mine, generation, keep=mine.model_fields_set).temperature == 0.1
    assert sampled(mine, generation, keep=mine.model_fields_set).top_k == 17
    assert read_generation(str(tmp_path / "..")) == {}


def test_one_that_answers_at_once_shows_no_thought_where_it_has_the_tokens_for_one() -> None:
    plain = own("no-thinking")
    family = replace(plain, added_tokens=(*plain.added_tokens, "<think>", "</think>"))
    asked = model(family)
    assert not asked.profile.thinks
    (opened,) = asked.prompts.with_markers("<think>")
    assert opened in asked.logit_bans
    answer = [*asked.prompts.with_markers(f"<think>{THOUGHT}</think>"), *asked.prompts.with_markers(ANSWER)]
    for cut in (len(answer), len(answer) - 20):
        text, hidden = written(asked, [], thinking=0, portion=3, answer=answer[:cut])
        assert text.strip() in ANSWER
        assert "Twelve" in hidden


def test_a_model_with_little_room_is_proven_as_well() -> None:
    family = own("wrapped")
    made = tokenizer(family)
    small = Model(made, found(family, made), "small", context=64, vocabulary_size=len(made))
    assert all(proof.ok for proof in proofs_of(small, made))
    assert small.card.context == 64


@pytest.mark.parametrize("name", ["step_by_step", "plain"])
def test_the_ritual_is_proven_where_it_is_asked_for(name: str) -> None:
    family = own("no-thinking")
    made = tokenizer(family)
    proofs = proofs_of(Model(made, PROFILES[name], "x", context=4096, vocabulary_size=len(made)), made)
    assert all(proof.ok for proof in proofs), proofs
    assert {proof.of for proof in proofs} == {"markers", "side", "split", "forced", "silent"}


# -- refused ----------------------------------------------------------------------------------------------------------


def refused(family: Family, profile: Profile) -> str:
    made = tokenizer(family)
    with pytest.raises(EngineError) as raised:
        demand("mine", proofs_of(Model(made, profile, "mine", context=4096, vocabulary_size=len(made)), made))
    return raised.value.message


def test_markers_that_the_model_has_not_are_refused_with_those_it_has() -> None:
    said = refused(own("other-switch"), PROFILES["think"])
    assert "'<think>'" in said
    assert "[models.mine.profile]" in said
    assert 'start = "[MUSE_THINKING]"' in said
    assert 'off = { deliberation = "none" }' in said


def test_a_thinking_model_is_not_served_as_one_that_answers_at_once() -> None:
    said = refused(own("interleaved"), PROFILES["instruct"])
    assert "not to think, a prompt ends within a thought that '<think>' opens" in said
    assert "[models.mine.profile]" in said


def test_what_is_proposed_is_a_profile_that_is_proven() -> None:
    for name in ("other-switch", "sentence", "native-budget", "text-markers"):
        family = own(name)
        lines = table(found(family).model_copy(update={"name": "mine"}))
        profile = Profile(**tomllib.loads(lines)["models"]["mine"]["profile"])
        made = tokenizer(family)
        demand("mine", proofs_of(Model(made, profile, "mine", context=4096, vocabulary_size=len(made)), made))


def test_the_older_name_of_a_field_is_read() -> None:
    assert Profile.model_validate({"shows_thoughts": True}).reads_thoughts == "always"
    assert Profile.model_validate({"shows_thoughts": False}).reads_thoughts == "never"
