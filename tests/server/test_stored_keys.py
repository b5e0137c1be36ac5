"""Keys of the ledger's database: known to all servers that share it, whoever made them, until they end."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import Engine

from ponder.metering import api_keys, upkeep
from ponder.metering.api_keys import KeyEnded, NameTaken, NoSuchKey
from ponder.metering.database import database
from ponder.metering.migrate import migrate
from ponder.server.auth.keys import digest, make
from ponder.server.auth.stored_keys import EVERY
from ponder.server.settings import KeySettings, Settings, WrongSettings
from tests.metering.ledgers import execute
from tests.server.keyed import ALICE, ROOT, audited, elsewhere, keyed, owners, put
from tests.server.serving import refused

DAY = 86_400


@pytest.fixture
def file(tmp_path: Any) -> str:
    return f"sqlite:///{tmp_path}/ledger.db"


# -- who is known -----------------------------------------------------------------------------------------------------


def test_a_key_that_another_process_makes_is_known_without_a_restart_and_refused_once_it_is_revoked(
    address: str,
) -> None:
    assert EVERY <= 0.5

    async def go() -> None:
        async with keyed(address) as one, keyed(address) as two:
            secret, id = put(address, "carol")
            for server in (one, two):
                await server.until(secret, 200)
                assert (await server.chat(secret)).status_code == 200
            assert [owner for owner, _ in owners(address)] == ["carol", "carol"]
            assert {whose for _, whose in owners(address)} == {id}
            elsewhere(address, lambda engine: api_keys.revoke(engine, "somebody", "carol"))
            for server in (one, two):
                await server.until(secret, 401)
                refused(await server.chat(secret), 401, "revoked_api_key")

    asyncio.run(go())


def test_what_one_server_is_told_it_knows_at_once(file: str) -> None:
    async def go() -> None:
        async with keyed(file) as on:
            made = await on.made(name="carol", scopes=["infer", "usage"])
            assert (await on.chat(made["key"])).status_code == 200
            assert (await on.root("DELETE", f"/v1/keys/{made['id']}")).json()["status"] == "revoked"
            refused(await on.chat(made["key"]), 401, "revoked_api_key")

    asyncio.run(go())


def test_a_rotated_key_is_the_same_key_and_its_secret_before_is_good_for_a_while(address: str) -> None:
    async def go() -> None:
        now = time.time()
        async with keyed(address, clock=lambda: now) as on:
            made = await on.made(name="carol")
            id, old = made["id"], made["key"]
            assert (await on.chat(old)).status_code == 200
            new = (await on.root("POST", f"/v1/keys/{id}/rotate", json={"grace": 3600})).json()["key"]
            for secret in (old, new):
                assert (await on.chat(secret)).status_code == 200
            assert owners(address) == [("carol", id)] * 3
            (line,) = (await on.ask(new, "GET", "/v1/usage")).json()["data"]
            assert line["requests"] == 3
            # Another rotation does not prolong the first secret.
            newest = (await on.root("POST", f"/v1/keys/{id}/rotate", json={"grace": 7200})).json()["key"]
            now += 3700
            refused(await on.chat(old), 401, "expired_api_key")
            assert (await on.chat(new)).status_code == 200
            now += 3700
            refused(await on.chat(new), 401, "expired_api_key")
            assert (await on.chat(newest)).status_code == 200
            newer = (await on.root("POST", f"/v1/keys/{id}/rotate", json={})).json()["key"]
            refused(await on.chat(newest), 401, "expired_api_key")
            assert (await on.chat(newer)).status_code == 200

    asyncio.run(go())


def test_a_key_expires_at_its_time_without_anybody_looking(file: str) -> None:
    async def go() -> None:
        now = time.time()
        async with keyed(file, clock=lambda: now) as on:
            made = await on.made(name="carol", expires_at=int(now) + DAY)
            assert (await on.chat(made["key"])).status_code == 200
            now += DAY - 10
            assert (await on.chat(made["key"])).status_code == 200
            now += 20
            refused(await on.chat(made["key"]), 401, "expired_api_key")

    asyncio.run(go())


def test_while_the_database_is_away_known_keys_are_known_and_revoked_ones_stay_revoked(address: str) -> None:
    async def go() -> None:
        async with keyed(address) as on:
            known, gone = await on.made(name="known"), await on.made(name="gone")
            await on.root("DELETE", f"/v1/keys/{gone['id']}")
            execute(address, "ALTER TABLE versions RENAME TO away")
            refused(await on.root("POST", "/v1/keys", json={"name": "more"}), 503, "ledger_unavailable")
            assert (await on.ask(known["key"], "GET", "/v1/models")).status_code == 200
            refused(await on.ask(gone["key"], "GET", "/v1/models"), 401, "revoked_api_key")
            execute(address, "ALTER TABLE away RENAME TO versions")
            made = await on.made(name="again")
            assert (await on.ask(made["key"], "GET", "/v1/models")).status_code == 200

    asyncio.run(go())


def test_a_server_closes_with_the_first_key_and_never_opens_again_by_itself(file: str) -> None:
    async def go() -> None:
        async with keyed(file, Settings()) as on:
            assert (await on.chat(None)).status_code == 200
            refused(await on.ask(None, "POST", "/v1/keys", json={"name": "me"}), 403, "not_permitted")
            secret, _ = put(file, "carol")
            await on.until(None, 401)
            assert (await on.chat(secret)).status_code == 200
            elsewhere(file, lambda engine: api_keys.revoke(engine, "somebody", "carol"))
            await on.until(secret, 401)
            assert not on.keyring.open
            # Not even where the database forgets all.
            execute(file, "DELETE FROM keys")
            execute(file, "UPDATE versions SET value = value + 1")
            while (await on.chat(secret)).json()["error"]["code"] != "invalid_api_key":  # noqa: ASYNC110
                await asyncio.sleep(0.02)
            refused(await on.chat(None), 401, "missing_api_key")
        async with keyed(file, Settings(require_key=False)) as on:
            put(file, "dora")
            assert (await on.chat(None)).status_code == 200
        async with keyed(file, Settings(require_key=True, host="0.0.0.0")) as on:
            refused(await on.chat(None), 401, "missing_api_key")

    asyncio.run(go())


def test_a_key_of_a_newer_server_is_refused_and_no_other_with_it(file: str) -> None:
    async def go() -> None:
        async with keyed(file) as on:
            odd, _ = put(file, "odd", scopes=["infer", "fly"])
            good, _ = put(file, "good")
            await on.until(good, 200)
            refused(await on.chat(odd), 401, "invalid_api_key")

    asyncio.run(go())


# -- names and ids ----------------------------------------------------------------------------------------------------


def test_a_name_is_given_once(address: str) -> None:
    async def go() -> None:
        async with keyed(address) as on:
            made = await on.made(name="carol")
            again = await on.root("POST", "/v1/keys", json={"name": "carol"})
            assert "given once" in refused(again, 400, "name_taken", "name")
            await on.root("DELETE", f"/v1/keys/{made['id']}")
            refused(await on.root("POST", "/v1/keys", json={"name": "carol"}), 400, "name_taken", "name")
            refused(await on.root("POST", "/v1/keys", json={"name": "alice"}), 400, "name_taken", "name")
        with pytest.raises(WrongSettings, match="called carol"):
            async with keyed(address, Settings(keys=[ROOT, KeySettings(name="carol", hash=digest("pk-c"))])):
                pass

    asyncio.run(go())
    secret, hash = make()
    assert secret
    works: list[tuple[Callable[[Engine], Any], type[Exception]]] = [
        (lambda engine: api_keys.create(engine, "x", id="key_1", hash=hash, name="carol", scopes=[]), NameTaken),
        (lambda engine: api_keys.rotate(engine, "x", "carol", hash, 0), KeyEnded),
        (lambda engine: api_keys.change(engine, "x", "carol", {"owner": "y"}), KeyEnded),
        (lambda engine: api_keys.revoke(engine, "x", "nobody"), NoSuchKey),
    ]
    for work, fault in works:
        with pytest.raises(fault):
            elsewhere(address, work)


def test_of_two_that_take_a_name_at_once_one_gets_it(address: str) -> None:
    async def go() -> None:
        async with keyed(address) as one, keyed(address) as two:
            answers = await asyncio.gather(
                *(server.root("POST", "/v1/keys", json={"name": "carol"}) for server in (one, two) for _ in range(4))
            )
            assert sorted(answer.status_code for answer in answers) == [201] + [400] * 7
            assert len([row for row in audited(address) if row["act"] == "key.created"]) == 1

    asyncio.run(go())


@pytest.mark.parametrize("id", ["", "key_0123456789abcdef01234567"])
def test_another_key_under_an_old_name_does_not_see_what_the_old_one_used(id: str, address: str) -> None:
    """And a new secret with the id of the old one does."""
    first = KeySettings(name="alice", hash=digest("pk-alice"), id=id)
    after = KeySettings(name="alice", hash=digest("pk-other"), id=id)
    renamed = KeySettings(name="renamed", hash=digest("pk-alice"), id=id)

    async def go() -> None:
        async with keyed(address, Settings(keys=[ROOT, first])) as on:
            request = (await on.chat("pk-alice")).headers["x-request-id"]
        own = [("pk-other", after, 1 if id else 0), ("pk-alice", renamed, 1)]
        for secret, key, seen in own:
            async with keyed(address, Settings(keys=[ROOT, key])) as on:
                (line,) = (await on.ask(secret, "GET", "/v1/usage")).json()["data"]
                assert line["requests"] == seen
                one = await on.ask(secret, "GET", f"/v1/usage/{request}")
                assert one.status_code == (200 if seen else 404)
                costs = await on.ask(secret, "GET", "/v1/organization/costs?start_time=1&limit=180")
                assert costs.status_code == 200
                (line,) = (await on.root("GET", "/v1/usage")).json()["data"]
                assert line["requests"] == 1

    asyncio.run(go())


def test_what_a_server_keeps_of_a_key_goes_by_its_id(file: str) -> None:
    settings = Settings(keys=[ROOT, KeySettings(name="ann", hash=digest("pk-1"), scopes=frozenset({"infer", "trace"}))])
    other = Settings(keys=[ROOT, KeySettings(name="ann", hash=digest("pk-2"), scopes=frozenset({"infer", "trace"}))])
    now = settings

    async def go() -> None:
        nonlocal now
        async with keyed(file, settings, source=lambda: now) as on:
            request = (await on.chat("pk-1")).headers["x-request-id"]
            assert (await on.ask("pk-1", "GET", f"/v1/traces/{request}")).status_code == 200
            now = other
            assert (await on.root("POST", "/v1/reload")).json()["changed"] == ["keys.ann"]
            refused(await on.ask("pk-1", "GET", "/v1/models"), 401, "invalid_api_key")
            refused(await on.ask("pk-2", "GET", f"/v1/traces/{request}"), 404, "trace_not_found")

    asyncio.run(go())


# -- over HTTP --------------------------------------------------------------------------------------------------------


def test_keys_are_listed_in_pages_without_anything_of_their_secrets(file: str) -> None:
    async def go() -> None:
        async with keyed(file) as on:
            made = [await on.made(name=f"key-{i}", owner="team-a", limits={"models": ["demo"]}) for i in range(3)]
            first = await on.root("GET", "/v1/keys?limit=3")
            assert [key["name"] for key in first.json()["data"]] == ["root", "alice", "key-0"]
            assert first.json()["has_more"]
            rest = await on.root("GET", f"/v1/keys?after={made[0]['id']}")
            assert [key["name"] for key in rest.json()["data"]] == ["key-1", "key-2"]
            assert not rest.json()["has_more"]
            one = (await on.root("GET", f"/v1/keys/{made[1]['id']}")).json()
            assert one == {name: value for name, value in made[1].items() if name != "key"}
            assert (one["owner"], one["limits"], one["source"]) == ("team-a", {"models": ["demo"]}, "ledger")
            told = first.text + rest.text + json.dumps(one) + (await on.root("GET", "/metrics")).text
            for key in made:
                assert key["key"] not in told
                assert digest(key["key"]) not in told
                assert digest(key["key"]).removeprefix("sha256:") not in told
            configured = (await on.root("GET", f"/v1/keys/{ALICE.identity}")).json()
            assert (configured["source"], configured["name"]) == ("configuration", "alice")
            for method, url in (("DELETE", ""), ("POST", "/rotate"), ("POST", "")):
                answer = await on.root(method, f"/v1/keys/{ALICE.identity}{url}", json={} if method == "POST" else None)
                refused(answer, 400, "configured_key")
                refused(await on.root(method, f"/v1/keys/key_nix{url}", json={} if url else None), 404, "key_not_found")
            for wrong in ("0", f"{1:08}1999", f"{1:08}{'0' * 5000}"):
                refused(await on.root("GET", f"/v1/keys?limit={wrong}"), 400, "invalid_value", "limit")
            refused(await on.root("GET", "/v1/keys?after=nix"), 400, "invalid_value", "after")

    asyncio.run(go())


@pytest.mark.parametrize(
    ("wish", "param"),
    [
        ({}, "name"),
        ({"name": "a b"}, "name"),
        ({"name": "a", "scopes": ["infr"]}, "scopes.0"),
        ({"name": "a", "expires_at": 1}, "expires_at"),
        ({"name": "a", "limits": {"max_thinking_budget": -1}}, "limits.max_thinking_budget"),
        ({"name": "a", "limits": {"hash": "x"}}, "limits.hash"),
        ({"name": "a", "limits": {"models": ["nix"]}}, "limits.models"),
        ({"name": "a", "limits": {"coarse_tokens": 64}}, "limits"),
        ({"name": "a", "hash": "sha256:" + "0" * 64}, "hash"),
        ({"name": "a", "owner": "o" * 129}, "owner"),
        ({"name": "a", "owner": "o\0"}, "owner"),
        ({"name": "a", "limits": {"coarse_tokens": "5"}}, "limits.coarse_tokens"),
        ({"name": "a", "limits": {"weight": True}}, "limits.weight"),
        ([], None),
    ],
)
def test_a_key_that_cannot_be_meant_is_refused_by_name(wish: Any, param: str | None, file: str) -> None:
    async def go() -> None:
        async with keyed(file) as on:
            answer = await on.root("POST", "/v1/keys", json=wish)
            refused(answer, 400, param=param)
            assert len((await on.root("GET", "/v1/keys")).json()["data"]) == 2

    asyncio.run(go())


def test_a_change_of_nothing_changes_nothing_and_a_grace_is_a_number(address: str) -> None:
    async def go() -> None:
        async with keyed(address) as on:
            made = await on.made(name="carol", owner="team-a")
            url = f"/v1/keys/{made['id']}"
            before = len(audited(address))
            same = await on.root("POST", url, json={})
            assert (same.status_code, same.json()) == (200, (await on.root("GET", url)).json())
            assert len(audited(address)) == before
            refused(await on.root("POST", f"{url}/rotate", json={"grace": False}), 400, "invalid_type", "grace")

    asyncio.run(go())


def test_an_administrator_who_sees_no_thoughts_gives_nobody_the_right_to(file: str) -> None:
    seer = KeySettings(name="seer", hash=digest("pk-seer"), scopes=frozenset({"admin", "reveal"}))

    async def go() -> None:
        async with keyed(file, Settings(keys=[ROOT, seer])) as on:
            wish: dict[str, Any] = {"name": "eve", "scopes": ["infer", "reveal"]}
            refused(await on.root("POST", "/v1/keys", json=wish), 403, "missing_scope", "scopes")
            made = (await on.ask("pk-seer", "POST", "/v1/keys", json=wish)).json()
            refused(await on.root("POST", f"/v1/keys/{made['id']}/rotate", json={}), 403, "missing_scope")
            plain = await on.made(name="plain")
            change = {"scopes": ["infer", "reveal"]}
            refused(await on.root("POST", f"/v1/keys/{plain['id']}", json=change), 403, "missing_scope")

    asyncio.run(go())


def test_limits_of_a_key_change_while_it_is_used(file: str) -> None:
    async def go() -> None:
        async with keyed(file) as on:
            made = await on.made(name="carol", limits={"max_thinking_budget": 100})
            url = f"/v1/keys/{made['id']}"
            budget = (await on.chat(made["key"], thinking_budget=500)).json()["thinking"]["budget"]
            assert budget == 100
            changed = (await on.root("POST", url, json={"limits": {"max_thinking_budget": 50}, "owner": "x"})).json()
            assert (changed["limits"], changed["owner"]) == ({"max_thinking_budget": 50}, "x")
            assert changed["scopes"] == ["infer", "usage"]
            assert (await on.chat(made["key"], thinking_budget=500)).json()["thinking"]["budget"] == 50
            assert (await on.root("POST", url, json={"expires_at": None})).json()["expires_at"] is None
            assert (await on.root("DELETE", url)).status_code == 200
            refused(await on.root("POST", url, json={"owner": "y"}), 400, "key_revoked")

    asyncio.run(go())


# -- the audit --------------------------------------------------------------------------------------------------------


def test_what_administrators_do_is_written_down_without_secrets(address: str, tmp_path: Any) -> None:
    async def go() -> list[str]:
        async with keyed(address) as on:
            made = await on.made(name="carol", owner="team-a")
            url = f"/v1/keys/{made['id']}"
            rotated = (await on.root("POST", f"{url}/rotate", json={"grace": 60})).json()
            await on.root("POST", url, json={"limits": {"weight": 2}})
            await on.root("DELETE", url)
            await on.root("DELETE", url)
            await on.chat("pk-alice", user="u-secret")
            return [made["key"], rotated["key"]]

    secrets = asyncio.run(go())
    place, copy = database(address), tmp_path / "copy.db"
    upkeep.copy(place, copy)
    upkeep.erase(place, "u-secret", "somebody")
    upkeep.expire(place, 30, "somebody")
    upkeep.restore(place, copy, "somebody")
    rows = audited(address)
    root = f"root ({ROOT.identity})"
    assert [(row["who"], row["act"]) for row in rows] == [
        *((root, f"key.{act}") for act in ("created", "rotated", "changed", "revoked")),
        *(("somebody", f"ledger.{act}") for act in ("erased", "expired", "restored")),
    ]
    assert rows[0]["subject"].startswith("carol (key_")
    assert rows[2]["details"] == {"before": {"limits": {}}, "after": {"limits": {"weight": 2.0}}}
    assert rows[4]["details"] == {"requests": 1, "keep_counts": False}
    text = json.dumps(rows)
    for hidden in (*secrets, *map(digest, secrets), "sha256", "u-secret"):
        assert hidden not in text


# -- copies and versions ----------------------------------------------------------------------------------------------


def test_a_copy_has_the_keys_and_revives_none_that_was_revoked(address: str, tmp_path: Any) -> None:
    async def go() -> None:
        copy = tmp_path / "copy.db"
        async with keyed(address) as on:
            known, gone = await on.made(name="known"), await on.made(name="gone")
            upkeep.copy(database(address), copy)
            await on.root("DELETE", f"/v1/keys/{gone['id']}")
            upkeep.restore(database(address), copy)
            later, _ = put(address, "later")
            await on.until(later, 200)
            refused(await on.chat(gone["key"]), 401, "revoked_api_key")
            assert (await on.chat(known["key"])).status_code == 200
        empty = f"sqlite:///{tmp_path}/new.db"
        upkeep.restore(database(empty), copy)
        async with keyed(empty) as on:
            assert (await on.chat(known["key"])).status_code == 200

    asyncio.run(go())


def test_rows_of_the_version_before_belong_to_the_keys_there_are_then(address: str) -> None:
    place = database(address)
    migrate(place.engine(long=True), "0003")
    for request, key in (("req_1", "alice"), ("req_2", "zoe")):
        execute(
            address,
            "INSERT INTO requests (id, owner, epoch, begun_ms, settled_ms, key, model, strategy, budget, reserved,"
            " thinking, cost_nano_usd) VALUES (:id, 'srv_old', 1, 1000, 2000, :key, 'demo', 'direct', 100, 120, 77, 9)",
            id=request,
            key=key,
        )
    if place.file is None:
        migrate(place.engine(long=True), owners={"alice": ALICE.identity})
    later = KeySettings(name="zoe", hash=digest("pk-zoe"))

    async def go() -> None:
        for settings in (Settings(keys=[ROOT, ALICE]), Settings(keys=[ROOT, ALICE, later])):
            async with keyed(address, settings) as on:
                (line,) = (await on.ask("pk-alice", "GET", "/v1/usage")).json()["data"]
                assert (line["requests"], line["thinking"], line["cost_nano_usd"]) == (1, 77, 9)
                (line,) = (await on.root("GET", "/v1/usage")).json()["data"]
                assert line["requests"] == 2
        async with keyed(address, Settings(keys=[ROOT, ALICE, later])) as on:
            (line,) = (await on.ask("pk-zoe", "GET", "/v1/usage")).json()["data"]
            assert line["requests"] == 0

    asyncio.run(go())
