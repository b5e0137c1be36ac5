"""Traces: the tree of a request in numbers, for those who may see it."""

from __future__ import annotations

import json
from typing import Any

from fastapi import FastAPI

from server.keys import digest
from server.settings import KeySettings, Settings
from tests.fakes import MARKER
from tests.server.serving import ASK, ask, door, scripted

KEYS = {
    "mine": ["infer", "trace"],
    "other": ["infer", "trace"],
    "boss": ["infer", "trace", "admin", "reveal"],
    "plain": ["infer"],
}


def locked(**settings: Any) -> FastAPI:
    keys = [KeySettings.model_validate({"name": k, "hash": digest(k), "scopes": s}) for k, s in KEYS.items()]
    return door(scripted(), Settings(keys=keys, **settings))


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def asked(app: FastAPI, **body: Any) -> str:
    answer = ask(app, headers=bearer("mine"), json=ASK | body)
    assert answer.status_code == 200, answer.text
    return answer.headers["x-request-id"]


def trace(app: FastAPI, request_id: str, key: str) -> tuple[int, Any]:
    answer = ask(app, "GET", f"/v1/traces/{request_id}", headers=bearer(key))
    return answer.status_code, answer.json()


def test_a_trace_tells_every_call_of_a_request_in_numbers() -> None:
    app = locked()
    wishes = {"strategy": {"name": "majority_vote", "n": 4, "confidence": 1}, "thinking_budget": 2000}
    request_id = asked(app, **wishes)
    status, told = trace(app, request_id, "mine")
    assert status == 200
    assert (told["id"], told["strategy"], told["budget"], told["ended"]) == (
        request_id,
        "majority_vote",
        2000,
        "answered",
    )
    calls = told["choices"][0]["calls"]
    assert [call["purpose"] for call in calls] == ["sample"] * 4
    assert sum(call["chosen"] for call in calls) == 1
    assert [call["vote"] for call in calls].count(0) >= 3  # three of four settle it
    hidden = sum(call["tokens"]["hidden"] + call["tokens"]["visible"] for call in calls)
    assert hidden == told["choices"][0]["tokens"]["hidden"] + told["choices"][0]["tokens"]["visible"]
    assert MARKER not in json.dumps(told)
    assert "It is 7" not in json.dumps(told)


def test_a_trace_is_its_owners_and_the_admins() -> None:
    app = locked()
    request_id = asked(app)
    assert [trace(app, request_id, key)[0] for key in ("mine", "other", "boss", "plain")] == [200, 404, 200, 403]
    assert trace(app, "req_unknown", "boss")[0] == 404


def test_text_is_shown_only_where_it_is_kept_and_to_those_who_may_see_it() -> None:
    silent, keeping = locked(), locked(retain_text=True)
    for app, key, shown in ((silent, "boss", False), (keeping, "mine", False), (keeping, "boss", True)):
        told = json.dumps(trace(app, asked(app), key)[1])
        assert (MARKER in told) is shown
        assert ("It is 7" in told) is shown


def test_the_oldest_traces_go() -> None:
    app = locked(traces=2)
    ids = [asked(app) for _ in range(3)]
    assert [trace(app, one, "mine")[0] for one in ids] == [404, 200, 200]
