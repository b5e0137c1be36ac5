"""Turns of messages, as harmony writes them: which are hidden, which are read, and how a call looks."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from functools import cache
from typing import Any

import pytest

from ponder.compute.budget import Budget, Spending
from ponder.compute.engine import CallSchema, Grammar, Sampling
from ponder.compute.errors import EngineError
from ponder.compute.text import Candidate, Message, Prompt, Tool
from ponder.compute.transcript import Transcript
from ponder.engines.profiles import PROFILES
from ponder.engines.thinking import Splitter
from ponder.engines.vllm import VllmEngine
from ponder.engines.vocabulary import Vocabulary
from tests.engines.family_models import OWN, families, tokenizer
from tests.engines.replies import Replies

FAMILY = next(family for family in families(OWN) if family.model == "own/channels")
HEAD = "<|start|>assistant"
ARGUMENTS = '{"city": "Paris"}'
TOOL = Tool("get_weather", "Tells it.", '{"type": "object"}')
CALLING = Grammar(calls=(CallSchema("get_weather", '{"type": "object"}'),), document=False)
SIZES = (1, 2, 3, 1000)


@cache
def engine() -> VllmEngine:
    tokens = tokenizer(FAMILY)
    return VllmEngine(Replies(tokens, "", "", eos=FAMILY.eos), tokens, PROFILES["gpt-oss"], "channels")


def written(
    reply: str, answer: str = "", *, thinking: int = 500, tools: bool = True, size: int = 1000, **wishes: Any
) -> tuple[Candidate, Replies]:
    made = engine()
    made.llm = llm = Replies(made.llm.get_tokenizer(), reply, answer, size, FAMILY.eos)
    reservation = Spending(Budget(thinking, 500)).reserve("test", thinking=thinking, answer=500, bound=True)
    prompt = Prompt((Message("user", "How many?"),), tools=(TOOL,) if tools else ())
    transcript = Transcript(reservation, prompt)

    async def go() -> str:
        sampling = Sampling(thinking, 500, streamed=True, **wishes)
        async with aclosing(made.generate(prompt, sampling, transcript)) as stream:
            return "".join([delta.text async for delta in stream])

    streamed = asyncio.run(go())
    chain = transcript.candidate()
    assert streamed == chain.text
    assert chain.tokens == llm.made
    assert chain.hidden <= thinking
    return chain, llm


def text_of(llm: Replies, call: int) -> str:
    """What a call goes on with."""
    return llm.tokenizer.decode(llm.prompts[call], skip_special_tokens=False)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    "head",
    [
        " to=functions.get_weather<|channel|>commentary json<|message|>",
        " to=functions.get_weather<|channel|>analysis<|message|>",
        "<|channel|>commentary to=functions.get_weather <|constrain|>json<|message|>",
        " to=get_weather<|channel|>commentary <|constrain|>json<|message|>",
    ],
)
@pytest.mark.parametrize("thinking", [0, 500])
def test_a_call_is_read_from_its_head_to_its_end(head: str, size: int, thinking: int) -> None:
    reply = f"xyzzy<|end|>{HEAD}" * bool(thinking) + f"{head}{ARGUMENTS}<|call|>"
    chain, _ = written(reply, thinking=thinking, size=size)
    assert chain.text == f"{HEAD}{head}{ARGUMENTS}<|call|>"
    assert chain.thought.unseal() == "xyzzy" * bool(thinking)
    assert chain.ending == "finished"


@pytest.mark.parametrize("size", SIZES)
def test_messages_of_thought_are_hidden_and_what_is_said_before_a_call_is_not(size: int) -> None:
    reply = (
        f"xyzzy one<|end|>{HEAD}<|channel|>analysis<|message|>xyzzy two<|end|>"
        f"{HEAD} to=python<|channel|>analysis code<|message|>xyzzy()<|end|>"
        f"{HEAD}<|channel|>commentary<|message|>I look.<|end|>"
        f"{HEAD}<|channel|>analysis<|message|>xyzzy three<|end|>"
        f"{HEAD}<|channel|>commentary to=functions.get_weather json<|message|>{ARGUMENTS}<|call|>"
    )
    chain, _ = written(reply, size=size)
    call = f"{HEAD}<|channel|>commentary to=functions.get_weather json<|message|>{ARGUMENTS}<|call|>"
    assert chain.text == "I look." + call
    assert chain.thought.unseal() == "xyzzy one\n\nxyzzy two\n\nxyzzy()\n\nxyzzy three"


@pytest.mark.parametrize("size", SIZES)
def test_two_messages_of_answer_are_paragraphs(size: int) -> None:
    reply = f"xyzzy<|end|>{HEAD}<|channel|>commentary<|message|>First.<|end|>{HEAD}<|channel|>final<|message|>Second."
    chain, _ = written(f"{reply}<|return|>", size=size)
    assert chain.text == "First.\n\nSecond."


@pytest.mark.parametrize("size", SIZES)
def test_a_channel_that_is_not_known_is_hidden_and_the_answer_asked_for(size: int) -> None:
    chain, llm = written(f"xyzzy<|end|>{HEAD}<|channel|>secret<|message|>xyzzy<|return|>", "7<|return|>", size=size)
    assert chain.text == "7"
    assert chain.forced
    assert text_of(llm, 1).endswith(f"secret<|message|>xyzzy<|end|>{HEAD}")


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("tools", [False, True])
def test_closed_at_any_token_of_a_head_it_is_finished_and_answered(tools: bool, size: int) -> None:
    """With tools the model chooses what follows the thought, so a head that is begun is left to it."""
    reply = f"xy<|end|>{HEAD}<|channel|>final<|message|>7<|return|>"
    for thinking in range(1, 40):
        chain, _ = written(reply, "<|channel|>final<|message|>7<|return|>" if tools else "7<|return|>",
                           thinking=thinking, tools=tools, size=size, logprobs=0)  # fmt: skip
        assert chain.text == "7", thinking
        assert [token.text for token in chain.logprobs] == ["7"]


def test_a_thought_that_is_begun_again_without_a_budget_is_banned_and_hidden_all_the_same() -> None:
    chain, llm = written(
        f"<|channel|>analysis<|message|>xyzzy<|end|>{HEAD}<|channel|>final<|message|>7<|return|>", thinking=0
    )
    assert llm.params[0].bad_words == ["<|channel|>analysis"]
    assert chain.text == "7"
    assert chain.hidden == 0


@pytest.mark.parametrize("size", SIZES)
def test_stop_strings_are_not_looked_for_in_heads(size: int) -> None:
    chain, llm = written("<|channel|>final<|message|>It is final.<|return|>", thinking=0, stop=("final",), size=size)
    assert chain.text == "It is "
    assert chain.ending == "stop"
    assert not llm.params[0].stop


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("thinking", [0, 2, 500])
def test_a_grammar_of_calls_writes_the_head_too(thinking: int, size: int) -> None:
    call = f"{HEAD} to=functions.get_weather<|channel|>commentary json<|message|>{ARGUMENTS}<|call|>"
    reply = f"xyzzy<|end|>{call}" if thinking else call
    chain, llm = written(reply, call, thinking=thinking, size=size, grammar=CALLING)
    assert chain.text == call
    assert chain.ending == "finished"
    assert not text_of(llm, -1).endswith(HEAD)
    assert llm.params[-1].extra_args is None


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("thinking", [0, 2, 500])
def test_a_grammar_of_documents_begins_in_the_final_message(thinking: int, size: int) -> None:
    """What the model would call instead is hidden."""
    call = f"<|end|>{HEAD} to=functions.get_weather<|channel|>commentary json<|message|>{ARGUMENTS}<|call|>"
    reply = f"xyzzy{call}" if thinking else '{"n":7}<|return|>'
    chain, llm = written(reply, '{"n":7}<|return|>', thinking=thinking, size=size, grammar=Grammar())
    assert chain.text == '{"n":7}'
    assert text_of(llm, -1).endswith(f"{HEAD}<|channel|>final<|message|>")


def test_tokens_that_are_not_there_are_named() -> None:
    other = next(family for family in families(OWN) if family.model == "own/single-tokens")
    with pytest.raises(EngineError, match=r"no <\|start\|>, <\|end\|>, <\|channel\|>, <\|message\|>"):
        Vocabulary.of(tokenizer(other).backend_tokenizer, PROFILES["gpt-oss"])


def test_an_answer_without_a_head_is_read() -> None:
    chain, _ = written("It is 7.<|return|>", thinking=0)
    assert chain.text == "It is 7."


def test_a_splitter_alone_begins_in_a_message() -> None:
    vocabulary = Vocabulary.of(tokenizer(FAMILY).backend_tokenizer, PROFILES["gpt-oss"])
    ids = vocabulary.tokenizer.encode(f"xyzzy<|end|>{HEAD}<|channel|>final<|message|>7", add_special_tokens=False).ids
    assert "".join(part.text for part in Splitter(vocabulary, inside=True).feed(ids)) == "7"
