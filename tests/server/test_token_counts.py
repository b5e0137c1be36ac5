"""A caller who asks how many tokens a prompt has is told what the usage of its answer will say."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from ponder.compute.lengths import Lengths
from ponder.server.app import ServedModel, create_app
from ponder.server.auth.keys import digest
from ponder.server.dialect import Reading, Target
from ponder.server.settings import KeySettings, Limits, ModelSettings, Settings
from ponder.testing import MARKER, Chain, ScriptedEngine
from tests.server.serving import ask, counted, scripted, written
from tests.server.toy_dialect import Toy, line

ASK: dict[str, Any] = {"brain": "demo", "talk": ["What is 3 + 4?"]}


class Counting(Toy):
    """The toy, asked for a number."""

    path = "/toy/count"

    def read(self, raw: bytes, limits: Limits, target: Target) -> Reading:
        return replace(super().read(raw, limits, target), count=_told)


def _told(tokens: int) -> bytes:
    return line(tokens=tokens)


def counting_door(engine: ScriptedEngine, settings: Settings | None = None) -> FastAPI:
    served = ServedModel(engine, Lengths(20, 40), ModelSettings(path="scripted"))
    return create_app(settings or Settings(), {"demo": served}, dialects=[Toy(), Counting()])


def count(app: FastAPI, headers: dict[str, str] | None = None, **body: Any) -> httpx.Response:
    return ask(app, url=Counting.path, json=ASK | body, headers=headers)


def test_nothing_is_made_and_nothing_is_billed_for_a_count() -> None:
    engine = scripted(Chain(MARKER, "It is 7."))
    app = counting_door(engine)
    response = count(app, live=True)
    assert (response.status_code, response.headers["content-type"]) == (200, "application/json")
    assert json.loads(response.content) == {"tokens": len("What is 3 + 4?") + 4}
    assert (engine.calls, engine.produced, written(app)) == (0, 0, 0)
    assert counted(app, "ponder_requests_total") == 0


def test_a_schema_that_no_grammar_can_hold_is_no_fault_of_a_prompt() -> None:
    app = counting_door(scripted(unsupported="strange"))
    assert count(app, actions={"f": {"type": "strange"}}).status_code == 200


@pytest.mark.parametrize(
    ("body", "status", "oops", "where"),
    [
        ({"brain": "none"}, 404, "model_not_found", "brain"),
        ({"talk": []}, 400, "invalid_value", "talk"),
        ({"talk": ["x" * 100_001]}, 400, "context_length_exceeded", "talk"),
    ],
)
def test_a_count_is_refused_as_its_answer_would_be(body: dict[str, Any], status: int, oops: str, where: str) -> None:
    response = count(counting_door(scripted()), **body)
    told = json.loads(response.content)
    assert (response.status_code, told["oops"], told["where"]) == (status, oops, where)


def test_a_count_wants_a_key_and_a_server_that_stays() -> None:
    app = counting_door(scripted(), Settings(keys=[KeySettings(name="toy", hash=digest("secret"))]))
    assert count(app).status_code == 401
    assert count(app, {"X-Toy-Key": "secret"}).status_code == 200
    app.state.handle.admission.draining = True
    assert count(app, {"X-Toy-Key": "secret"}).status_code == 503
