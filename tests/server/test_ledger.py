"""The ledger behind the door: a row is there before anything is made, and says what was; `test_one_bill.py` compares it
with all else that tells of a request."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from ponder.clients.answers import Thinking
from ponder.compute.identity import CallIdentity
from ponder.compute.lengths import Lengths
from ponder.metering.database import database
from ponder.metering.receipts import Signer, read
from ponder.metering.upkeep import state
from ponder.server.registry import Registry
from ponder.testing import Chain, ScriptedEngine, ScriptedRewards, always
from tests.engines.mortal import Mortal, MortalProcess, supervised
from tests.metering.ledgers import execute
from tests.server.ledgered import ledgered, options, told
from tests.server.serving import CHAIN, Line, refused, scripted


@pytest.fixture
def sqlite(tmp_path: Any) -> str:
    return f"sqlite:///{tmp_path}/ledger.db"


@dataclass
class HangsUp(ScriptedEngine):
    """Says so when it begins a token."""

    at: int = -1
    then: Callable[[], None] = lambda: None

    async def wait(self, call: CallIdentity) -> None:
        if self.produced == self.at:
            self.then()
            await asyncio.sleep(0)
        await super().wait(call)


SOME = ("direct", "best_of_n")
OTHERS = [pytest.param(name, marks=pytest.mark.soak) for name in sorted(Registry().strategies) if name not in SOME]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("strategy", [*SOME, *OTHERS])
def test_a_hang_up_at_every_token_is_billed_for_what_was_made(strategy: str, stream: bool, sqlite: str) -> None:
    async def go() -> None:
        engine, rewards = HangsUp(always(Chain("think twice", "Yes.")), tail=2), ScriptedRewards(lambda _: 0.5)
        async with ledgered(engine, sqlite, lengths=Lengths(12, 16), reward_model=rewards) as on:
            at = 0
            while True:
                before, known = engine.produced, on.rows.keys()
                line = Line(stream=stream, strategy=strategy, thinking_budget=60)
                engine.at, engine.then = before + at, line.gone.set
                await line.call(on.app)
                (new,) = on.rows.keys() - known
                row = on.rows[new]
                assert row["thinking"] + row["answer"] == engine.produced - before
                assert row["settled_ms"]
                if not line.gone.is_set():
                    assert row["outcome"] == "answered"
                    break
                at += 1
            assert at > 15
            assert (on.ledger.unsettled, on.ledger.reserved) == (0, 0)

    asyncio.run(go())


def test_what_a_caller_says_of_a_request_stands_in_its_row(sqlite: str) -> None:
    async def go() -> None:
        async with ledgered(scripted(), sqlite) as on:
            response = await on.chat(user="u-1", metadata={"team": "red"}, verifier="agreement", thinking_budget=-1)
            row = on.rows[response.headers["x-request-id"]]
            assert (row["user"], row["metadata"], row["verifier"]) == ("u-1", {"team": "red"}, "agreement")
            assert row["budget_asked"] is None

    asyncio.run(go())


@pytest.mark.parametrize("stream", [False, True])
def test_nothing_is_begun_without_a_row(stream: bool, sqlite: str) -> None:
    async def go() -> None:
        engine = scripted()
        async with ledgered(engine, sqlite) as on:
            execute(sqlite, "ALTER TABLE requests RENAME TO elsewhere")
            response = await on.chat(stream=stream)
            refused(response, 503, code="ledger_unavailable")
            assert int(response.headers["retry-after"]) > 0
            assert engine.calls == 0
            refused(await on.get("/readyz"), 503, code="ledger_unavailable")
            execute(sqlite, "ALTER TABLE elsewhere RENAME TO requests")
            async with asyncio.timeout(30):
                while on.ledger.away or on.ledger.unsettled:  # noqa: ASYNC110 - another thread does it
                    await asyncio.sleep(0.01)
            assert (await on.chat()).status_code == 200
            assert (await on.get("/readyz")).status_code == 200

    asyncio.run(go())


@pytest.mark.parametrize("stream", [False, True])
def test_what_runs_is_answered_though_the_ledger_is_away_and_settled_later(stream: bool, sqlite: str) -> None:
    async def go() -> None:
        engine = HangsUp(always(CHAIN), at=5, then=lambda: execute(sqlite, "ALTER TABLE requests RENAME TO elsewhere"))
        async with ledgered(engine, sqlite) as on:
            response = await on.chat(**options(stream))
            last = told(response, stream)
            assert on.ledger.unsettled == 1
            execute(sqlite, "ALTER TABLE elsewhere RENAME TO requests")
            async with asyncio.timeout(30):
                while on.ledger.unsettled:  # noqa: ASYNC110 - another thread does it
                    await asyncio.sleep(0.01)
            row = on.rows[response.headers["x-request-id"]]
            assert row["thinking"] + row["answer"] == last["usage"]["completion_tokens"] == engine.produced
            assert row["outcome"] == "answered"

    asyncio.run(go())


def test_what_was_made_in_vain_stands_in_the_row_and_is_not_billed(sqlite: str) -> None:
    """A constrained answer is begun anew when its engine has died; the next has nothing in its cache."""
    wish = {"seed": 5, "response_format": {"type": "json_object"}, "thinking_budget": 60}
    wish |= {"messages": [{"role": "user", "content": "As JSON."}]}

    class Cold(MortalProcess):
        async def start(self) -> None:
            await super().start()
            self.engine.cached = 0

    async def go(dies_at: tuple[int, ...], address: str) -> tuple[Any, int]:
        engine = Mortal(dies_at=dies_at, delay=0.0, cached=5, process=Cold(takes=0.0))
        signer = Signer(Ed25519PrivateKey.generate())
        async with supervised(engine) as one, ledgered(one, address, signer=signer) as on:
            response = await on.chat(**wish)
            assert response.status_code == 200, response.text
            return on.rows[response.headers["x-request-id"]], engine.produced

    whole, made = asyncio.run(go((), sqlite))
    row, again = asyncio.run(go((made - 3,), sqlite.replace("ledger", "other")))
    assert again > made
    assert row["wasted"] == again - made == read(row["receipt"])[1]["wasted"]
    assert whole["cached"] == 5
    billed = ("prompt", "cached", "thinking", "answer", "cost_nano_usd")
    assert [row[name] for name in billed] == [whole[name] for name in billed]


def test_a_request_of_which_an_end_was_not_seen_is_marked_wherever_it_is_counted(sqlite: str) -> None:
    """Its engine dies in the middle, and is started again: the answer is whole, and what it made beside is unknown."""

    async def go() -> None:
        engine = Mortal(dies_at=(20,), delay=0.0, process=MortalProcess(takes=0.0))
        signer = Signer(Ed25519PrivateKey.generate())
        async with supervised(engine) as one, ledgered(one, sqlite, signer=signer) as on:
            marked = await on.chat(thinking_budget=60, seed=5)
            plain = await on.chat(thinking_budget=60, seed=5)
            for response, unseen in ((marked, 1), (plain, 0)):
                assert response.status_code == 200, response.text
                name = response.headers["x-request-id"]
                assert Thinking.model_validate(response.json()["thinking"]).unseen_calls == unseen
                assert ("unseen_calls" in response.json()["thinking"]) is bool(unseen)
                assert on.rows[name]["unseen_calls"] == unseen == read(on.rows[name]["receipt"])[1]["unseen_calls"]
                assert (await on.get(f"/v1/usage/{name}")).json()["unseen_calls"] == unseen
                (choice,) = (await on.get(f"/v1/traces/{name}")).json()["choices"]
                assert [call["unseen"] for call in choice["calls"]] == [bool(unseen)]
            (total,) = (await on.get("/v1/usage")).json()["data"]
            assert (total["requests"], total["unseen_requests"], total["unseen_calls"]) == (2, 1, 1)
            assert 'ponder_unseen_calls_total{model="demo"} 1.0' in (await on.get("/metrics")).text
        assert state(database(sqlite)).unseen == 1

    asyncio.run(go())
