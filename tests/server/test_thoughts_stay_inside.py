"""Thoughts stay inside, from vLLM's token ids to the socket: the real engine and the real application over a vLLM that
writes by a script, marks every thought, and does all that models do wrong."""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections.abc import Iterator, Sequence
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError

from ponder.compute.lengths import Lengths
from ponder.server.auth.keys import digest
from ponder.server.settings import KeySettings, Settings
from ponder.testing import MARKER, ScriptedRewards
from tests.engines.scripted_vllm import FAMILIES, Fate, Nature, ScriptedVllm, engine
from tests.server.serving import ASK, ask, door, events, its_door, joined, refused, serving

TRACE = "zz"
"""Of the marker of every thought; nothing else that is sent or written down holds it."""
LETTERS = {"x", "z"}
"""Of it too; no answer holds them."""
KEY = {"authorization": "Bearer pk-test"}
WHOLE = "The answer is 7."
ROOMY = 1500

STRATEGIES: list[Any] = [
    "direct",
    {"name": "majority_vote", "n": 5},
    {"name": "majority_vote", "n": 6, "mode": "rounds", "first": 2},
    {"name": "best_of_n", "n": 3},
    {"name": "best_of_n", "n": 3, "select": "argmax"},
    {"name": "revision", "rounds": 2},
    {"name": "revision", "rounds": 1, "chains": 2},
    {"name": "beam_search", "step_tokens": 12},
    {"name": "beam_search", "step_tokens": 5, "lookahead": 1, "steps": 6},
    {"name": "dvts", "step_tokens": 12},
    {"name": "particle_filter", "particles": 3, "step_tokens": 12},
    "auto",
    {"name": "budget_forcing", "rounds": 2},
    {"name": "deep_think", "chains": 3},
    {"name": "short_m_at_k", "n": 4, "m": 2, "every": 16},
    {"name": "rebase", "beams": 3, "step_tokens": 12},
]
VERIFIERS = ["judge", "prm", "confidence", "agreement", {"name": "rules", "pattern": "7"}, "consensus"]
WISHES: list[dict[str, Any]] = [
    {},
    *({"thinking_budget": budget} for budget in (0, 1, 3, 8, 64, -1)),
    *({"strategy": strategy, "thinking_budget": budget} for strategy in STRATEGIES for budget in (8, 64, ROOMY)),
    *(
        {"strategy": {"name": name}, "verifier": verifier, "thinking_budget": 400}
        for name, verifier in zip(("best_of_n", "revision", "beam_search") * 2, VERIFIERS, strict=False)
    ),
    {"n": 3, "thinking_budget": 200},
    {"n": 2, "thinking_budget": -1, "strategy": "beam_search"},
    {"reasoning": {"summary": "detailed"}},
    {"reasoning": {"summary": "auto"}, "strategy": "majority_vote", "thinking_budget": 400},
    {"logprobs": True, "top_logprobs": 5},
    {"logprobs": True, "strategy": "best_of_n", "thinking_budget": 200},
    {"logit_bias": {"300": 5}},
    {"stop": [MARKER[:3], "never there"]},
    {"stop": [" answer", "\n"], "logprobs": True},
    {"stop": ["is"], "strategy": "majority_vote", "thinking_budget": 400},
    {"stop": ["7"], "strategy": "beam_search", "thinking_budget": 400},
    {"max_completion_tokens": 9},
    {"max_completion_tokens": 40},
    *({"max_answer_tokens": n, "thinking_budget": 0 if n % 2 else -1} for n in range(2, 16)),
    {"max_answer_tokens": 4, "strategy": "beam_search", "thinking_budget": 200},
    {"response_format": {"type": "json_object"}},
    {"tools": [{"type": "function", "function": {"name": "f"}}]},
    {"model": "demo:majority_vote"},
    {"seed": 7, "temperature": 0.5, "include_reasoning": False},
]
CUT = {"stop", "max_completion_tokens", "max_answer_tokens", "response_format"}

HABITS: list[tuple[str, Nature]] = [
    ("ids", Nature()),
    ("ids", Nature("forgotten")),
    ("ids", Nature("turn ended")),
    ("ids", Nature(second="closed")),
    ("ids", Nature(second="forgotten")),
    ("ids", Nature(second="turn ended", letters=True)),
    ("ids", Nature("turn ended", second="forgotten", obeys=False)),
    ("text", Nature(letters=True)),
    ("text", Nature("forgotten")),
    ("text", Nature("turn ended")),
    ("text", Nature(second="closed", letters=True)),
    ("text", Nature(second="forgotten", letters=True)),
    ("text", Nature(second="turn ended", letters=True)),
    ("text", Nature("turn ended", second="closed", obeys=False)),
    ("no-start", Nature(letters=True)),
    ("no-start", Nature("forgotten")),
    ("no-start", Nature("turn ended")),
    ("named", Nature()),
    ("named", Nature("forgotten")),
    ("named", Nature(second="closed", letters=True)),
    ("named", Nature("turn ended", second="forgotten", obeys=False)),
    ("wrapped", Nature()),
    ("wrapped", Nature("forgotten", letters=True)),
    ("wrapped", Nature(second="closed")),
    ("channels", Nature()),
    ("channels", Nature("forgotten")),
    ("channels", Nature("turn ended", letters=True)),
    ("channels", Nature(second="closed")),
    ("channels", Nature(second="forgotten")),
    ("silent", Nature()),
]
"""(family of the profile, nature of the model): what there is of forgotten and second thoughts."""


def keyed(**more: Any) -> Settings:
    scopes: Any = frozenset({"infer", "trace", "usage", "admin"})
    return Settings(keys=[KeySettings(name="ann", hash=digest("pk-test"), scopes=scopes)], **more)


def served(llm: ScriptedVllm, **settings: Any) -> FastAPI:
    """The application over the real engine; thoughts and answers are kept with the traces."""
    rewards = ScriptedRewards(lambda line: 0.9 if MARKER in line else 0.4)
    return door(engine(llm), keyed(retain_text=True, **settings), reward_model=rewards, lengths=Lengths(20, 40))


@pytest.fixture(autouse=True)
def _log(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    caplog.set_level(logging.DEBUG)
    yield
    assert TRACE not in caplog.text


def without_names(told: dict[str, Any]) -> str:
    """What a message says, without the name of a field that has one of the letters."""
    return json.dumps(told).replace('"index"', "")


def nothing_in(response: httpx.Response) -> None:
    """No thought in all that a caller gets, drawn tokens with log-probabilities included."""
    assert TRACE not in response.text
    assert TRACE not in str(response.headers)
    if response.headers["content-type"].startswith("text/event-stream"):
        chunks = events(response.text)
    else:
        chunks = [response.json()]
    for choice in (choice for chunk in chunks for choice in chunk["choices"]):
        # A thought may come letter by letter.
        assert LETTERS.isdisjoint(without_names(choice.get("message") or choice["delta"]))
        logprobs: Any = choice.get("logprobs")
        for token in logprobs["content"] if logprobs else ():
            assert LETTERS.isdisjoint(token["token"])


def nothing_kept(app: FastAPI, *request_ids: str) -> None:
    """No thought in what is told of these requests, or of all of them, afterwards."""
    for url in (*(f"/v1/traces/{one}" for one in request_ids), "/metrics", "/healthz", "/v1/models"):
        told = ask(app, "GET", url, headers=KEY)
        assert told.status_code in (200, 503), told.text
        assert TRACE not in told.text


def contents(response: httpx.Response) -> tuple[list[tuple[str, str]], dict[str, Any], dict[str, Any]]:
    """((text, finish reason) of each choice, usage, thinking) of an answer, streamed or not."""
    if not response.headers["content-type"].startswith("text/event-stream"):
        whole = response.json()
        choices = [(c["message"]["content"], c["finish_reason"]) for c in whole["choices"]]
        return choices, whole["usage"], whole["thinking"]
    chunks = events(response.text)
    texts: dict[int, str] = {}
    finish: dict[int, str] = {}
    for choice in (choice for chunk in chunks for choice in chunk["choices"]):
        texts[choice["index"]] = texts.get(choice["index"], "") + (choice["delta"].get("content") or "")
        finish[choice["index"]] = choice["finish_reason"]
    return [(texts[i], finish[i]) for i in texts], chunks[-1]["usage"], chunks[-1]["thinking"]


def asked(app: FastAPI, stream: bool, **wish: Any) -> httpx.Response:
    more = {"stream": True, "stream_options": {"include_usage": True}} if stream else {}
    return ask(app, json=ASK | more | wish, headers=KEY)


class Reading(ScriptedVllm):
    """Keeps what it has read."""

    def begin(self, number: str, prompt: list[int], params: Any) -> Any:
        self.read = self.text(prompt)
        return super().begin(number, prompt, params)


CALL = '<tool_call>\n{"name": "f", "arguments": {"n": ', "7}}\n</tool_call>"


def called(response: httpx.Response) -> dict[str, Any]:
    """The message that calls, as a client sends it back."""
    if not response.headers["content-type"].startswith("text/event-stream"):
        calls = response.json()["choices"][0]["message"]["tool_calls"]
    else:
        deltas = [choice["delta"] for chunk in events(response.text) for choice in chunk["choices"]]
        calls = joined(deltas)
    kept = [{name: call[name] for name in ("id", "type", "function")} for call in calls]
    return {"role": "assistant", "content": None, "tool_calls": kept}


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("family", ["ids", "named", "wrapped", "text", "no-start", "silent"])
def test_a_thought_that_comes_back_with_the_results_of_its_calls(family: str, stream: bool) -> None:
    """It is read by models that read their thoughts between calls, by no others, and stays inside."""
    llm = Reading(FAMILIES[family].model_copy(update={"tools": "hermes"}), Nature(answer=CALL))
    app = served(llm)
    tools = [{"type": "function", "function": {"name": "f"}}]
    ids: list[str] = []
    for strategy in ("direct", {"name": "majority_vote", "n": 3}, {"name": "best_of_n", "n": 3}, "revision"):
        wish: dict[str, Any] = {"tools": tools, "strategy": strategy, "thinking_budget": 300}
        messages: list[dict[str, Any]] = [{"role": "user", "content": "What is 3 + 4?"}]
        for turn in range(3):
            made = llm.made
            response = asked(app, stream, messages=messages, **wish)
            assert response.status_code == 200, response.text
            assert TRACE not in response.text + str(response.headers)
            told = response.json() if not stream else events(response.text)[-1]
            assert told["usage"]["completion_tokens"] == llm.made - made
            if strategy == "direct":
                kept = llm.read[: llm.read.rindex("assistant")].count(TRACE) > 0
                assert kept == (turn > 0 and llm.profile.shows_thoughts)
            message = called(response)
            result = {"role": "tool", "tool_call_id": message["tool_calls"][0]["id"], "content": "7"}
            messages.extend((message, result))
            ids.append(response.headers["x-request-id"])
        refusal = asked(app, stream, messages=messages, **wish | {"strategy": "nobody's"})
        assert refusal.status_code == 400
        assert TRACE not in refusal.text
    nothing_kept(app, *ids)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize(("family", "nature"), HABITS, ids=str)
def test_whatever_a_model_does_and_a_caller_asks(family: str, nature: Nature, stream: bool) -> None:
    """No thought outside; and the answer is the visible text, within its budget, every token billed. Of a
    habit every fourth wish is streamed and every fourth is not, of the next habit those beside."""
    first = HABITS.index((family, nature)) + 2 * stream
    thoughts_stay_inside(family, nature, stream, WISHES[first % 4 :: 4])


@pytest.mark.soak
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize(("family", "nature"), HABITS, ids=str)
def test_whatever_a_model_does_and_a_caller_asks_all_of_it(family: str, nature: Nature, stream: bool) -> None:
    thoughts_stay_inside(family, nature, stream, WISHES)


def thoughts_stay_inside(family: str, nature: Nature, stream: bool, wishes: Sequence[dict[str, Any]]) -> None:
    llm = ScriptedVllm(FAMILIES[family], nature)
    app = served(llm)
    ids: list[str] = []
    for wish in wishes:
        made = llm.made
        response = asked(app, stream, **wish)
        assert response.status_code == 200, (wish, response.text)
        nothing_in(response)
        choices, usage, thinking = contents(response)
        reasoning = usage["completion_tokens_details"]["reasoning_tokens"]
        assert usage["completion_tokens"] == llm.made - made, wish
        assert reasoning == thinking["spent"] <= thinking["budget"], wish
        if wish.get("thinking_budget", -1) >= 0:
            assert reasoning <= wish["thinking_budget"], wish
        assert llm.running == 0, wish
        for text, finish in choices:
            # A chain cut in the middle of a marker that is text ends with a part of it, as it might be answer.
            text = re.sub("<(t(h(o(u(g(ht?)?)?)?)?)?)?|</?(r(e(s(p(o(n(se?)?)?)?)?)?)?)?$", "", text)
            assert text == WHOLE if finish == "stop" and CUT.isdisjoint(wish) else text, (wish, text, finish)
        ids.append(response.headers["x-request-id"])
    nothing_kept(app, *ids)
    assert MARKER in llm.hidden or not llm.profile.thinks


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize(
    "strategy",
    ["direct", pytest.param({"name": "best_of_n", "n": 4}, id="best_of_n"), "beam_search", "auto"],
)
@pytest.mark.parametrize(
    ("family", "second", "stuck"),
    [
        ("ids", "forgotten", f"<think>\n{MARKER[:6]}"),
        ("ids", "forgotten", "The answer<think>"),
        ("ids", "forgotten", f"The answer<think>{MARKER[:6]}"),
        ("text", "forgotten", f"{MARKER}!\n</thou"),
        ("text", "forgotten", "The answer<thou"),
        ("text", "forgotten", "The answer<thought>"),
        ("text", "closed", f"The answer<thought>{MARKER}!\n</tho"),
        ("named", "closed", f"<|channel>thought\n{MARKER[:6]}"),
        ("named", "forgotten", "The answer<|channel>"),
        ("wrapped", "closed", "</think>\n<resp"),
        ("wrapped", "forgotten", "<response>The answer<think>"),
        ("wrapped", "closed", " is 7.</resp"),
        ("channels", "closed", MARKER[:6]),
        ("channels", "closed", f"{MARKER}!\n<|end|>"),
        ("channels", "closed", "<|end|><|start|>assistant<|channel|>"),
        ("channels", "closed", "<|channel|>final"),
        ("channels", "closed", "<|message|>The answ"),
    ],
)
def test_cut_short_at_any_place_it_goes_on_behind_the_thought(
    family: str, second: Fate, stuck: str, strategy: str | dict[str, Any], stream: bool
) -> None:
    """The model hangs within a thought or a marker until the server goes down; it is asked to answer from there."""
    if stuck.endswith("<resp") and strategy == "beam_search":
        # Of an answer that is drawn by itself, what wraps it is put in and not written.
        stuck = "<response>The"
    nature = Nature(second=second, letters=True, obeys=False, lines=1)
    llm = ScriptedVllm(FAMILIES[family], nature, (1,), stuck=stuck)
    app = served(llm, drain_timeout=0.01)

    async def drained() -> httpx.Response:
        body = ASK | {"strategy": strategy, "thinking_budget": ROOMY, "stream": stream}
        body |= {"stream_options": {"include_usage": True}} if stream else {}
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://door", headers=KEY) as client:
            async with asyncio.TaskGroup() as group:
                asking = group.create_task(client.post("/v1/chat/completions", json=body))
                async with asyncio.timeout(20):
                    await llm.hangs.wait()
                await its_door(app).drain()
            return asking.result()

    response = asyncio.run(drained())
    nothing_in(response)
    choices, usage, thinking = contents(response)
    assert choices[0][0].startswith("The answer"), choices
    assert usage["completion_tokens"] == llm.made
    assert thinking["stopped_by"] == "draining"
    assert llm.running == 0
    nothing_kept(app, response.headers["x-request-id"])


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("strategy", ["direct", "majority_vote", "beam_search", "revision"])
@pytest.mark.parametrize(
    "failing",
    [
        {"error": EngineDeadError(MARKER)},
        {"error": EngineGenerateError(MARKER)},
        {"error": RuntimeError(MARKER)},
        {"error": UnicodeDecodeError("utf-8", MARKER.encode(), 0, 1, MARKER)},
        {"refusal": ValueError(MARKER)},
        {"refusal": EngineDeadError(MARKER)},
        {"refusal": KeyError(MARKER)},
    ],
    ids=str,
)
def test_no_error_of_vllm_tells_a_thought(failing: dict[str, Any], strategy: str, stream: bool) -> None:
    llm = ScriptedVllm(FAMILIES["ids"], Nature("forgotten"), (3,), **failing)
    app = served(llm)
    response = asked(app, stream, strategy=strategy, thinking_budget=400)
    assert TRACE not in response.text
    assert TRACE not in str(response.headers)
    if not stream:
        refused(response, response.status_code)
    assert llm.running == 0
    for url in (f"/v1/traces/{response.headers['x-request-id']}", "/metrics", "/healthz"):
        assert TRACE not in ask(app, "GET", url, headers=KEY).text


def test_a_key_without_the_scope_gets_no_thought_and_with_it_both() -> None:
    llm = ScriptedVllm(FAMILIES["ids"], Nature(second="closed"))
    assert MARKER not in asked(served(llm), False, include_reasoning=True).text
    assert MARKER in llm.hidden
    scopes: Any = frozenset({"infer", "reveal"})
    open_door = door(engine(llm), Settings(keys=[KeySettings(name="ann", hash=digest("pk-test"), scopes=scopes)]))
    told = asked(open_door, False, include_reasoning=True).json()["choices"][0]["message"]
    assert told["content"] == WHOLE
    assert told["reasoning"].count(MARKER) == 6


@pytest.mark.parametrize("family", FAMILIES)
def test_through_a_socket_event_by_event(family: str) -> None:
    llm = ScriptedVllm(FAMILIES[family], Nature(second="forgotten", letters=True))
    with serving(served(llm)) as place, httpx.Client(base_url=place.url, headers=KEY, timeout=60) as client:
        for wish in WISHES[::4]:
            with client.stream("POST", "/v1/chat/completions", json=ASK | wish | {"stream": True}) as response:
                raw = b"".join(response.iter_raw())
            assert raw.endswith(b"data: [DONE]\n\n")
            for choice in (choice for chunk in events(raw.decode()) for choice in chunk["choices"]):
                assert LETTERS.isdisjoint(without_names(choice["delta"]))
        assert TRACE not in client.get("/metrics").text
    assert MARKER in llm.hidden or not llm.profile.thinks
