"""The thinking budget: every way to ask for one, who wins, what contradicts, and the ceiling."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as trials
from hypothesis import strategies as st

from ponder.compute.chains import CLOSING
from ponder.server.auth.keys import digest
from ponder.server.settings import KeySettings, Settings
from ponder.testing import CARD, Chain
from tests.server.serving import answered, chat, door, refused, scripted

LONG = Chain("t" * 5000, "a" * 5000)
GOOGLE = "extra_body.google.thinking_config.thinking_budget"


def google(budget: int) -> dict[str, Any]:
    return {"google": {"thinking_config": {"thinking_budget": budget}}}


@pytest.mark.parametrize(
    ("wish", "effort", "budget"),
    [
        ({}, None, None),
        ({"reasoning_effort": "low"}, "low", 2048),
        ({"reasoning_effort": "xhigh"}, "xhigh", 65536),
        ({"thinking_budget": 300}, None, 300),
        ({"thinking_budget": 0}, None, None),
        ({"thinking_budget": -1}, None, None),
        ({"thinking_budget": 300, "n": 2}, None, 150),
        ({"thinking_budget": 999_999}, None, 262_144),
        ({"thinking_budget": 300, "strategy": "majority_vote"}, None, None),
        ({"reasoning_effort": "low", "strategy": "majority_vote"}, "low", None),
    ],
    ids=str,
)
def test_models_that_are_told_how_much_to_think_are_told_the_callers_word_and_the_budget_of_one_chain(
    wish: dict[str, Any], effort: str | None, budget: int | None
) -> None:
    engine = scripted()
    answered(door(engine), **wish)
    assert {(prompt.effort, prompt.budget) for prompt in engine.prompts} == {(effort, budget)}


@pytest.mark.parametrize(
    ("body", "budget", "source"),
    [
        ({"thinking_budget": 40}, 40, "thinking_budget"),
        ({"thinking_budget": 0}, 0, "thinking_budget"),
        ({"thinking_token_budget": 41}, 41, "thinking_token_budget"),
        ({"thinking_token_budget": 0}, 0, "thinking_token_budget"),
        ({"thinking_budget_tokens": 42}, 42, "thinking_budget_tokens"),
        ({"reasoning": {"max_tokens": 43}}, 43, "reasoning.max_tokens"),
        ({"thinking": {"type": "enabled", "budget_tokens": 44}}, 44, "thinking.budget_tokens"),
        ({"extra_body": google(45)}, 45, GOOGLE),
        ({"extra_body": google(0)}, 0, GOOGLE),
        (google(46), 46, "google.thinking_config.thinking_budget"),
        (google(46)["google"], 46, "thinking_config.thinking_budget"),
        ({"thinking_config": {"thinking_level": "low"}}, 2048, "thinking_config.thinking_level"),
        ({"thinking_config": {"thinking_level": "low", "thinking_budget": 47}}, 47, "thinking_config.thinking_budget"),
        ({"enable_thinking": False}, 0, "enable_thinking"),
        ({"chat_template_kwargs": {"enable_thinking": False}}, 0, "chat_template_kwargs.enable_thinking"),
        ({"chat_template_kwargs": {"thinking": False}}, 0, "chat_template_kwargs.thinking"),
        ({"reasoning": {"enabled": False}}, 0, "reasoning.enabled"),
        ({"thinking": {"type": "disabled"}}, 0, "thinking.type"),
        ({"reasoning_effort": "none"}, 0, "reasoning_effort"),
        ({"reasoning_effort": "minimal"}, 512, "reasoning_effort"),
        ({"reasoning_effort": "low"}, 2048, "reasoning_effort"),
        ({"reasoning": {"effort": "medium"}}, 8192, "reasoning.effort"),
        ({"reasoning_effort": "high"}, 24576, "reasoning_effort"),
        ({"reasoning_effort": "xhigh"}, 65536, "reasoning_effort"),
        ({"reasoning_effort": "high", "thinking_budget": 50}, 50, "thinking_budget"),
        ({"reasoning_effort": "none", "thinking_budget": 50}, 50, "thinking_budget"),
        ({"thinking_budget": 50, "reasoning": {"max_tokens": 50}}, 50, "thinking_budget"),
        ({"thinking_budget": 0, "enable_thinking": False}, 0, "thinking_budget"),
        ({"enable_thinking": True, "thinking_budget": 51}, 51, "thinking_budget"),
        ({"thinking_budget": None, "thinking_token_budget": 52}, 52, "thinking_token_budget"),
        ({"enable_thinking": False, "reasoning_effort": "high"}, 0, "enable_thinking"),
    ],
)
def test_every_spelling_is_understood(body: dict[str, Any], budget: int, source: str) -> None:
    engine = scripted(LONG, card=replace(CARD, context=1_000_000))
    told = answered(door(engine), **body)["thinking"]
    assert (told["budget"], told["budget_source"]) == (budget, source)
    assert told["spent"] == min(budget, told["spent"])
    assert "budget_clamped_from" not in told
    if budget == 0:
        assert told["spent"] == 0


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"thinking_budget": 5, "thinking_token_budget": 6}, "thinking_token_budget"),
        ({"thinking_budget": 5, "reasoning": {"max_tokens": 6}}, "reasoning.max_tokens"),
        ({"thinking_budget": 0, "thinking": {"budget_tokens": 6}}, "thinking.budget_tokens"),
        ({"thinking_budget": -1, "extra_body": google(6)}, GOOGLE),
        (google(5) | {"extra_body": google(6)}, "google.thinking_config.thinking_budget"),
        (google(5) | {"chat_template_kwargs": {"thinking": False}}, "chat_template_kwargs.thinking"),
        ({"thinking_budget": 5, "enable_thinking": False}, "enable_thinking"),
        ({"thinking_budget": -1, "enable_thinking": False}, "enable_thinking"),
        ({"thinking": {"type": "disabled", "budget_tokens": 6}}, "thinking.type"),
        ({"enable_thinking": True, "reasoning": {"enabled": False}}, "reasoning.enabled"),
        ({"reasoning_effort": "low", "reasoning": {"effort": "high"}}, "reasoning_effort"),
        ({"max_tokens": 5, "max_completion_tokens": 6}, "max_tokens"),
    ],
)
def test_what_contradicts_itself_is_refused(body: dict[str, Any], param: str) -> None:
    refused(chat(door(scripted()), **body), code="conflicting_parameters", param=param)


def test_silence_means_the_models_default() -> None:
    assert answered(door(scripted(), thinking_budget=33))["thinking"]["budget"] == 33
    told = answered(door(scripted(), thinking_budget=0))["thinking"]
    assert (told["budget"], told["spent"], told["budget_source"]) == (0, 0, "default")
    assert answered(door(scripted(), thinking_budget=0), enable_thinking=True)["thinking"]["budget"] > 0
    assert answered(door(scripted(), thinking_budget="auto"))["thinking"]["strategy"] == "auto"
    assert answered(door(scripted(), max_thinking_budget=77))["thinking"]["budget"] == 77


@pytest.mark.parametrize("wish", [-1, "auto"])
def test_auto_goes_up_to_the_ceiling(wish: Any) -> None:
    told = answered(door(scripted(), max_thinking_budget=99), thinking_budget=wish)["thinking"]
    assert (told["budget"], told["strategy"]) == (99, "auto")
    assert "budget_clamped_from" not in told


def test_too_much_is_cut_and_said_so() -> None:
    response = chat(door(scripted(), max_thinking_budget=100), thinking_budget=200_000)
    told = response.json()["thinking"]
    assert (told["budget"], told["budget_clamped_from"]) == (100, 200_000)
    assert response.headers["x-thinking-budget-clamped"] == "100"


def test_a_default_that_is_too_much_is_cut_and_said_so_and_is_no_error() -> None:
    app = door(scripted(), thinking_budget=500, max_thinking_budget=100)
    for overflow in ("clamp", "error"):
        response = chat(app, on_overflow=overflow)
        told = response.json()["thinking"]
        assert (told["budget"], told["budget_clamped_from"], told["budget_source"]) == (100, 500, "default")
        assert response.headers["x-thinking-budget-clamped"] == "100"


def test_a_generous_limit_of_the_answer_leaves_half_of_the_room_to_the_thinking() -> None:
    app = door(scripted(LONG))
    told = answered(app, max_answer_tokens=200_000)["thinking"]
    assert told["budget"] > 40_000
    assert told["spent"] > 0
    response = chat(app, max_answer_tokens=200_000, thinking_budget=60_000)
    told = response.json()["thinking"]
    assert 40_000 < told["budget"] < 60_000 == told["budget_clamped_from"]
    assert response.headers["x-thinking-budget-clamped"] == str(told["budget"])
    assert answered(app, max_answer_tokens=200_000, thinking_budget=40)["thinking"]["budget"] == 40


def test_too_much_is_an_error_where_the_caller_wants_one() -> None:
    response = chat(door(scripted(), max_thinking_budget=100), thinking_budget=101, on_overflow="error")
    assert "100" in refused(response, code="thinking_budget_too_large", param="thinking_budget")
    answered(door(scripted(), max_thinking_budget=100), thinking_budget=100, on_overflow="error")


def test_a_key_has_its_own_ceiling() -> None:
    key = "pk-test"
    known = KeySettings(name="ann", hash=digest(key), max_thinking_budget=12)
    response = chat(door(scripted(), Settings(keys=[known])), {"authorization": f"Bearer {key}"}, thinking_budget=50)
    assert response.json()["thinking"]["budget"] == 12


def test_prompt_thought_and_answer_fit_the_context() -> None:
    engine = scripted(LONG, card=replace(CARD, context=500))
    body = answered(door(engine), thinking_budget=10_000)
    thinking = body["thinking"]["budget"]
    assert body["usage"]["total_tokens"] <= 500
    assert thinking < 500 - body["usage"]["prompt_tokens"]
    assert body["usage"]["completion_tokens"] > body["thinking"]["spent"]


def test_many_chains_may_think_more_than_one_context_holds() -> None:
    """The context bounds each chain, and the limits of server, model and key bound the total."""
    small = replace(CARD, context=1200)
    chains = [Chain("so " * 200, f"The answer is {i}.") for i in range(8)]
    engine = scripted(*chains, card=small)
    body = answered(door(engine), thinking_budget=12_000, strategy={"name": "majority_vote", "n": 8, "confidence": 1})
    assert body["thinking"]["budget"] == 12_000
    assert "budget_clamped_from" not in body["thinking"]
    assert 1200 < body["thinking"]["spent"] <= 12_000
    assert body["thinking"]["samples"] == 8
    assert all(s.thinking + s.answer <= 1200 or (s.total or 0) <= 1200 for s in engine.samplings)
    alone = answered(door(engine), thinking_budget=12_000)["thinking"]
    assert alone["budget_clamped_from"] == 12_000
    assert alone["budget"] < 1200
    limited = door(scripted(*chains, card=small), max_thinking_budget=5000)
    told = answered(limited, thinking_budget=12_000, strategy="majority_vote")["thinking"]
    assert (told["budget"], told["budget_clamped_from"]) == (5000, 12_000)
    told = answered(door(engine), strategy="majority_vote", max_completion_tokens=3000)["thinking"]
    assert 1200 < told["budget"] < 3000


def test_a_prompt_without_room_for_an_answer_is_refused() -> None:
    app = door(scripted(card=replace(CARD, context=500)))
    messages = [{"role": "user", "content": "x" * 600}]
    refused(chat(app, messages=messages), code="context_length_exceeded", param="messages")
    fits = answered(app, messages=[{"role": "user", "content": "x" * (495 - CLOSING)}])
    assert fits["usage"]["completion_tokens"] == 1


def test_max_completion_tokens_is_thought_and_answer_together_with_part_kept_back() -> None:
    for field in ("max_completion_tokens", "max_tokens"):
        engine = scripted(LONG)
        body = answered(door(engine), **{field: 100})
        usage = body["usage"]
        assert usage["completion_tokens"] == 100 == engine.produced
        assert usage["completion_tokens_details"]["reasoning_tokens"] == 75
        assert len(body["choices"][0]["message"]["content"]) == 25
        assert body["choices"][0]["finish_reason"] == "length"


def test_one_token_is_one_token_of_answer() -> None:
    body = answered(door(scripted(LONG)), max_completion_tokens=1)
    assert body["usage"]["completion_tokens"] == 1
    assert body["choices"][0]["message"]["content"] == "a"


def test_what_is_not_thought_is_left_to_the_answer() -> None:
    body = answered(door(scripted(Chain("t" * 9, "a" * 500))), max_completion_tokens=100)
    assert body["usage"]["completion_tokens_details"]["reasoning_tokens"] == 10
    assert len(body["choices"][0]["message"]["content"]) == 90


def test_max_answer_tokens_is_the_visible_part_alone() -> None:
    body = answered(door(scripted(LONG)), max_answer_tokens=7, thinking_budget=20)
    assert body["usage"]["completion_tokens"] == 27
    assert body["usage"]["completion_tokens_details"]["reasoning_tokens"] == 20


def test_the_models_answer_allowance_counts_where_nobody_says() -> None:
    body = answered(door(scripted(LONG), answer_tokens=11), thinking_budget=20)
    assert len(body["choices"][0]["message"]["content"]) == 11


def test_a_model_that_does_not_think_takes_a_budget_too() -> None:
    engine = scripted(card=replace(CARD, thinks=False))
    body = answered(door(engine), thinking_budget=64)
    assert body["usage"]["completion_tokens_details"]["reasoning_tokens"] == 0
    assert body["choices"][0]["message"]["content"] == "It is 7."


@trials(max_examples=60)
@given(
    thinking=st.integers(-1, 3000),
    most=st.none() | st.integers(1, 400),
    answer=st.none() | st.integers(1, 400),
    context=st.integers(64, 2000),
    thought=st.integers(0, 600),
    said=st.integers(0, 600),
    n=st.integers(1, 3),
)
def test_no_wish_breaks_a_bound(
    thinking: int, most: int | None, answer: int | None, context: int, thought: int, said: int, n: int
) -> None:
    engine = scripted(Chain("t" * thought, "a" * said), card=replace(CARD, context=context))
    body = answered(
        door(engine),
        thinking_budget=thinking,
        max_completion_tokens=most,
        max_answer_tokens=answer,
        n=n,
        strategy="direct",
    )
    usage, told = body["usage"], body["thinking"]
    hidden = usage["completion_tokens_details"]["reasoning_tokens"]
    assert hidden == told["spent"] <= told["budget"]
    if thinking >= 0:
        assert told["budget"] <= thinking
    assert usage["completion_tokens"] == engine.produced
    for choice in body["choices"]:
        visible = len(choice["message"]["content"])
        assert visible <= min(most or context, answer or context, 1024)
        assert said == 0 or visible >= 1
    if most is not None:
        assert usage["completion_tokens"] <= most * n
    for call in engine.samplings:
        assert usage["prompt_tokens"] + min(call.thinking + call.answer, call.total or context) <= context
