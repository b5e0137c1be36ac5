"""Thoughts stay inside: a marker in every thought is looked for in everything that leaves the server."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from ponder.compute.engine import Delta, Sampling
from ponder.compute.lengths import Lengths
from ponder.compute.text import Prompt
from ponder.compute.transcript import Transcript
from ponder.server.auth.keys import digest
from ponder.server.settings import KeySettings, Settings
from ponder.testing import MARKER, Chain, ScriptedEngine
from tests.server.serving import answered, ask, chat, door, events, its_door, refused, scripted

KEY = "pk-test"
WITH_KEY = {"authorization": f"Bearer {KEY}"}
WISHES: list[dict[str, Any]] = [
    {},
    {"thinking_budget": 0},
    {"thinking_budget": 7},
    {"thinking_budget": -1},
    {"max_completion_tokens": 9},
    {"max_answer_tokens": 1},
    {"n": 3},
    {"stop": [MARKER[:3], "is"]},
    {"logprobs": True, "top_logprobs": 5},
    {"response_format": {"type": "json_object"}},
    {"tools": [{"type": "function", "function": {"name": "f"}}]},
    {"tools": [{"type": "function", "function": {"name": "f"}}], "tool_choice": "required"},
    {"strategy": "majority_vote", "thinking_budget": 600},
    {"strategy": "revision", "thinking_budget": 600},
    {"strategy": "best_of_n", "thinking_budget": 600},
    {"strategy": "auto", "thinking_budget": 600},
    {"include_reasoning": False},
    {"include": ["reasoning.encrypted_content"]},
    {"include": ["reasoning.encrypted_content"], "n": 3, "strategy": "majority_vote"},
    {"reasoning": {"summary": "detailed"}},
    {"reasoning": {"summary": "auto"}, "strategy": "best_of_n", "thinking_budget": 600},
    {"timeout": 0.05},
    {"model": "demo:direct"},
    {"strategy": MARKER},
    {"thinking_budget": MARKER},
]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("wish", WISHES, ids=str)
def test_no_wish_makes_a_thought_visible(wish: dict[str, Any], stream: bool, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    engine = ScriptedEngine(lambda p, t, c: Chain(f"{MARKER} " * 4, f"It is {c}."))
    app = door(engine, lengths=Lengths(20, 40))
    response = chat(app, stream=stream, **wish)
    assert MARKER not in response.text
    assert MARKER not in str(response.headers)
    assert MARKER not in caplog.text
    assert MARKER not in its_door(app).metrics.render()[0].decode()


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("call", [0, 1, 2])
def test_no_failure_makes_a_thought_visible(stream: bool, call: int, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    engine = scripted(fail_at=call)
    app = door(engine, lengths=Lengths(20, 40))
    response = chat(app, stream=stream, strategy="majority_vote", thinking_budget=500)
    assert MARKER not in response.text
    assert MARKER not in caplog.text


class Bug(ScriptedEngine):
    """Breaks with an error of no family, and the thought in its message."""

    async def generate(self, prompt: Prompt, sampling: Sampling, transcript: Transcript) -> AsyncGenerator[Delta]:
        raise ValueError(f"cannot decode {MARKER}")
        yield Delta("")


@pytest.mark.parametrize("stream", [False, True])
def test_an_unexpected_error_is_an_opaque_id_outside_and_a_place_in_the_log(
    stream: bool, caplog: pytest.LogCaptureFixture
) -> None:
    app = door(Bug(lambda p, t, c: Chain("", "")))
    response = chat(app, stream=stream)
    assert MARKER not in response.text
    assert MARKER not in caplog.text
    assert response.headers["x-request-id"] in caplog.text
    assert "ValueError" in caplog.text
    assert "test_leaks.py" in caplog.text
    if not stream:
        assert response.headers["x-request-id"] in refused(response, 500, "internal_error")


def keyed(*scopes: Any) -> Settings:
    return Settings(keys=[KeySettings(name="ann", hash=digest(KEY), scopes=frozenset(scopes))])


@pytest.mark.parametrize("settings", [Settings(), keyed("infer", "admin", "usage", "trace")])
def test_only_a_key_with_the_scope_reveal_sees_thoughts_and_others_are_answered_without(settings: Settings) -> None:
    app = door(scripted(), settings)
    for stream in (False, True):
        response = chat(app, WITH_KEY, include_reasoning=True, stream=stream)
        assert response.status_code == 200
        assert response.headers["x-ignored-parameters"] == "include_reasoning"
        assert MARKER not in response.text
        assert '"reasoning"' not in response.text


def test_a_key_with_reveal_gets_the_thought_of_the_chosen_chain_when_it_asks() -> None:
    app = door(scripted(), keyed("infer", "reveal"))
    assert MARKER not in chat(app, WITH_KEY).text
    message = chat(app, WITH_KEY, include_reasoning=True).json()["choices"][0]["message"]
    assert message["reasoning"] == message["reasoning_content"]
    assert message["reasoning"].startswith(MARKER)
    stream = events(chat(app, WITH_KEY, include_reasoning=True, stream=True).text)
    told = [c["choices"][0]["delta"]["reasoning"] for c in stream if "reasoning" in c["choices"][0]["delta"]]
    assert told == [message["reasoning"]]


def test_what_only_tells_tells_no_thought() -> None:
    app = door(scripted())
    answered(app)
    for url in ("/v1/models", "/v1/strategies", "/healthz", "/metrics", "/openapi.json", "/readyz"):
        assert MARKER not in ask(app, "GET", url).text
