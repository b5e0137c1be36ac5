"""OpenAI's completions: raw texts are gone on with, the caller's own come back where asked, thoughts never do."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import httpx
import openai
import pytest
from fastapi import FastAPI

from ponder.compute.text import Prompt
from ponder.server.auth.keys import digest
from ponder.server.dialects.openai_completions.answer_schema import TextCompletion, TextCompletionChunk
from ponder.server.dialects.openai_completions.dialect import OpenAICompletions
from ponder.server.settings import KeySettings, Settings
from ponder.testing import MARKER, Chain, ScriptedEngine, check_dialect
from tests.server.callers import CompletionsCaller
from tests.server.serving import ask, counted, door, events, refused, scripted, serving, written

PATH = OpenAICompletions.path
ASK: dict[str, Any] = {"model": "demo", "prompt": "3 + 4 is", "max_tokens": -1}


def asked(app: FastAPI, headers: dict[str, str] | None = None, **body: Any) -> httpx.Response:
    return ask(app, url=PATH, json=ASK | body, headers=headers)


def answered(app: FastAPI, **body: Any) -> dict[str, Any]:
    response = asked(app, **body)
    assert response.status_code == 200, response.text
    return response.json()


def follows(prompt: Prompt, thought: str, call: int) -> Chain:
    """A model that repeats the text it goes on with."""
    assert prompt.raw is not None
    assert prompt.messages == ()
    text = prompt.raw.text
    return Chain(f"{MARKER} about it", (text if isinstance(text, str) else "".join(map(chr, text))) + "!")


def test_it_keeps_what_every_dialect_promises() -> None:
    check_dialect(OpenAICompletions(), CompletionsCaller())


def test_a_text_is_gone_on_with_as_it_stands() -> None:
    engine = ScriptedEngine(follows)
    told = answered(door(engine, strategy="majority_vote"))
    assert told["choices"] == [{"index": 0, "text": "3 + 4 is!", "logprobs": None, "finish_reason": "stop"}]
    assert told["object"] == "text_completion"
    assert told["thinking"]["strategy"] == "direct"
    assert told["usage"]["prompt_tokens"] == len("3 + 4 is")
    TextCompletion.model_validate(told, strict=True)


@pytest.mark.parametrize(
    ("prompt", "texts"),
    [
        (["a", "bc"], ["a!", "bc!"]),
        ([100, 101], ["de!"]),
        ([[100], [101, 102]], ["d!", "ef!"]),
    ],
)
@pytest.mark.parametrize("n", [1, 2])
@pytest.mark.parametrize("stream", [False, True])
def test_several_prompts_are_answered_in_their_order_and_all_is_counted(
    prompt: list[Any], texts: list[str], n: int, stream: bool
) -> None:
    engine = ScriptedEngine(follows, cached=1)
    app = door(engine)
    response = asked(
        app,
        prompt=prompt,
        n=n,
        stream=stream,
        seed=3,
        stream_options={"include_usage": True},
    )
    assert response.status_code == 200, response.text
    told = events(response.text) if stream else [response.json()]
    choices = [choice for one in told for choice in one["choices"]]
    found = ["".join(c["text"] for c in choices if c["index"] == i) for i in range(len(texts) * n)]
    assert found == [text for text in texts for _ in range(n)]
    usage = told[-1]["usage"]
    length = sum(len(text) - 1 for text in texts)
    assert (usage["prompt_tokens"], usage["completion_tokens"]) == (length, engine.produced)
    assert usage["prompt_tokens_details"]["cached_tokens"] == len(texts)
    assert written(app) == engine.produced
    assert MARKER not in response.text
    assert len({sampling.seed for sampling in engine.samplings}) == n


@pytest.mark.parametrize("stream", [False, True])
def test_the_callers_own_prompt_comes_back_where_it_is_asked_for(stream: bool) -> None:
    app = door(scripted(Chain(MARKER, " sev\u00e9n")))
    response = asked(app, echo=True, logprobs=0, stream=stream)
    told = events(response.text) if stream else [response.json()]
    choices = [choice for one in told for choice in one["choices"]]
    assert "".join(choice["text"] for choice in choices) == "3 + 4 is sev\u00e9n"
    tokens = [token for c in choices if c["logprobs"] for token in c["logprobs"]["tokens"]]
    offsets = [offset for c in choices if c["logprobs"] for offset in c["logprobs"]["text_offset"]]
    assert "".join(tokens) == " sev\u00e9n"
    assert offsets == list(range(8, 14))


def test_log_probabilities_have_the_shape_of_completions() -> None:
    told = answered(door(scripted(Chain(MARKER, "ab"))), logprobs=2)["choices"][0]["logprobs"]
    assert told == {
        "tokens": ["a", "b"],
        "token_logprobs": [-0.1, -0.1],
        "top_logprobs": [{"a": -0.1}, {"b": -0.1}],
        "text_offset": [0, 1],
    }


def test_sixteen_tokens_are_written_where_nothing_is_said() -> None:
    app = door(scripted(Chain(MARKER, "x" * 40)))
    choice = answered(app, max_tokens=None)["choices"][0]
    assert (choice["text"], choice["finish_reason"]) == ("x" * 16, "length")
    choice = answered(app, max_tokens=20, thinking_budget=4)["choices"][0]
    assert (len(choice["text"]), choice["finish_reason"]) == (16, "length")
    assert answered(app, max_tokens=-1)["choices"][0]["finish_reason"] == "stop"


@pytest.mark.parametrize(
    ("body", "code", "param"),
    [
        ({"prompt": None}, "invalid_type", "prompt"),
        ({"prompt": ""}, "invalid_value", "prompt"),
        ({"prompt": []}, "invalid_type", "prompt"),
        ({"prompt": ["a", 3]}, "invalid_type", "prompt.1"),
        ({"prompt": [-1]}, "invalid_type", "prompt.0"),
        ({"prompt": [0x110000]}, "invalid_value", "prompt"),
        ({"prompt": [0xD800, 97]}, "invalid_value", "prompt"),
        ({"prompt": ["a"] * 65}, "too_many", "prompt"),
        ({"prompt": "x" * 100_001}, "context_length_exceeded", "prompt"),
        ({"max_tokens": 0}, "invalid_value", "max_tokens"),
        ({"best_of": 3}, "unsupported_parameter", "best_of"),
        ({"prompt": [1], "echo": True}, "unsupported_parameter", "echo"),
        ({"strategy": "majority_vote"}, "unsupported_parameter", "strategy"),
        ({"strategy": "auto"}, "unsupported_parameter", "strategy"),
        ({"model": "demo:best_of_n"}, "unsupported_parameter", "model"),
        ({"messages": [{"role": "user", "content": "x"}]}, "unsupported_parameter", "messages"),
        ({"response_format": {"type": "json_object"}}, "unsupported_parameter", "response_format"),
        ({"repetition_penalty": 1.2}, "unsupported_parameter", "repetition_penalty"),
        ({"logprobs": 21}, "above_max_value", "logprobs"),
        ({"stream_options": {"include_usage": True}, "n": 0}, "invalid_value", "n"),
        ({"thinkng_budget": 3}, "unknown_parameter", "thinkng_budget"),
        ({"logit_bias": {"a": 1}}, "invalid_value", "logit_bias"),
    ],
)
def test_what_is_wrong_or_not_offered_is_named(body: dict[str, Any], code: str, param: str) -> None:
    message = refused(asked(door(scripted()), **body), 400, code, param)
    assert "messages" not in message or "messages" in body


def test_what_changes_nothing_is_taken() -> None:
    app = door(scripted())
    for body in ({"best_of": 0}, {"best_of": 1}, {"n": 2, "best_of": 2}, {"logit_bias": {"foo": 0}}, {"suffix": None}):
        answered(app, **body)
    answered(app, model="demo:direct", strategy="direct", user="u-1", top_k=3, min_p=0.1, suffix="end")
    assert asked(app, wibble=1).headers["x-ignored-parameters"] == "wibble"


def test_stop_strings_penalties_and_biases_reach_the_model() -> None:
    engine = scripted(Chain(MARKER, "one two three"))
    told = answered(
        door(engine), stop=[" three", "zzz"], presence_penalty=1, frequency_penalty=-1, logit_bias={"7": -3}
    )
    assert told["choices"][0]["text"] == "one two"
    (sampling,) = engine.samplings
    assert (sampling.presence_penalty, sampling.frequency_penalty, sampling.logit_bias) == (1, -1, ((7, -3),))


def test_a_thought_is_shown_to_keys_that_may_see_it_alone() -> None:
    keys = [
        KeySettings(name="plain", hash=digest("plain")),
        KeySettings(name="reveal", hash=digest("reveal"), scopes=frozenset({"infer", "reveal"})),
    ]
    for stream in (False, True):
        for name in ("plain", "reveal"):
            app = door(scripted(), Settings(keys=keys))
            response = asked(app, {"authorization": f"Bearer {name}"}, include_reasoning=True, stream=stream)
            assert (MARKER in response.text) == (name == "reveal"), response.text


@pytest.mark.parametrize("usage", [False, True])
def test_a_stream_has_the_shape_of_openais(usage: bool) -> None:
    chunks = events(asked(door(scripted()), stream=True, n=2, stream_options={"include_usage": usage}).text)
    for chunk in chunks:
        TextCompletionChunk.model_validate(chunk, strict=True)
        assert ("usage" in chunk) == usage
    assert len({chunk["id"] for chunk in chunks}) == 1
    last = chunks[-1]
    assert last["thinking"]["strategy"] == "direct"
    assert (last["choices"] == []) == usage
    if usage:
        assert last["usage"]["completion_tokens_details"]["reasoning_tokens"] == last["thinking"]["spent"]


def test_no_budget_is_violated() -> None:
    app = door(scripted())
    for budget in (0, 1, 7, 60):
        told = answered(app, thinking_budget=budget)
        assert told["usage"]["completion_tokens_details"]["reasoning_tokens"] <= budget
    assert counted(app, "ponder_budget_violations_total") == 0


@pytest.fixture(scope="module")
def client() -> Generator[openai.OpenAI]:
    with serving(door(ScriptedEngine(follows))) as place:
        yield openai.OpenAI(base_url=f"{place.url}/v1", api_key="none", max_retries=0)


def test_openais_client_reads_it_whole_and_streamed(client: openai.OpenAI) -> None:
    whole = client.completions.create(model="demo", prompt=["a", "bc"], logprobs=1, echo=True, max_tokens=64)
    assert [choice.text for choice in whole.choices] == ["aa!", "bcbc!"]
    assert whole.usage is not None
    stream = client.completions.create(model="demo", prompt="abc", stream=True, max_tokens=64)
    assert "".join(chunk.choices[0].text for chunk in stream if chunk.choices) == "abc!"
    with pytest.raises(openai.BadRequestError, match="best_of is not supported"):
        client.completions.create(model="demo", prompt="a", best_of=4)
