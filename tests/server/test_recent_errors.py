"""The health page counts the errors that callers were told lately, by code, and says how full each model is."""

from __future__ import annotations

from typing import Any

from ponder.metering.recent import MOST, SPAN, RecentErrors
from ponder.testing import Chain, ScriptedEngine, always
from tests.server.serving import ask, chat, door, scripted


def counted(app: Any) -> dict[tuple[str, int], int]:
    return {(one["code"], one["status"]): one["count"] for one in ask(app, "GET", "/healthz").json()["errors"]}


def test_errors_of_every_kind_are_counted_by_their_code() -> None:
    app = door(scripted())
    assert counted(app) == {}
    chat(app, thinking_budget=-7)
    chat(app, thinking_budget=True)
    chat(app, model="none")
    ask(app, "GET", "/v1/traces/none")
    ask(app, "GET", "/nowhere")
    ask(app, "PUT", "/livez")
    chat(app)
    found = counted(app)
    codes = [code for code, _ in found]
    assert found["route_not_found", 404] == 1
    assert found["method_not_allowed", 405] == 1
    assert found["model_not_found", 404] == 1
    assert found["trace_not_found", 404] == 1
    assert sum(found.values()) == 6
    assert len(codes) == len(set(codes))


def test_an_error_in_a_stream_is_counted_as_one_in_an_answer_is() -> None:
    for stream in (False, True):
        app = door(ScriptedEngine(always(Chain("thought " * 9, "7")), fail_at=0))
        chat(app, stream=stream)
        assert counted(app) == {("engine_error", 500): 1}, stream


def test_an_hour_later_they_are_forgotten_and_never_are_more_than_so_many_kept() -> None:
    at = MOST
    errors = RecentErrors(lambda: at)
    for _ in range(MOST + 10):
        errors.told("old", 500)
    errors.told("new", 429)
    assert [(one.code, one.count, one.last_ms) for one in errors.by_code()] == [("old", MOST - 1, at), ("new", 1, at)]
    at += SPAN
    assert sum(one.count for one in errors.by_code()) == MOST
    at += 1
    assert errors.by_code() == []
