"""How near keys are to their limits is told as their rows have it: to each key its own, to administrators all."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from ponder.server.auth.keys import digest
from ponder.server.settings import KeySettings, Settings
from ponder.server.settings.prices import PriceBook
from ponder.testing import Chain, ScriptedEngine, always
from tests.server.ledgered import ledgered
from tests.server.serving import ask, door, refused

LIMITED = {
    "thinking_tokens_per_minute": 100_000,
    "thinking_tokens_per_day": 1000,
    "usd_per_month": "0.5",
    "max_inflight": 4,
}
PRICES = PriceBook.model_validate({"version": "test", "models": {"demo": {"input": 1, "thinking": 2, "answer": 3}}})


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


def settings() -> Settings:
    keys: dict[str, dict[str, Any]] = {
        "ann": {"scopes": ["infer", "usage"], **LIMITED},
        "bob": {"scopes": ["infer", "usage"], "thinking_tokens_per_day": 0},
        "boss": {"scopes": ["usage", "admin"]},
        "plain": {"scopes": ["infer"]},
    }
    known = [KeySettings.model_validate({"name": name, "hash": digest(name), **terms}) for name, terms in keys.items()]
    return Settings(keys=known, prices=PRICES)


def test_what_is_used_of_each_limit_is_what_the_rows_say(tmp_path: Path) -> None:
    async def go() -> None:
        engine = ScriptedEngine(always(Chain("thought " * 20, "The answer is 42.")))
        async with ledgered(engine, f"sqlite:///{tmp_path}/ledger.db", settings()) as on:
            for _ in range(2):
                answer = await on.chat(bearer("ann"), thinking_budget=100)
                assert answer.status_code == 200
            usage = (await on.get("/v1/usage", headers=bearer("ann"))).json()["data"][0]
            assert usage["thinking"] > 0
            assert usage["cost_usd"] > 0
            told = (await on.get("/v1/limits", headers=bearer("ann"))).json()["data"]
            found = {one["name"]: one for one in told}
            assert set(found) == set(LIMITED)
            assert [one["share"] for one in told] == sorted((one["share"] for one in told), reverse=True)
            assert found["thinking_tokens_per_day"]["used"] == usage["thinking"]
            assert found["thinking_tokens_per_day"]["share"] == usage["thinking"] / 1000
            assert found["usd_per_month"]["used"] == usage["cost_usd"]
            assert found["usd_per_month"]["unit"] == "usd"
            assert found["max_inflight"]["used"] == 0
            assert found["max_inflight"]["ends_at"] is None
            day = found["thinking_tokens_per_day"]
            assert day["ends_at"] - day["began_at"] == 86_400
            dear = (await on.get("/v1/usage/requests", headers=bearer("ann"))).json()["data"]
            assert len(dear) == 2
            assert sum(one["cost_usd"] for one in dear) == usage["cost_usd"]
            assert (await on.get("/v1/usage/requests", headers=bearer("bob"))).json()["data"] == []
            first = (await on.get("/v1/usage/requests?limit=1", headers=bearer("boss"))).json()["data"]
            assert first == dear[:1]
            refused(await on.get("/v1/usage/requests?limit=101", headers=bearer("boss")), 400, param="limit")
            every = (await on.get("/v1/limits", headers=bearer("boss"))).json()["data"]
            assert {one["key"] for one in every} == {"ann", "bob"}
            # Nothing is left of a limit of nothing.
            assert every[0] | {"began_at": 0, "ends_at": 0} == {
                "object": "limit",
                "key": "bob",
                "name": "thinking_tokens_per_day",
                "unit": "tokens",
                "limit": 0,
                "used": 0,
                "share": 1,
                "began_at": 0,
                "ends_at": 0,
            }
            assert [one["key"] for one in (await on.get("/v1/limits", headers=bearer("bob"))).json()["data"]] == ["bob"]
            refused(await on.get("/v1/limits", headers=bearer("plain")), 403, "missing_scope")

    asyncio.run(go())


def test_without_a_ledger_there_is_nothing_to_tell() -> None:
    app = door(ScriptedEngine(always(Chain("t", "7"))))
    refused(ask(app, "GET", "/v1/limits"), 404, "no_ledger")
