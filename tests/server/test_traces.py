"""Traces: the tree of a request in numbers, for those who may see it."""

from __future__ import annotations

import gc
import json
from collections.abc import AsyncGenerator
from typing import Any

from fastapi import FastAPI

from compute.engine import Delta, Sampling
from compute.outcome import Outcome
from compute.page import Page
from compute.text import Hidden, Prompt
from server.keys import digest
from server.plan import Order
from server.settings import KeySettings, Settings
from tests.fakes import MARKER, Chain, ScriptedEngine, ScriptedRewards, always
from tests.server.serving import ASK, CHAIN, ask, door, scripted

KEYS = {
    "mine": ["infer", "trace"],
    "other": ["infer", "trace"],
    "boss": ["infer", "trace", "admin", "reveal"],
    "plain": ["infer"],
}


def locked(engine: ScriptedEngine | None = None, rewards: ScriptedRewards | None = None, **settings: Any) -> FastAPI:
    keys = [KeySettings.model_validate({"name": k, "hash": digest(k), "scopes": s}) for k, s in KEYS.items()]
    return door(engine or scripted(), Settings(keys=keys, **settings), reward_model=rewards)


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
    wishes = {"strategy": {"name": "majority_vote", "n": 4, "first": 4, "confidence": 1}, "thinking_budget": 2000}
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


def test_a_trace_shows_which_call_went_on_from_which_and_what_judges_and_voters_said() -> None:
    good, bad = Chain("3+4\n=7\nsure\n", "It is 7."), Chain("8?\n=8\nsure\n", "It is 8.")
    app = locked(scripted(good, bad), ScriptedRewards(lambda line: 0.1 if "8" in line else 0.9))
    wishes = {"strategy": {"name": "beam_search", "beams": 4, "width": 2}, "thinking_budget": 2000}
    calls = trace(app, asked(app, **wishes), "mine")[1]["choices"][0]["calls"]
    extended = [call for call in calls if call["purpose"] == "extend"]
    assert {call["parent"] is None for call in extended} == {True, False}
    assert {call["purpose"] for call in calls if call["parent"] is not None} <= {"extend", "answer"}
    for call in calls:
        assert call["parent"] is None or call["parent"] < call["number"]
        assert call["parent"] is None or not call["chosen"] or calls[call["parent"]]["chosen"]
    assert {round(call["score"], 6) for call in extended if call["score"] is not None} == {0.1, 0.9}
    chosen = [call for call in calls if call["chosen"]]
    assert chosen[-1]["score"] == 0.9
    assert chosen[-1]["vote"] is not None
    assert any(call["parent"] is not None for call in chosen)


def test_an_answer_that_was_completed_in_a_call_of_its_own_shows_whose_it_is() -> None:
    app = locked(ScriptedEngine(always(Chain("t" * 400, "It is 7.")), delay=0.001))
    calls = trace(app, asked(app, timeout=0.2), "mine")[1]["choices"][0]["calls"]
    assert [(call["purpose"], call["parent"], call["chosen"]) for call in calls] == [
        ("speak", None, True),
        ("answer", 0, True),
    ]


def test_nothing_of_a_request_is_kept_in_memory_but_numbers() -> None:
    def alive() -> int:
        gc.collect()
        return sum(isinstance(one, Outcome | Order | Prompt | Hidden) for one in gc.get_objects())

    class Forgetful(ScriptedEngine):
        async def generate(self, prompt: Prompt, sampling: Sampling, page: Page) -> AsyncGenerator[Delta]:
            async for delta in super().generate(prompt, sampling, page):
                yield delta
            self.prompts.clear()

    app = locked(Forgetful(always(CHAIN)))
    asked(app)
    before = alive()
    ids = [asked(app, n=2, strategy="majority_vote") for _ in range(3)]
    assert alive() == before
    assert [trace(app, one, "mine")[0] for one in ids] == [200] * 3


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
