"""Traces of requests that other servers of one PostgreSQL have run."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

from sqlalchemy import select

from ponder.metering.database import database
from ponder.metering.tables import traces
from ponder.metering.upkeep import erase
from ponder.server.auth.keys import digest
from ponder.server.settings import IdempotencySettings, KeySettings, Settings
from ponder.server.shared_traces import LARGEST
from ponder.server.traces import Traces
from ponder.testing import MARKER, Chain
from tests.metering.databases import PostgreSQL, postgresql
from tests.server.ledgered import Ledgered, ledgered
from tests.server.resent import soon
from tests.server.serving import its_door, refused, scripted
from tests.server.test_traces import KEYS, bearer

SECRET = "s" * 32


def settings(secret: str = SECRET, **more: Any) -> Settings:
    keys = [KeySettings.model_validate({"name": k, "hash": digest(k), "scopes": s}) for k, s in KEYS.items()]
    return Settings(keys=keys, idempotency=IdempotencySettings(secret=secret), **more)  # type: ignore[arg-type]


@asynccontextmanager
async def two(address: str, *each: Settings, **more: Any) -> AsyncGenerator[tuple[Ledgered, Ledgered]]:
    one, other = each or (settings(**more), settings(**more))
    async with ledgered(scripted(), address, one) as first, ledgered(scripted(), address, other) as second:
        yield first, second


async def asked(on: Ledgered, key: str = "mine", **body: Any) -> str:
    """The id of a request that was answered, and whose trace is written."""
    answer = await on.chat(bearer(key), **body)
    assert answer.status_code == 200, answer.text
    await written(on)
    return answer.headers["x-request-id"]


async def written(on: Ledgered) -> None:
    shared = its_door(on.app).traces.shared
    assert shared is not None
    await shared.close(20)


async def trace(on: Ledgered, id: str, key: str = "mine") -> Any:
    return await on.get(f"/v1/traces/{id}", headers=bearer(key))


async def listed(on: Ledgered, key: str = "mine", **params: Any) -> tuple[list[str], bool]:
    answer = await on.get("/v1/traces", headers=bearer(key), params=params)
    assert answer.status_code == 200, answer.text
    return [one["id"] for one in answer.json()["data"]], answer.json()["has_more"]


def stored(address: str) -> list[dict[str, Any]]:
    engine = database(address).engine(reads=True)
    with engine.connect() as connection:
        found = [dict(row) for row in connection.execute(select(traces)).mappings()]
    engine.dispose()
    return found


def test_another_server_shows_the_same_trace_to_the_same_keys(a_postgresql: PostgreSQL) -> None:
    async def go() -> None:
        address = a_postgresql.new()
        async with two(address, retain_text=True) as (one, other):
            id = await asked(one, thinking_budget=100)
            for key in ("mine", "boss"):
                here, there = await trace(one, id, key), await trace(other, id, key)
                assert there.status_code == 200
                assert here.json() == there.json()
                assert (MARKER in there.text) == (key == "boss")
            for key in ("other", "plain"):
                assert (await trace(other, id, key)).status_code == (404 if key == "other" else 403)
            refused(await trace(other, "req_none"), 404, "trace_not_found")
        # One that has begun when the others had ended.
        async with ledgered(scripted(), address, settings()) as third:
            assert (await trace(third, id, "boss")).json() == here.json()

    asyncio.run(go())


def test_the_list_is_of_all_servers_the_newest_first_page_by_page(a_postgresql: PostgreSQL) -> None:
    async def go() -> None:
        async with two(a_postgresql.new()) as (one, other):
            ids: list[str] = []
            for on, key in ((one, "mine"), (other, "mine"), (one, "other"), (other, "mine"), (one, "boss")):
                ids.insert(0, await asked(on, key))
            for on in (one, other):
                assert await listed(on, "boss") == (ids, False)
                assert await listed(on, "boss", own="true") == (ids[:1], False)
                assert await listed(on) == ([ids[1], ids[3], ids[4]], False)
                assert await listed(on, "boss", limit=2) == (ids[:2], True)
                assert await listed(on, "boss", limit=3, after=ids[1]) == (ids[2:], False)
                for gone in ("req_none", ids[2]):
                    answer = await on.get("/v1/traces", headers=bearer("mine"), params={"after": gone})
                    refused(answer, 404, "trace_not_found", "after")

    asyncio.run(go())


def test_what_is_kept_of_texts_is_sealed_and_goes_with_the_user(a_postgresql: PostgreSQL) -> None:
    async def go() -> None:
        address = a_postgresql.new()
        async with two(address, settings(retain_text=True), settings("t" * 32)) as (one, other):
            id = await asked(one, user="u-1")
            assert MARKER.encode() not in b"".join(row["content"] for row in stored(address))
            refused(await trace(other, id), 500, "trace_unreadable")
            assert erase(database(address), "u-1") == 1
            assert not stored(address)
            refused(await trace(other, id), 404)

    asyncio.run(go())


def test_a_server_keeps_no_more_than_it_may_and_writes_no_trace_that_is_too_large(a_postgresql: PostgreSQL) -> None:
    async def go() -> None:
        address = a_postgresql.new()
        async with ledgered(scripted(Chain("t", "a" * 5)), address, settings(traces=10, retain_text=True)) as on:
            for _ in range(130):
                await on.chat(bearer("mine"))
            await written(on)
            # It is looked now and then.
            assert 10 <= len(stored(address)) <= 10 + 64
            shared = its_door(on.app).traces.shared
            assert shared is not None
            facts: dict[str, Any] = {"key_id": "k", "model": "m", "strategy": "s", "budget": 1, "ended": "answered"}
            facts |= {"seconds": 1.0, "has_text": True}
            large, small = json.dumps({"choices": "x" * LARGEST}), json.dumps({"choices": []})
            shared.keep("req_large", dict(facts), (lambda: large, lambda: small))
            shared.keep("req_larger", dict(facts), (lambda: large, lambda: large))
            await written(on)
            found = {row["id"]: row["has_text"] for row in stored(address)}
            assert found["req_large"] == 0
            assert "req_larger" not in found

    asyncio.run(go())


def test_where_the_database_is_away_traces_of_other_servers_are_not_said_to_be_gone() -> None:
    async def go(server: PostgreSQL) -> None:
        async with two(server.new()) as (one, other):
            id, here = await asked(one), await asked(other)
            await asyncio.to_thread(server.stop, now=True)
            refused(await other.chat(bearer("mine")), 503, "ledger_unavailable")
            refused(await trace(other, id), 503, "ledger_unavailable")
            assert (await trace(other, here)).status_code == 200
            await asyncio.to_thread(server.start)
            await soon(lambda: not other.ledger.away)
            async with asyncio.timeout(60):
                while (await trace(other, id)).status_code != 200:  # noqa: ASYNC110 - its connection went stale
                    await asyncio.sleep(0.1)

    with postgresql() as server:
        asyncio.run(go(server))


def test_on_a_file_or_where_it_is_switched_off_nothing_is_shared(address: str) -> None:
    async def go() -> None:
        sqlite = address.startswith("sqlite")
        async with ledgered(scripted(), address, settings(shared_traces=sqlite)) as on:
            kept: Traces = its_door(on.app).traces
            assert kept.shared is None
            assert (await on.chat(bearer("mine"))).status_code == 200
            assert not stored(address)

    asyncio.run(go())
