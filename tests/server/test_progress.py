"""A stream that asks for it tells how far the work is: counts, seldom, on change, and to nobody whose numbers are
coarse."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import httpx
import openai
import pytest
from fastapi import FastAPI

from ponder.server.auth.keys import make
from ponder.server.settings import KeySettings, Settings
from ponder.server.settings.prices import PriceBook
from ponder.testing import CARD, MARKER, Chain, ScriptedEngine, always, in_virtual_time
from tests.server.serving import ASK, PATH, door, events, in_no_time

COARSE, FINE = make(), make()
KEYS = [
    KeySettings(name="fine", hash=FINE[1], scopes=frozenset({"infer", "reveal"})),
    KeySettings(name="coarse", hash=COARSE[1], scopes=frozenset({"infer"}), coarse_tokens=64),
]
ANSWERS = ("It is 7.", "It is 7.", "It is 9.", "It is 7.")
VOTE: dict[str, Any] = {"name": "majority_vote", "n": 4, "mode": "rounds", "first": 2, "confidence": 1}
WANTED: dict[str, Any] = {"stream": True, "stream_options": {"include_progress": True}}


def served(delay: float = 0.05, **settings: Any) -> FastAPI:
    chains = [Chain(f"{MARKER} {'and so on ' * (n + 1)}", answer) for n, answer in enumerate(ANSWERS)]
    return door(ScriptedEngine(always(*chains), delay=delay), Settings(**settings))


def told(chunks: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [chunk["progress"] for chunk in chunks if "progress" in chunk]


def test_it_tells_samples_votes_tokens_and_what_is_being_done() -> None:
    response = in_no_time(served(), strategy=VOTE, thinking_budget=2000, **WANTED)
    chunks = events(response.text)
    progress = told(chunks)
    assert set(progress[0]) == {"index", "phase", "samples", "samples_planned", "votes", "tokens_left"}
    phases = [["waiting", "thinking", "judging", "answering"].index(one["phase"]) for one in progress]
    assert phases == sorted(phases)
    assert progress[-1]["samples"] >= 2
    assert progress[-1]["samples_planned"] >= 2
    assert max(sum(one["votes"]) for one in progress) >= 2
    left = [one["tokens_left"] for one in progress]
    assert left == sorted(left, reverse=True)
    assert left[-1] < 2000
    assert MARKER not in response.text
    # All of it comes before the answer ends, and after the role.
    ends = [n for n, chunk in enumerate(chunks) if chunk["choices"] and chunk["choices"][0]["finish_reason"]]
    places = [n for n, chunk in enumerate(chunks) if "progress" in chunk]
    assert 0 < places[0] < places[-1] < ends[0]
    assert all(chunk["choices"] == [] for chunk in chunks if "progress" in chunk)


def test_it_comes_twice_a_second_at_most_and_only_on_change() -> None:
    async def ask() -> list[tuple[float, bytes]]:
        app, clock, pieces = served(delay=0.01), asyncio.get_running_loop().time, list[tuple[float, bytes]]()

        async def heard(scope: Any, receive: Any, send: Any) -> None:
            async def sent(message: Any) -> None:
                pieces.append((clock(), message.get("body", b"")))
                await send(message)

            await app(scope, receive, sent)

        async with httpx.AsyncClient(transport=httpx.ASGITransport(heard), base_url="http://door") as client:
            await client.post(PATH["path"], json=ASK | WANTED | {"strategy": VOTE, "thinking_budget": 2000})
        return pieces

    pieces = in_virtual_time(ask())
    times = [at for at, body in pieces for _ in range(body.count(b'"progress"'))]
    assert len(times) > 2
    assert all(later - earlier >= 0.49 for earlier, later in pairwise(times))
    told = [line for _, body in pieces for line in body.split(b"\n\n") if b'"progress"' in line]
    assert len(set(told)) == len(told)


def test_nobody_hears_it_who_did_not_ask_and_no_key_with_coarse_numbers() -> None:
    assert told(events(in_no_time(served(), stream=True, thinking_budget=500).text)) == []
    app = served(keys=KEYS)
    heard = in_no_time(app, {"authorization": f"Bearer {FINE[0]}"}, thinking_budget=512, **WANTED)
    assert told(events(heard.text))
    assert "x-ignored-parameters" not in heard.headers
    coarse = in_no_time(app, {"authorization": f"Bearer {COARSE[0]}"}, thinking_budget=512, **WANTED)
    assert told(events(coarse.text)) == []
    assert coarse.headers["x-ignored-parameters"] == "stream_options.include_progress"


def test_it_tells_the_money_that_is_left() -> None:
    book = PriceBook.model_validate(
        {"version": "1", "default": {"input": 1, "thinking": 2, "answer": 3, "verifier": 1}}
    )
    app = served(prices=book)
    paid = told(events(in_no_time(app, thinking_budget=500, max_cost_usd=0.01, **WANTED).text))
    left = [one["cost_left_usd"] for one in paid]
    assert left == sorted(left, reverse=True)
    assert 0 < left[-1] < left[0] <= 0.01
    free = told(events(in_no_time(app, thinking_budget=500, **WANTED).text))
    assert all("cost_left_usd" not in one for one in free)


@pytest.mark.parametrize("usage", [False, True])
def test_openais_client_and_its_helper_read_such_a_stream(usage: bool) -> None:
    async def ask() -> tuple[str, list[Any], Any]:
        transport = httpx.ASGITransport(served())
        options: Any = {"include_progress": True, "include_usage": usage}
        client_over: Any = httpx.AsyncClient(transport=transport)
        async with openai.AsyncOpenAI(base_url="http://door/v1", api_key="none", http_client=client_over) as client:
            question: Any = ASK["messages"]
            stream = await client.chat.completions.create(
                model="demo", messages=question, stream=True, stream_options=options,
                extra_body={"strategy": VOTE, "thinking_budget": 2000},
            )  # fmt: skip
            chunks = [chunk async for chunk in stream]
            text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
            async with client.chat.completions.stream(
                model="demo", messages=question, stream_options=options,
                extra_body={"strategy": VOTE, "thinking_budget": 2000},
            ) as helper:  # fmt: skip
                final = await helper.get_final_completion()
            return text, [told for chunk in chunks if (told := getattr(chunk, "progress", None)) is not None], final

    text, progress, final = in_virtual_time(ask())
    assert text == final.choices[0].message.content == "It is 7."
    assert progress
    assert (final.usage is not None) == usage


# -- what else a stream tells ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", ["direct", "best_of_n"])
def test_a_thought_that_may_be_seen_comes_before_the_answer_it_led_to(strategy: str) -> None:
    headers = {"authorization": f"Bearer {FINE[0]}"}
    body: dict[str, Any] = {"include_reasoning": True, "thinking_budget": 2000, "strategy": strategy, "stream": True}
    chunks = events(in_no_time(served(keys=KEYS), headers, **body).text)
    deltas = [choice["delta"] for chunk in chunks for choice in chunk["choices"]]
    thoughts = [n for n, delta in enumerate(deltas) if delta.get("reasoning")]
    texts = [n for n, delta in enumerate(deltas) if delta.get("content")]
    assert len(thoughts) == 1
    assert thoughts[0] < texts[0]
    assert MARKER in deltas[thoughts[0]]["reasoning"]


@pytest.mark.parametrize("usage", [False, True])
def test_a_stream_that_fails_tells_its_usage_also_to_clients_that_raise_over_the_error(usage: bool) -> None:
    app = door(ScriptedEngine(always(Chain("t" * 200, "No.")), fail_at=0, card=CARD))
    response = in_no_time(app, stream=True, thinking_budget=500, stream_options={"include_usage": usage})
    lines = [line for line in response.text.split("\n\n") if line.startswith("data:")]
    chunks = [json.loads(line.removeprefix("data: ")) for line in lines]
    failure = chunks[-1]
    assert failure["error"]["code"] == "engine_error"
    assert failure["usage"]["completion_tokens"] > 0
    last = chunks[-2]
    assert (last.get("usage") == failure["usage"] and last["choices"] == []) == usage
