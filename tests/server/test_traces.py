"""Traces: the tree of a request in numbers, for those who may see it."""

from __future__ import annotations

import asyncio
import gc
import json
import tracemalloc
from collections.abc import AsyncGenerator
from typing import Any

import pytest
from fastapi import FastAPI

from ponder.compute.budget import Budget, Spending
from ponder.compute.engine import Delta, Sampling
from ponder.compute.outcome import Outcome
from ponder.compute.text import Hidden, Message, Prompt, Written
from ponder.compute.transcript import Transcript
from ponder.server.app import create_app
from ponder.server.auth.keys import digest
from ponder.server.plan import ResolvedRequest
from ponder.server.settings import KeySettings, Settings
from ponder.server.traces import ROWS, Trace, Traces, told
from ponder.testing import MARKER, Chain, ScriptedEngine, ScriptedRewards, always
from tests.server.serving import ASK, CHAIN, PATH, Line, ask, door, its_door, refused, scripted

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
        ("stream", None, True),
        ("answer", 0, True),
    ]


def test_nothing_of_a_request_is_kept_in_memory_but_numbers() -> None:
    def alive() -> int:
        gc.collect()
        return sum(isinstance(one, Outcome | ResolvedRequest | Prompt | Hidden) for one in gc.get_objects())

    class Forgetful(ScriptedEngine):
        async def generate(self, prompt: Prompt, sampling: Sampling, transcript: Transcript) -> AsyncGenerator[Delta]:
            async for delta in super().generate(prompt, sampling, transcript):
                yield delta
            self.prompts.clear()

    app = locked(Forgetful(always(CHAIN)))
    asked(app)
    before = alive()
    ids = [asked(app, n=2, strategy="majority_vote") for _ in range(3)]
    assert alive() == before
    assert [trace(app, one, "mine")[0] for one in ids] == [200] * 3


def test_with_texts_kept_no_prompt_outlives_its_request_as_the_model_has_read_it() -> None:
    """Its words do, as long as the trace; not what models, images and verifiers have made of it."""
    engine = scripted()
    app = locked(engine, retain_text=True)
    gc.collect()
    before = sum(isinstance(one, Prompt | ResolvedRequest) for one in gc.get_objects())
    asked(app)
    engine.prompts.clear()
    gc.collect()
    assert sum(isinstance(one, Prompt | ResolvedRequest) for one in gc.get_objects()) == before


def test_a_prompt_counts_as_memory_of_a_trace() -> None:
    spending = Spending(Budget(10, 10))
    asked_, empty = (Prompt((Message("user", text),)) for text in ("word " * 10_000, ""))
    for prompt in (asked_, empty):
        spending.texts[0] = Written(prompt, Hidden(""), Hidden(""), forced=False)
    assert told(spending, None, asked_).bytes - told(spending, None, empty).bytes >= 50_000


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


def big(calls: int, text: str = "") -> Trace:
    """A trace of so many calls, each with this text."""
    spending = Spending(Budget(calls, calls))
    for number in range(calls):
        with spending.reserve("sample", thinking=1, answer=0) as reservation:
            reservation.spend(hidden=1)
            reservation.score = number / calls
        if text:
            written = Hidden(f"{text}{number}"), Hidden(f"{number}{text}")
            spending.texts[number] = Written(Prompt(()), *written, forced=False)
    spending.choose(calls - 1)
    return Trace("mine", "demo", "direct", calls, "answered", 1.0, 0, (told(spending, None),))


@pytest.mark.parametrize("text", ["", "word " * 100])
def test_traces_take_no_more_memory_than_they_may(text: str) -> None:
    bound = 1 << 21
    traces = Traces(1000, bound)
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for number in range(40):
            traces.keep(f"req_{number}", big(1000, text))
        gc.collect()
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert bound / 2 < after - before <= bound * 1.1


def test_a_trace_that_is_too_large_is_kept_without_its_texts_or_not_at_all() -> None:
    for calls, text, kept, texts in ((10, "x", True, True), (10, "x" * 40_000, True, False), (5000, "", False, False)):
        app = locked(trace_bytes=100_000)
        its_door(app).traces.keep("req_1", big(calls, text))
        answer = ask(app, "GET", "/v1/traces/req_1", headers=bearer("boss"))
        assert (answer.status_code == 200) is kept
        assert ('"text"' in answer.text) is texts


def test_a_large_trace_is_told_in_pieces_between_which_others_have_their_turn() -> None:
    app = create_app(Settings(), {})
    its_door(app).traces.keep("req_1", big(5000))
    line = Line()

    async def go() -> None:
        turns = 0

        async def count() -> None:
            nonlocal turns
            while True:
                await asyncio.sleep(0)
                turns += 1

        counting = asyncio.get_running_loop().create_task(count())
        scope: dict[str, Any] = PATH | {"method": "GET", "path": "/v1/traces/req_1", "headers": []}
        await app(scope, line.receive, line.send)
        counting.cancel()
        pieces = [message["body"] for message in line.sent[1:]]
        assert turns >= len(pieces) >= 5000 / ROWS
        assert max(map(len, pieces)) < 1000 * ROWS

    asyncio.run(go())
    calls = json.loads(line.text)["choices"][0]["calls"]
    assert [call["number"] for call in calls] == list(range(5000))
    assert [call["chosen"] for call in calls].count(True) == 1
    assert calls[2500]["score"] == 0.5
    assert calls[2500]["tokens"] == {"hidden": 1, "visible": 0, "prompt": 0, "cached": 0, "wasted": 0}
    assert calls[2500]["ending"] is None


def test_the_likelihood_of_a_chain_stands_beside_its_text() -> None:
    chain = Chain("x" * 100, "The answer is 19.", likelihood=-0.25)
    silent, keeping = (locked(ScriptedEngine(always(chain)), retain_text=kept) for kept in (False, True))
    wishes = {"strategy": "direct", "verifier": "confidence", "thinking_budget": 1000}
    for app, key, shown in ((silent, "boss", False), (keeping, "mine", False), (keeping, "boss", True)):
        _, told = trace(app, asked(app, **wishes), key)
        (call,) = told["choices"][0]["calls"]
        assert ("likelihood" in call) == shown
        if shown:
            windows = -(-(call["tokens"]["hidden"] + call["tokens"]["visible"]) // 32)
            assert call["likelihood"]["window"] == 32
            assert call["likelihood"]["means"] == pytest.approx([-0.25] * windows, abs=0.02)
    _, told = trace(keeping, asked(keeping, strategy="direct", thinking_budget=1000), "boss")
    assert "likelihood" not in told["choices"][0]["calls"][0]


def test_likelihoods_count_as_memory_of_a_trace() -> None:
    spending = Spending(Budget(10, 10))
    before = _sized(spending)
    spending.likelihoods[0] = Hidden((-0.5,) * 64_000)
    assert _sized(spending) - before >= 16_000


def _sized(spending: Spending) -> int:
    return told(spending, None).bytes


def listed(app: FastAPI, key: str, query: str = "") -> Any:
    answer = ask(app, "GET", f"/v1/traces{query}", headers=bearer(key))
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_traces_are_listed_page_by_page_the_newest_first() -> None:
    app = locked(traces=5)
    ids = [asked(app) for _ in range(6)][:0:-1]
    found, after, more = list[str](), "", True
    while more:
        page = listed(app, "mine", f"?limit=2{after}")
        found += [one["id"] for one in page["data"]]
        after, more = f"&after={found[-1]}", page["has_more"]
    assert found == ids
    assert listed(app, "mine", "?limit=5")["has_more"] is False
    gone = ask(app, "GET", "/v1/traces?after=req_unknown", headers=bearer("mine"))
    refused(gone, 404, "trace_not_found")
    for query in ("limit=0", "limit=1001", "limit=x", f"limit={1:08}1999", f"limit={1:08}{'0' * 5000}", "own=maybe"):
        refused(ask(app, "GET", f"/v1/traces?{query}", headers=bearer("mine")), 400, "invalid_value")


def test_traces_are_listed_for_their_owner_and_for_admins_who_may_want_their_own_alone() -> None:
    app = locked()
    mine = asked(app)
    theirs = ask(app, headers=bearer("boss"), json=ASK).headers["x-request-id"]
    assert [one["id"] for one in listed(app, "mine")["data"]] == [mine]
    assert listed(app, "other")["data"] == []
    assert [one["id"] for one in listed(app, "boss")["data"]] == [theirs, mine]
    assert [one["id"] for one in listed(app, "boss", "?own=true")["data"]] == [theirs]
    refused(ask(app, "GET", f"/v1/traces?after={mine}", headers=bearer("other")), 404, "trace_not_found")
    refused(ask(app, "GET", "/v1/traces", headers=bearer("plain")), 403, "missing_scope")


def test_a_list_says_of_which_traces_a_key_is_shown_texts_and_shows_none() -> None:
    for retains, key, text in ((False, "boss", False), (True, "mine", False), (True, "boss", True)):
        app = locked(retain_text=retains)
        asked(app)
        answer = ask(app, "GET", "/v1/traces", headers=bearer(key))
        assert [one["text"] for one in answer.json()["data"]] == [text]
        assert MARKER not in answer.text
        assert "3 + 4" not in answer.text


def test_the_prompt_is_kept_and_shown_as_texts_are() -> None:
    secret = {"messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "A question."}]}
    for retains, key, shown in ((False, "boss", False), (True, "mine", False), (True, "boss", True)):
        app = locked(retain_text=retains)
        status, told = trace(app, asked(app, **secret, n=2), key)
        assert status == 200
        prompts = [choice.get("prompt") for choice in told["choices"]]
        assert prompts == [secret | {"tools": 0, "images": 0} if shown else None] * 2
        assert told.get("markers") == ({"before": "<think>\n", "behind": "\n</think>\n\n"} if shown else None)


def test_a_prompt_of_several_answers_is_kept_once() -> None:
    """A trace that has room for it once keeps its texts."""
    app = locked(retain_text=True, trace_bytes=200_000)
    long = [{"role": "user", "content": "word " * 15_000}]
    _, told = trace(app, asked(app, messages=long, n=4), "boss")
    assert [choice["prompt"]["messages"] for choice in told["choices"]] == [long] * 4


def test_a_trace_says_which_calls_answer_the_prompt_and_whose_thought_was_closed_by_force() -> None:
    app = locked(scripted(Chain("3+4=7\n" * 9, "It is 7.")), retain_text=True)
    wishes = {"strategy": {"name": "revision", "chains": 1, "rounds": 1}, "verifier": "agreement"}
    calls = trace(app, asked(app, thinking_budget=4000, **wishes), "boss")[1]["choices"][0]["calls"]
    assert calls[0]["text"]["own_prompt"] is True
    assert {call["text"]["own_prompt"] for call in calls} == {True, False}
    (call,) = trace(app, asked(app, thinking_budget=3), "boss")[1]["choices"][0]["calls"]
    assert call["text"]["forced"] is True
    (call,) = trace(app, asked(app, thinking_budget=4000), "boss")[1]["choices"][0]["calls"]
    assert (call["text"]["forced"], call["text"]["own_prompt"]) == (False, True)
