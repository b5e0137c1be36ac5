"""Every family's way to think, through the real engine: no thought outside, no answer hidden, no token uncounted.

The families are our own of `tests/engines/own_families/`, and those of the folder that `TEST_TEMPLATES` names.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextlib import aclosing
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any, Protocol

import pytest

from ponder.compute.budget import Budget, Spending
from ponder.compute.engine import Grammar, Sampling
from ponder.compute.text import Candidate, Message, Prompt, Tool
from ponder.compute.transcript import Transcript
from ponder.engines.profiles import find
from ponder.engines.vllm import VllmEngine
from tests.engines.family_models import OWN, Family, every_family, tokenizer
from tests.engines.replies import Replies

FAMILIES = every_family()
THINKING = [family for family in FAMILIES if family.thinks]
SIZES = (1, 2, 3, 7, 1000)
"""Tokens of an output."""
SOME: ContextVar[int] = ContextVar("SOME", default=1)
"""Of places one in so many; where these are not all, outputs have one size."""
THOUGHT = "xyzzy: 12 + 7 = 19, é世.\n\nSo xyzzy again"
ANSWER = "It is **19** <b>apples</b>.\n\n世"
TOOL = Tool("get_weather", "Tells it.", '{"type": "object", "properties": {"city": {"type": "string"}}}')
HARMONY = "<|start|>assistant"


@dataclass(frozen=True)
class Written:
    """One chain, and what it took."""

    chain: Candidate
    streamed: str
    prompts: list[str]
    first: list[int]
    """The prompt before it."""


class Place(Protocol):
    """Where the model is."""

    def engine(self, family: Family) -> Any:
        """The engine of a family, with its `llm`: each chain gives it a script of its own."""
        ...

    def told(self, made: Any, llm: Replies) -> None:
        """From now on this one writes."""
        ...

    def run(self, work: Coroutine[Any, Any, Written]) -> Written:
        """Carries it out on the loop of the engine."""
        ...


class Here:
    """In this process."""

    def __init__(self) -> None:
        self._made: dict[str, VllmEngine] = {}

    def engine(self, family: Family) -> VllmEngine:
        if (made := self._made.get(family.model)) is None:
            made = self._made[family.model] = self._engine(family)
        return made

    def _engine(self, family: Family) -> VllmEngine:
        tokens = tokenizer(family)
        profile = find(family.model, family.config, family.chat_template, tokens)
        llm = Replies(tokens, "", "", eos=family.eos)
        return VllmEngine(llm, tokens, profile, str(family))

    def told(self, made: VllmEngine, llm: Replies) -> None:
        made.llm = llm

    def run(self, work: Coroutine[Any, Any, Written]) -> Written:
        return asyncio.run(work)


HERE = Here()
PLACE: ContextVar[Place] = ContextVar("PLACE", default=HERE)
"""`tests/engines/test_replica_mechanisms.py` puts another here, and has the same tests."""


def engine(family: Family) -> Any:
    return PLACE.get().engine(family)


def written(
    family: Family,
    reply: str,
    answer: str = "",
    *,
    thinking: int = 1000,
    room: int = 1000,
    size: int = 1000,
    tools: bool = False,
    after: Written | None = None,
    eos: bool = True,
    **wishes: Any,
) -> Written:
    end = family.eos if eos else ""
    made, place = engine(family), PLACE.get()
    llm = Replies(made.llm.get_tokenizer(), reply + end, answer + end, size, family.eos)
    place.told(made, llm)
    begun = after.chain if after else None
    llm.first = after.first if after else []

    async def go() -> Written:
        prompt = Prompt((Message("user", "How many?"),), tools=(TOOL,) if tools else ())
        reservation = Spending(Budget(thinking, room)).reserve("test", thinking=thinking, answer=room, bound=True)
        transcript = Transcript(reservation, begun.prompt if begun else prompt, begun)
        sampling = Sampling(thinking=thinking, answer=room, streamed=True, **wishes)
        streamed: list[str] = []
        async with aclosing(made.generate(prompt, sampling, transcript)) as stream:
            async for delta in stream:
                streamed.append(delta.text)
        chain = transcript.candidate()
        assert chain.tokens == llm.made
        assert chain.hidden <= thinking
        assert chain.visible <= room
        assert not reservation.overdrawn
        assert "xyzzy" not in chain.text
        assert (begun.text if begun else "") + "".join(streamed) == chain.text
        prompts = [llm.tokenizer.decode(ids, skip_special_tokens=False) for ids in llm.prompts]
        return Written(chain, "".join(streamed), prompts, llm.first)

    return place.run(go())


def thought(family: Family) -> str:
    """As the family writes one, behind what opens it."""
    return THOUGHT + family.thought_ends


def answered(family: Family) -> str:
    return ANSWER + family.answer_wrapped_in[1]


def places(family: Family, end: int) -> range:
    """Places from 1 to before `end`: each in our own families, of which every mechanism has one; in others some."""
    if family.folder == OWN:
        return range(1, end, SOME.get())
    return range(1 + len(family.model) % 5, end, 5 * SOME.get())


def everywhere(family: Family, reply: str, answer: str = "", **more: Any) -> Written:
    """Equal in portions of every size."""
    first, *others = (
        written(family, reply, answer, size=size, **more) for size in (SIZES if SOME.get() == 1 else SIZES[3:4])
    )
    for other in others:
        assert other.chain.ids.unseal() == first.chain.ids.unseal()
        assert (other.chain.text, other.chain.visible) == (first.chain.text, first.chain.visible)
        assert other.chain.ending == first.chain.ending
        assert other.chain.thought.unseal() == first.chain.thought.unseal()
    return first


@pytest.mark.parametrize("family", THINKING, ids=str)
def test_a_thought_is_hidden_and_its_answer_is_not(family: Family) -> None:
    found = everywhere(family, thought(family) + answered(family))
    assert found.chain.text == ANSWER
    assert found.chain.ending == "finished"
    assert "xyzzy again" in found.chain.thought.unseal()
    assert ANSWER not in found.chain.thought.unseal()
    assert len(found.prompts) == 1


@pytest.mark.parametrize("family", FAMILIES, ids=str)
def test_without_a_thought_all_is_answer(family: Family) -> None:
    found = everywhere(family, answered(family), thinking=0)
    assert found.chain.text == ANSWER
    assert found.chain.hidden == 0
    assert found.chain.thought.unseal() == ""


@pytest.mark.parametrize("wish", [{}, {"logprobs": 0}, {"until": "never there"}], ids=str)
@pytest.mark.parametrize("family", THINKING, ids=str)
def test_a_thought_is_closed_at_its_budget_and_answered(family: Family, wish: dict[str, Any]) -> None:
    if "until" in wish:
        step = everywhere(family, THOUGHT * 50, thinking=40, **wish)
        assert (step.chain.thinking, step.chain.text, step.chain.hidden) == (True, "", 40)
        found = everywhere(family, THOUGHT * 50, answered(family), thinking=0, after=step)
        assert found.chain.hidden == 0
    else:
        found = everywhere(family, THOUGHT * 50, answered(family), thinking=40, **wish)
        assert found.chain.hidden == 40
    assert found.chain.forced
    assert found.chain.text == ANSWER
    assert found.chain.ending == "finished"


@pytest.mark.parametrize("family", THINKING, ids=str)
def test_every_budget_ends_outside_of_the_thought(family: Family) -> None:
    reply = thought(family) + answered(family)
    for budget in places(family, 100):
        found = written(family, reply, answered(family), thinking=budget, size=3, tight=True)
        assert found.chain.text == ANSWER, budget
        assert found.chain.hidden <= budget


@pytest.mark.parametrize("family", THINKING, ids=str)
@pytest.mark.parametrize(
    "wish", [{"logprobs": 0}, {"stop": ("nobody says",)}, {"grammar": Grammar('{"n": 1}')}], ids=str
)
def test_an_answer_that_is_drawn_by_itself_begins_behind_the_thought(family: Family, wish: dict[str, Any]) -> None:
    answer = '{"n": 19}' if "grammar" in wish else ANSWER
    found = everywhere(family, thought(family) + answer + family.answer_wrapped_in[1], answer, **wish)
    assert found.chain.text == answer
    assert len(found.prompts) == 2
    assert "xyzzy again" in found.prompts[1]
    assert answer not in found.prompts[1]
    if "logprobs" in wish:
        assert b"".join(token.bytes for token in found.chain.logprobs).decode().strip() == ANSWER


@pytest.mark.parametrize("family", THINKING, ids=str)
def test_an_answer_goes_on_from_any_place(family: Family) -> None:
    reply = thought(family) + answered(family)
    whole = written(family, reply)
    for room in places(family, whole.chain.visible):
        half = written(family, reply, room=room, tight=True, size=3)
        assert ANSWER.startswith(half.chain.text) or half.chain.text.startswith(ANSWER)
        rest = written(family, reply, answered(family), thinking=0, after=half, size=3)
        assert rest.chain.text.startswith(half.chain.text)
        if half.chain.text and ANSWER.startswith(half.chain.text):
            assert rest.chain.text == ANSWER, room


@pytest.mark.parametrize("family", THINKING, ids=str)
def test_a_thought_goes_on_from_any_place(family: Family) -> None:
    reply = thought(family) + answered(family)
    whole = written(family, reply)
    for cut in places(family, whole.chain.hidden):
        half = written(family, reply, thinking=cut, size=3, until="nowhere")
        assert half.chain.thinking
        rest = written(family, reply, answered(family), after=half, size=3)
        assert rest.chain.text == ANSWER, cut
        assert rest.chain.ids.unseal() == whole.chain.ids.unseal()
        assert rest.chain.thought.unseal() == whole.chain.thought.unseal()


def shown(family: Family) -> str:
    """A call as it is read: as it is written."""
    call = family.calls_get_weather_as
    for mark in family.answer_wrapped_in[1], "\n<answer>\n":
        call = call.replace(mark, "") if mark else call
    return call


@pytest.mark.parametrize("family", FAMILIES, ids=str)
@pytest.mark.parametrize("thinking", [0, 1000])
def test_a_call_is_read_as_it_is_written(family: Family, thinking: int) -> None:
    call = family.calls_get_weather_as
    ends = "" if not family.thinks or not thinking else family.thought_ends
    if call.startswith(HARMONY):
        ends, call = ("<|end|>", call) if thinking else ("", call.removeprefix(HARMONY))
        found = everywhere(
            family, THOUGHT * bool(thinking) + ends + call + "<|call|>", thinking=thinking, tools=True, eos=False
        )
        assert found.chain.text == family.calls_get_weather_as + "<|call|>"
    else:
        if family.answer_wrapped_in[1] and call.startswith("\n"):
            ends = ends.removesuffix("\n<answer>\n")
        found = everywhere(family, THOUGHT * bool(ends) + ends + call, thinking=thinking, tools=True)
        assert found.chain.text.strip() == shown(family).strip()
    assert found.chain.ending == "finished"


@pytest.mark.parametrize("family", THINKING, ids=str)
def test_a_thought_that_has_ended_is_opened_again_with_words_that_are_no_markers(family: Family) -> None:
    """As if the model had written them in place of the end; the end is paid."""
    ended = everywhere(family, thought(family) + answered(family), unanswered=True)
    assert (ended.chain.ending, ended.chain.text, ended.streamed) == ("step", "", "")
    assert not ended.chain.thinking
    end = engine(family).model.profile.end
    chain = engine(family).reopened(ended.chain, f"Wait{end}, no")
    assert chain is not None
    assert chain.thinking
    assert chain.hidden == ended.chain.hidden
    assert chain.thought.unseal().replace(end, "").endswith("xyzzy again\nWait, no")
    found = everywhere(family, "", thought(family) + answered(family), after=replace(ended, chain=chain))
    assert found.chain.text == ANSWER
    assert found.chain.thought.unseal().count("xyzzy again") == 2
    assert found.chain.ids.unseal()[: chain.length] == chain.ids.unseal()


@pytest.mark.parametrize("family", THINKING, ids=str)
def test_a_thought_that_was_closed_by_force_is_not_opened_again(family: Family) -> None:
    ended = written(family, thought(family) + answered(family), thinking=4, unanswered=True)
    assert (ended.chain.ending, ended.chain.forced) == ("step", True)
    assert engine(family).reopened(ended.chain, "Wait") is None


@pytest.mark.parametrize("family", THINKING, ids=str)
def test_a_call_begun_within_a_thought_ends_it(family: Family) -> None:
    call = family.calls_get_weather_as
    if call.startswith(HARMONY) or (family.answer_wrapped_in[1] and call.startswith("\n")):
        return
    found = everywhere(family, THOUGHT + "\n\n" + call, tools=True)
    assert found.chain.text.strip() == call
    assert found.chain.ending == "finished"
    # Where no tools are offered it is talk about calls.
    talk = everywhere(family, THOUGHT + "\n\n" + call + thought(family) + answered(family))
    assert talk.chain.text == ANSWER


@pytest.mark.parametrize("family", THINKING, ids=str)
def test_a_second_thought_is_hidden_too(family: Family) -> None:
    if family.answer_wrapped_in[1]:
        return
    again = (
        family.thought_begins
        if "<|message|>" not in family.special_tokens
        else f"<|end|>{HARMONY}{family.thought_begins}"
    )
    found = everywhere(family, thought(family) + "One. " + again + thought(family) + "Two.")
    assert found.chain.text.replace("\n", "") == "One. Two."
    assert found.chain.thought.unseal().count("xyzzy again") == 2
