"""What clients of other servers send, and what they look for in answers: each reads or finds what was meant."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ponder.server.auth.keys import digest
from ponder.server.settings import Settings
from ponder.testing import CARD
from tests.server.serving import answered, ask, chat, door, refused, scripted

SCHEMA = {"type": "object", "properties": {"b": {"type": "integer"}, "a": {"type": "integer"}}}


def budget(**body: Any) -> tuple[int, str]:
    thinking = answered(door(scripted()), **body)["thinking"]
    return thinking["budget"], thinking["budget_source"]


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (
            {"extra_body": {"chat_template_kwargs": {"enable_thinking": False}}},
            (0, "chat_template_kwargs.enable_thinking"),
        ),
        ({"extra_body": {"thinking": {"type": "disabled"}}}, (0, "thinking.type")),
        ({"extra_body": {"reasoning": {"enabled": False}}}, (0, "reasoning.enabled")),
        ({"extra_body": {"thinking_budget": 48}}, (48, "thinking_budget")),
        ({"extra_body": {"thinking_budget": 48}, "thinking_budget": 48}, (48, "thinking_budget")),
        ({"think": False}, (0, "think")),
        ({"think": "low"}, (2048, "think")),
    ],
    ids=str,
)
def test_a_wish_about_thinking_is_found_where_clients_really_put_it(body: dict[str, Any], expected: Any) -> None:
    assert budget(**body) == expected


def test_what_an_extra_body_says_must_not_contradict_the_body() -> None:
    response = chat(door(scripted()), extra_body={"thinking_budget": 48}, thinking_budget=49)
    refused(response, 400, "conflicting_parameters", "thinking_budget")
    refused(chat(door(scripted()), extra_body={"thinkng_budget": 48}), 400, "unknown_parameter")


def test_an_operator_makes_words_for_efforts_and_models_are_told_the_nearest_that_they_know() -> None:
    engine = scripted()
    app = door(engine, Settings(effort={"turbo": 7000}))
    assert answered(app, reasoning_effort="turbo")["thinking"]["budget"] == 7000
    assert engine.prompts[-1].effort == "medium"
    assert answered(app, reasoning_effort="max")["thinking"]["budget_clamped_from"] == 131072
    assert "turbo" in refused(chat(app, reasoning_effort="wild"), 400, param="reasoning_effort")


@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens"])
def test_a_limit_of_minus_one_is_none_and_a_whole_number_may_have_a_point(field: str) -> None:
    app = door(scripted())
    assert answered(app, **{field: -1})["usage"] == answered(app)["usage"]
    assert answered(app, **{field: 256.0})["thinking"]["budget"] == answered(app, **{field: 256})["thinking"]["budget"]
    for wrong in (256.5, -2):
        body: dict[str, Any] = {field: wrong}
        refused(chat(app, None, **body), 400, param=field)
    assert answered(app, n=2.0, seed=7.0)["choices"][1]["index"] == 1
    refused(chat(app, thinking_budget=256.0), 400, param="thinking_budget")


@pytest.mark.parametrize(
    "body",
    [
        {"guided_json": SCHEMA},
        {"structured_outputs": {"json": SCHEMA}},
        {"extra_body": {"guided_json": SCHEMA}},
        {"response_format": {"type": "json_object", "schema": SCHEMA}},
        {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}},
    ],
    ids=str,
)
def test_a_schema_is_held_to_wherever_it_stands(body: dict[str, Any]) -> None:
    engine = scripted()
    chat(door(engine), **body)
    (grammar,) = {sampling.grammar for sampling in engine.samplings}
    assert grammar is not None
    assert json.loads(grammar.schema or "") == SCHEMA


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"guided_choice": ["a", "b"]}, "guided_choice"),
        ({"guided_regex": "a+"}, "guided_regex"),
        ({"structured_outputs": {"choice": ["a"]}}, "structured_outputs"),
        ({"structured_outputs": {"json": SCHEMA, "regex": "a"}}, "structured_outputs"),
        ({"guided_json": SCHEMA, "response_format": {"type": "json_object"}}, "guided_json"),
        ({"guided_json": "{}"}, "guided_json"),
        ({"repetition_penalty": 1.1}, "repetition_penalty"),
        ({"min_tokens": 5}, "min_tokens"),
        ({"stop_token_ids": [5]}, "stop_token_ids"),
        ({"ignore_eos": True}, "ignore_eos"),
        ({"continue_final_message": True}, "continue_final_message"),
        ({"echo": True}, "echo"),
        ({"best_of": 4}, "best_of"),
        ({"extra_body": {"guided_choice": ["a"]}}, "guided_choice"),
    ],
    ids=str,
)
def test_what_would_change_the_result_and_is_not_offered_is_refused_by_name(body: dict[str, Any], param: str) -> None:
    refused(chat(door(scripted()), **body), 400, param=param)


@pytest.mark.parametrize(
    "body",
    [
        {"repetition_penalty": 1.0},
        {"min_tokens": 0},
        {"stop_token_ids": []},
        {"ignore_eos": False},
        {"add_generation_prompt": True},
        {"guided_choice": None},
        {"top_logprobs": 0},
    ],
    ids=str,
)
def test_a_value_that_changes_nothing_is_taken(body: dict[str, Any]) -> None:
    answered(door(scripted()), **body)


def test_a_history_from_other_apis_goes_on_without_the_thoughts_in_it() -> None:
    engine = scripted()
    messages: list[dict[str, Any]] = [
        {"role": "user", "content": [{"type": "input_text", "text": "One?"}]},
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "secret", "signature": "x"},
                {"type": "reasoning", "summary": []},
                {"type": "output_text", "text": "Two."},
            ],
        },
        {"role": "user", "content": "And?"},
        {"role": "assistant", "content": "<think>\nsecret\n</think>\n\nThree."},
        {"role": "user", "content": "<think>mine</think> and?"},
    ]
    answered(door(engine), messages=messages)
    assert [m.content for m in engine.prompts[-1].messages] == [
        "One?",
        "Two.",
        "And?",
        "Three.",
        messages[-1]["content"],
    ]


@pytest.mark.parametrize("kind", [[], {}, 5, None, ["text"]], ids=repr)
def test_a_part_whose_kind_is_no_word_is_refused(kind: Any) -> None:
    messages = [{"role": "user", "content": [{"type": kind, "text": "6 * 7?"}]}]
    refused(chat(door(scripted()), messages=messages), 400, param="messages.0.content.0.type")


def test_a_prompt_too_long_is_told_in_the_words_that_clients_look_for() -> None:
    message = refused(
        chat(door(scripted()), messages=[{"role": "user", "content": "long " * CARD.context}]),
        400,
        "context_length_exceeded",
        "messages",
    )
    assert f"maximum context length is {CARD.context} tokens" in message


def test_models_say_how_long_their_context_is() -> None:
    model = ask(door(scripted()), "GET", "/v1/models/demo").json()
    assert model["max_model_len"] == model["context_length"] == CARD.context


def test_models_say_what_a_key_may_have_think_and_what_it_costs() -> None:
    keys = [
        {"name": "small", "hash": digest("sk-small"), "max_thinking_budget": 512},
        {"name": "any", "hash": digest("sk-any")},
    ]
    prices = {"version": "1", "default": {"input": "0.1", "cached_input": "0.02", "thinking": "0.4", "answer": "0.8"}}
    app = door(scripted(), Settings.model_validate({"keys": keys, "prices": prices}))
    for key, most in (("sk-small", 512), ("sk-any", 1 << 18)):
        model = ask(app, "GET", "/v1/models/demo:direct", headers={"authorization": f"Bearer {key}"}).json()
        assert model["max_thinking_budget"] == most
        assert model["answer_tokens"] == 1024
        assert model["prices"] == {
            "input": 0.1,
            "cached_input": 0.02,
            "thinking": 0.4,
            "answer": 0.8,
            "verifier": 0.1,
        }


def test_half_a_character_is_said_to_be_where_it_is() -> None:
    body = b'{"model": "demo", "messages": [{"role": "user", "content": "\\ud800"}]}'
    response = ask(door(scripted()), content=body, headers={"content-type": "application/json"})
    assert refused(response, 400, "invalid_unicode", "messages.0.content").startswith("messages.0.content")


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/v1//models", 200), ("GET", "/v1/models/", 200), ("GET", "/health", 200), ("GET", "/livez/", 200)],
)
def test_a_slash_too_many_does_no_harm(method: str, path: str, status: int) -> None:
    assert ask(door(scripted()), method, path).status_code == status


def test_what_is_posted_to_a_path_with_a_slash_too_many_is_answered() -> None:
    for path in ("/v1//chat/completions", "/v1/chat/completions/"):
        body = {"model": "demo", "messages": [{"role": "user", "content": "What is 3 + 4?"}]}
        assert ask(door(scripted()), "POST", path, json=body).status_code == 200


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("/chat/completions", "/v1/chat/completions"),
        ("/v1/chat/completion", "/v1/chat/completions"),
        ("/models", "/v1/models"),
        ("/v1/embeddings", "no embeddings"),
        ("/embeddings", "no embeddings"),
        ("/v1/batches/batch_1", "no batches"),
        ("/tokenize", "count_tokens"),
        ("/api/chat", "Ollama"),
    ],
)
def test_a_path_that_is_none_is_told_the_one_to_use(path: str, words: str) -> None:
    assert words in refused(ask(door(scripted()), "POST", path, json={}), 404, "route_not_found")


def test_a_route_says_what_it_takes() -> None:
    response = ask(door(scripted()), "OPTIONS", "/v1/chat/completions")
    assert (response.status_code, response.content) == (204, b"")
    assert {"POST", "OPTIONS"} == set(response.headers["allow"].split(", "))
    refused(ask(door(scripted()), "OPTIONS", "/v1/nothing"), 404, "route_not_found")
    of_a_key = ask(door(scripted()), "OPTIONS", "/v1/keys/key_1").headers["allow"]
    assert {"GET", "POST", "DELETE", "OPTIONS"} <= set(of_a_key.split(", "))
