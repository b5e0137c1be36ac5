"""A summary of the thinking through the door: asked for, told, billed, and never the thought."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ponder.compute.lengths import Lengths
from ponder.compute.text import Prompt
from ponder.server.auth.keys import digest
from ponder.server.sealed_thoughts import SealedThoughts
from ponder.server.settings import KeySettings, Settings
from ponder.testing import MARKER, Chain, ScriptedEngine
from ponder.testing.scripted import question
from tests.compute.test_summary import OWN, THOUGHT, engine
from tests.engines.scripted_vllm import FAMILIES, Nature, ScriptedVllm
from tests.engines.scripted_vllm import engine as real
from tests.server.serving import answered, ask, chat, door, events, its_door, written

WISH: dict[str, Any] = {"reasoning": {"summary": "auto"}, "thinking_budget": 4000}
STRATEGIES = ["direct", "majority_vote", "best_of_n", "revision", "beam_search", "auto"]


def told(response: Any) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """(the first message, usage, thinking) of an answer, streamed or not."""
    assert response.status_code == 200, response.text
    if "event-stream" not in response.headers["content-type"]:
        whole = response.json()
        return whole["choices"][0]["message"], whole["usage"], whole["thinking"]
    chunks, message = events(response.text), dict[str, Any]()
    for delta in (choice["delta"] for chunk in chunks for choice in chunk["choices"] if choice["index"] == 0):
        for name, value in delta.items():
            message[name] = message[name] + value if name in message else value
    return message, chunks[-1]["usage"], chunks[-1]["thinking"]


def streamed(stream: bool) -> dict[str, Any]:
    return {"stream": True, "stream_options": {"include_usage": True}} if stream else {}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_it_comes_with_the_answer_and_is_counted_as_reasoning(strategy: str, stream: bool) -> None:
    app = door(engine(OWN))
    response = chat(app, strategy=strategy, seed=1, **WISH, **streamed(stream))
    message, usage, thinking = told(response)
    assert message["reasoning_details"] == [
        {"type": "reasoning.summary", "summary": OWN, "format": "unknown", "index": 0}
    ]
    assert message["reasoning"] == message["reasoning_content"] == OWN
    assert message["content"] == "It is 12."
    assert "no_summary" not in thinking
    assert MARKER not in response.text
    reasoning = usage["completion_tokens_details"]["reasoning_tokens"]
    assert reasoning == thinking["spent"] == usage["completion_tokens"] - len("It is 12.")
    calls = ask(app, "GET", f"/v1/traces/{response.headers['x-request-id']}").json()["choices"][0]["calls"]
    assert sum(call["tokens"]["hidden"] + call["tokens"]["visible"] for call in calls) == usage["completion_tokens"]
    assert calls[-1]["purpose"] == "summary"
    assert written(app) == usage["completion_tokens"]


@pytest.mark.parametrize("stream", [False, True])
def test_nobody_who_does_not_ask_gets_one(stream: bool) -> None:
    model = engine(OWN)
    app = door(model)
    message, _, thinking = told(chat(app, **streamed(stream)))
    assert set(message) <= {"role", "content", "refusal"}
    assert "no_summary" not in thinking
    assert model.calls == 1


@pytest.mark.parametrize("stream", [False, True])
def test_where_there_is_none_the_answer_says_why(stream: bool) -> None:
    for budget, why in ((0, "no_thought"), (len(THOUGHT) + 2, "no_budget")):
        body = {**WISH, "thinking_budget": budget, "seed": 1}
        message, _, thinking = told(chat(door(engine(OWN)), **body, **streamed(stream)))
        assert message["content"] == "It is 12."
        assert thinking["no_summary"] == why
        assert "reasoning_details" not in message


def test_each_of_several_answers_has_its_own() -> None:
    choices = answered(door(engine("First words.", "Second words.")), n=2, **WISH)["choices"]
    assert sorted(one["message"]["reasoning"] for one in choices) == ["First words.", "Second words."]


def test_with_the_sealed_thought_both_are_there_and_the_thought_itself_where_that_is_revealed() -> None:
    scopes: Any = frozenset({"infer", "reveal"})
    app = door(engine(OWN), Settings(keys=[KeySettings(name="ann", hash=digest("pk-ann"), scopes=scopes)]))
    body = {**WISH, "include": ["reasoning.encrypted_content"], "include_reasoning": True}
    message, _, _ = told(chat(app, {"authorization": "Bearer pk-ann"}, **body))
    assert [one["type"] for one in message["reasoning_details"]] == ["reasoning.summary", "reasoning.encrypted"]
    assert message["reasoning"] == THOUGHT


@pytest.mark.parametrize("stream", [False, True])
def test_a_seal_counts_the_summary_among_the_tokens_of_its_loop(stream: bool) -> None:
    seals = SealedThoughts([b"s" * 32])
    app = door(engine(OWN), seals=seals)
    body = {**WISH, "include": ["reasoning.encrypted_content"], "thinking_budget_scope": "loop"}
    message, usage, _ = told(chat(app, **body, **streamed(stream)))
    (seal,) = [one["data"] for one in message["reasoning_details"] if one["type"] == "reasoning.encrypted"]
    assert seals.open(seal, "anyone", "demo").spent == usage["completion_tokens_details"]["reasoning_tokens"]


def test_an_operator_may_allow_none() -> None:
    model = engine(OWN)
    response = chat(door(model, Settings(summaries=False)), **WISH)
    assert response.headers["x-ignored-parameters"] == "reasoning.summary"
    assert "reasoning_details" not in response.json()["choices"][0]["message"]
    assert model.calls == 1


def test_coarse_numbers_do_not_tell_why_there_is_none() -> None:
    key = KeySettings(name="ann", hash=digest("pk-ann"), scopes=frozenset({"infer"}), coarse_tokens=64)
    app = door(engine("copies"), Settings(keys=[key]))
    _, usage, thinking = told(chat(app, {"authorization": "Bearer pk-ann"}, **WISH))
    assert "no_summary" not in thinking
    assert usage["completion_tokens_details"]["reasoning_tokens"] % 64 == 0


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("length", ["auto", "concise", "detailed"])
def test_a_model_that_copies_its_thought_shows_nothing_of_it(length: str, strategy: str, stream: bool) -> None:
    app = door(engine("copies"), Settings(retain_text=True))
    body = {**WISH, "reasoning": {"summary": length}, "strategy": strategy}
    response = chat(app, **body, **streamed(stream))
    _, _, thinking = told(response)
    assert thinking["no_summary"] == "too_close"
    for told_ in (response, ask(app, "GET", f"/v1/traces/{response.headers['x-request-id']}")):
        assert MARKER not in told_.text
    assert MARKER not in its_door(app).metrics.render()[0].decode()


class Copying(ScriptedVllm):
    """Writes its thought in place of an answer where it is asked for a summary."""

    def begin(self, number: str, prompt: list[int], params: Any) -> Any:
        self.copied = getattr(self, "copied", 0) + ("Between the marks" in self.text(prompt))
        return super().begin(number, prompt, params)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("family", [name for name in FAMILIES if name != "silent"])
def test_the_real_engine_is_asked_behind_the_answer(family: str, stream: bool) -> None:
    llm = Copying(FAMILIES[family], Nature(letters=True))
    app = door(real(llm), lengths=Lengths(20, 40))
    response = chat(app, strategy="direct", **WISH, **streamed(stream))
    message, usage, thinking = told(response)
    assert message["content"] == "The answer is 7."
    assert llm.copied >= 1
    assert message.get("reasoning") == "The answer is 7." or thinking["no_summary"]
    assert usage["completion_tokens"] == llm.made
    assert MARKER not in response.text


def test_it_is_refused_by_name_where_it_is_no_word_of_ours() -> None:
    response = chat(door(engine(OWN)), reasoning={"summary": "long"})
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "reasoning.summary"


def test_in_a_stream_it_comes_before_the_end_and_behind_the_text() -> None:
    chunks = [chunk["choices"][0] for chunk in events(chat(door(engine(OWN)), stream=True, **WISH).text)]
    order = [next(iter(chunk["delta"]), chunk["finish_reason"]) for chunk in chunks]
    assert order[-3:] == ["reasoning", "reasoning_details", "stop"]
    assert "content" in order[-4]


def test_a_question_about_marks_is_not_taken_for_one_of_ours() -> None:
    def script(prompt: Prompt, thought: str, call: int) -> Chain:
        return Chain("Hm, hm and hm again.", json.dumps(question(prompt)[:9]))

    assert answered(door(ScriptedEngine(script)), **WISH)["choices"][0]["message"]["content"] == '"What is 3"'
