"""The log-probabilities of an answer spell it: no white space before it, nothing of a stop string, of every family."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import Any

import pytest

from ponder.compute.budget import Budget, Spending
from ponder.compute.engine import Delta, Sampling
from ponder.compute.text import Candidate, Message, Prompt, TokenLogprob
from ponder.compute.transcript import Transcript
from ponder.engines.logprobs import Spelling
from tests.engines.scripted_vllm import FAMILIES, Nature, ScriptedVllm, engine


def written(family: str, portion: int, nature: Nature, **wishes: Any) -> tuple[Candidate, list[Delta]]:
    llm = ScriptedVllm(FAMILIES[family], nature, portions=(portion,))

    async def go() -> tuple[Candidate, list[Delta]]:
        reservation = Spending(Budget(1000, 1000)).reserve("test", thinking=300, answer=200, bound=True)
        prompt = Prompt((Message("user", "How many?"),))
        transcript = Transcript(reservation, prompt)
        sampling = Sampling(thinking=300, answer=200, logprobs=0, streamed=True, **wishes)
        async with aclosing(engine(llm).generate(prompt, sampling, transcript)) as stream:
            deltas = [delta async for delta in stream]
        return transcript.candidate(), deltas

    return asyncio.run(go())


@pytest.mark.parametrize("stop", [(), ("answer",), (" is",), ("wer i",), ("7",), ("e", "is 7")], ids=str)
@pytest.mark.parametrize("letters", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_they_spell_the_answer(family: str, letters: bool, stop: tuple[str, ...]) -> None:
    for portion in (1, 3, 1000):
        chain, deltas = written(family, portion, Nature(letters=letters), stop=stop)
        assert b"".join(token.bytes for token in chain.logprobs).decode() == chain.text
        assert [token for delta in deltas for token in delta.logprobs] == list(chain.logprobs)
        assert all(token.text.encode() == token.bytes for token in chain.logprobs)


def told(*steps: tuple[str, str], last: str = "") -> list[str]:
    """What is told of tokens that come with a text each, a letter for a token where they are spaced apart."""
    spelling, found = Spelling(), list[TokenLogprob]()
    for tokens, text in steps:
        found += spelling.told([TokenLogprob(one, one.encode(), -1.0) for one in tokens.split("|") if one], text)
    return [token.text for token in (*found, *spelling.last(last))]


def test_a_token_that_is_part_of_the_answer_in_part_is_told_as_that() -> None:
    assert told(("\n\n|The| sky", "The sky")) == ["The", " sky"]
    assert told(("\n\nThe| sky", "The sky")) == ["The", " sky"]
    assert told(("The| sky|. End", "The sky"), last=".") == ["The", " sky", "."]
    assert told(("The", ""), (" s", "The"), ("top", " ")) == ["The", " "]
    assert told(("a|b", "a"), ("|c", "b"), last="c") == ["a", "b", "c"]
    assert told(("a", "a"), ("", "\n\n"), ("b", "b")) == ["a", "b"]
