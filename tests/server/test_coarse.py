"""Keys for which the operator wants coarser numbers: what their callers see, and what accounts are told."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from pydantic import ValidationError

from ponder.compute.account import Bill, Intent
from ponder.compute.usage import Usage
from ponder.server.auth.keys import make
from ponder.server.settings import KeySettings, Settings
from ponder.testing import Chain, ScriptedEngine, always, in_virtual_time
from tests.server.serving import ASK, PATH, counted, door, events, refused

FINE, COARSE, LATE = make(), make(), make()
KEYS = [
    KeySettings(name="fine", hash=FINE[1]),
    KeySettings(name="coarse", hash=COARSE[1], scopes=frozenset({"infer"}), coarse_tokens=64),
    KeySettings(name="late", hash=LATE[1], scopes=frozenset({"infer"}), coarse_seconds=5.0),
]


class Account:
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.settled: list[Usage] = []

    async def reserve(self, intent: Intent) -> Bill:
        return Settled(self.settled)


class Settled:
    used = None

    def __init__(self, told: list[Usage]) -> None:
        self._told = told

    async def settle(self, usage: Usage, ending: str) -> None:
        self._told.append(usage)


def chain(thought: int) -> Chain:
    return Chain("t" * thought, "It is 7.")


def served(*chains: Chain, accounts: Sequence[Account] = (), **more: Any) -> FastAPI:
    return door(ScriptedEngine(always(*chains), **more), Settings(keys=KEYS), accounts=accounts)


def asked(app: FastAPI, key: str, **body: Any) -> tuple[httpx.Response, list[tuple[float, bytes]]]:
    """The answer in virtual time, and when each piece of it came, in seconds after the request."""
    pieces: list[tuple[float, bytes]] = []

    async def ask() -> httpx.Response:
        clock = asyncio.get_running_loop().time
        began = clock()

        async def heard(scope: Any, receive: Any, send: Any) -> None:
            async def sent(message: Any) -> None:
                if message.get("body"):
                    pieces.append((clock() - began, message["body"]))
                await send(message)

            await app(scope, receive, sent)

        headers = {"authorization": f"Bearer {key}"}
        async with httpx.AsyncClient(transport=httpx.ASGITransport(heard), base_url="http://door") as client:
            return await client.post(PATH["path"], json=ASK | body, headers=headers)

    return in_virtual_time(ask()), pieces


def facts(response: httpx.Response) -> tuple[Any, Any]:
    assert response.status_code == 200, response.text
    told = response.json()
    return told["usage"], told["thinking"]


def test_thoughts_of_different_lengths_look_alike_and_accounts_know_them_apart() -> None:
    account = Account()
    seen: set[str] = set()
    for length in (3, 30, 60):
        usage, thinking = facts(asked(served(chain(length), accounts=[account]), COARSE[0], thinking_budget=640)[0])
        seen.add(repr((usage, thinking)))
        assert usage["completion_tokens_details"]["reasoning_tokens"] == thinking["spent"] == 64
        assert usage["completion_tokens"] == usage["total_tokens"] - usage["prompt_tokens"]
    assert len(seen) == 1
    assert [usage.hidden for usage in account.settled] == sorted({usage.hidden for usage in account.settled})
    exact = facts(asked(served(chain(3)), FINE[0], thinking_budget=640)[0])[0]
    assert exact["completion_tokens_details"]["reasoning_tokens"] == account.settled[0].hidden < 64
    streamed = asked(served(chain(30)), COARSE[0], thinking_budget=640, stream=True)[0]
    assert events(streamed.text)[-1]["thinking"]["spent"] == 64


def test_an_answer_is_had_at_few_points_of_a_thought() -> None:
    app = served(chain(300))
    told = {budget: asked(app, COARSE[0], thinking_budget=budget, temperature=0)[0] for budget in range(0, 200, 7)}
    assert {facts(one)[1]["budget"] for one in told.values()} == {0, 64, 128, 192}
    assert len({repr(facts(one)[0]) for one in told.values()}) == 4
    assert facts(told[7])[1]["budget_clamped_from"] == 7
    assert told[7].headers["x-thinking-budget-clamped"] == "0"
    assert {facts(one)[1]["stopped_by"] for one in told.values()} == {"finished"}
    for limit in range(40, 200, 7):
        assert facts(asked(app, COARSE[0], max_completion_tokens=limit)[0])[1]["budget"] % 64 == 0
    assert facts(asked(app, COARSE[0], n=3, thinking_budget=600)[0])[1]["budget"] == 576
    refusal = asked(app, COARSE[0], thinking_budget=100, on_overflow="error")[0]
    assert "multiple of 64 tokens" in refused(refusal, 400, "invalid_value", "thinking_budget")


@pytest.mark.parametrize("stream", [False, True])
def test_a_failure_tells_no_more_than_an_answer(stream: bool) -> None:
    failures: list[dict[str, Any]] = [{"fail_at": 0}, {"delay": 1.0}]
    for fails in failures:
        app = served(chain(200), **fails)
        usage = usage_of(asked(app, COARSE[0], thinking_budget=640, timeout=5, stream=stream)[0])
        assert usage is None or usage["completion_tokens_details"]["reasoning_tokens"] % 64 == 0
        if "fail_at" in fails:
            fine = usage_of(asked(app, FINE[0], thinking_budget=640, stream=stream)[0])
            assert fine is None or usage is not None


def usage_of(response: httpx.Response) -> Any:
    """The usage of an answer or a failure, whole or streamed; None where it has none."""
    pieces = response.text.split("\n\n") if response.text.startswith("data:") else [response.text]
    told: list[dict[str, Any]] = [
        json.loads(piece.removeprefix("data: ")) for piece in pieces if piece and "[DONE]" not in piece
    ]
    return next((one["usage"] for one in told if one.get("usage")), None)


@pytest.mark.parametrize("stream", [False, True])
def test_the_first_text_is_seen_at_a_beat(stream: bool) -> None:
    seen: set[int] = set()
    for length in (10, 100, 290):
        response, pieces = asked(served(chain(length), delay=0.01), LATE[0], thinking_budget=640, stream=stream)
        assert response.status_code == 200
        assert (
            "It is 7."
            in "".join(
                choice["delta"].get("content") or "" for event in events(response.text) for choice in event["choices"]
            )
            if stream
            else "It is 7." in response.text
        )
        first = next(at for at, piece in pieces if b'"content": "I' in piece or b'"content":"I' in piece)
        assert first == pytest.approx(round(first / 5) * 5, abs=0.01)
        seen.add(round(first))
    assert seen == {5}
    fine = asked(served(chain(10), delay=0.01), FINE[0], thinking_budget=640, stream=stream)[1]
    assert next(at for at, piece in fine if b'"content": "I' in piece or b'"content":"I' in piece) < 1


def test_the_exact_numbers_are_counted() -> None:
    app = served(chain(30))
    asked(app, COARSE[0], thinking_budget=640)
    exact = counted(app, 'ponder_billed_tokens_total{kind="reasoning"}')
    asked(app, FINE[0], thinking_budget=640)
    assert counted(app, 'ponder_billed_tokens_total{kind="reasoning"}') == 2 * exact


def test_a_key_whose_other_scopes_show_exact_numbers_is_refused() -> None:
    with pytest.raises(ValidationError, match="scope infer alone: usage would show exact ones"):
        KeySettings(name="a", hash=FINE[1], coarse_tokens=64)
    assert refused(asked(served(chain(1)), "nobody")[0], 401)
