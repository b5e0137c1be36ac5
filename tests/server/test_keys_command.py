"""`ponder keys` and `ponder ledger audit` as they are typed."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path
from typing import Any

import pytest

from ponder.server.auth.keys import digest
from ponder.server.commands.keys import LATEST, when
from ponder.server.commands.ledger import CannotDo
from tests.server.keyed import audited, keyed
from tests.server.serving import refused
from tests.server.test_ledger_command import ponder


@pytest.fixture
def address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A ledger that the configuration names; nobody has written to it."""
    monkeypatch.chdir(tmp_path)
    found = f"sqlite:///{tmp_path}/ledger.db"
    monkeypatch.setenv("PONDER_LEDGER__URL", found)
    (tmp_path / "ponder.toml").write_text(f'[[keys]]\nname = "alice"\nhash = "{digest("pk-alice")}"\n')
    return found


def secret_in(told: str) -> str:
    """The one line that is shown once."""
    return told.partition("\n")[0]


def test_keys_are_made_listed_rotated_and_revoked_from_the_command_line(
    address: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "there is no ledger" in ponder(capsys, "keys", "list", status=1)
    words = ("--owner", "team a", "--scopes", "infer,usage,admin", "--expires", "30d")
    made = ponder(capsys, "keys", "create", "carol", *words, "--limits", '{"max_thinking_budget": 100}')
    secret = secret_in(made)
    assert made.count(secret) == 1
    (carol, alice) = map(json.loads, ponder(capsys, "keys", "list", "--json").splitlines())
    assert (carol["name"], carol["owner"], carol["status"]) == ("carol", "team a", "active")
    assert carol["limits"] == {"max_thinking_budget": 100}
    assert (alice["name"], alice["status"]) == ("alice", "configured")
    table = ponder(capsys, "keys", "list")
    assert re.search(r"^carol +active +team a +admin,infer,usage +20\S+ +max_thinking_budget=100 +key_", table, re.M)
    rotated = secret_in(ponder(capsys, "keys", "rotate", "carol", "--grace", "60"))

    async def go() -> None:
        async with keyed(address) as on:
            for one in (secret, rotated):
                assert (await on.chat(one, thinking_budget=500)).json()["thinking"]["budget"] == 100
            told = await asyncio.to_thread(ponder, capsys, "keys", "revoke", carol["id"])
            assert "carol (key_" in told
            await on.until(rotated, 401)
            refused(await on.chat(secret), 401, "revoked_api_key")

    asyncio.run(go())
    assert json.loads(ponder(capsys, "keys", "list", "--json").splitlines()[0])["status"] == "revoked"
    told = ponder(capsys, "ledger", "audit")
    assert re.search(r"^20\S+Z  \S+@\S+  key\.created  carol \(key_\w+\)  \{", told)
    acts = [json.loads(line)["act"] for line in ponder(capsys, "ledger", "audit", "--json").splitlines()]
    assert acts == ["key.created", "key.rotated", "key.revoked"]
    assert ponder(capsys, "ledger", "audit", "--start", "2100-01-01") == ""
    for hidden in (secret, rotated):
        assert hidden not in told + table + json.dumps(audited(address))
        assert digest(hidden).removeprefix("sha256:") not in told + table + json.dumps(audited(address))


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (("create", "alice"), 1, "a key of the configuration is called alice"),
        (("create", "a b"), 2, "NAME"),
        (("create", "a", "--scopes", "infr"), 2, "--scopes"),
        (("create", "a", "--limits", "{"), 2, "--limits: a JSON object"),
        (("create", "a", "--limits", "[]"), 2, "--limits: a JSON object"),
        (("create", "a", "--limits", '{"hash": "x"}'), 2, "hash is no limit"),
        (("create", "a", "--limits", '{"max_thinking_budget": -1}'), 2, "--limits max_thinking_budget"),
        (("create", "a", "--limits", '{"models": ["deno"]}'), 2, "did you mean demo?"),
        (("create", "a", "--expires", "2001-01-01"), 1, "a time to come"),
        (("create", "a", "--expires", "soon"), 1, "a time is a day"),
        (("create", "a", "--owner", "o" * 129), 2, "128 characters"),
        (("rotate", "nobody"), 1, "no key with that id or name"),
        (("revoke", "alice"), 1, "no key with that id or name"),
        (("rotate", "x", "--grace", "-1"), 2, "from 0 to"),
    ],
)
def test_what_cannot_be_meant_is_said(
    words: Any, status: int, said: str, address: str, capsys: pytest.CaptureFixture[str]
) -> None:
    ponder(capsys, "keys", "create", "bob")
    assert said in ponder(capsys, "keys", *words, status=status)
    assert len(audited(address)) == 1


def test_a_name_is_not_given_twice(address: str, capsys: pytest.CaptureFixture[str]) -> None:
    ponder(capsys, "keys", "create", "bob")
    ponder(capsys, "keys", "revoke", "bob")
    assert "given once" in ponder(capsys, "keys", "create", "bob", status=1)
    assert "stays so" in ponder(capsys, "keys", "rotate", "bob", status=1)


def test_the_first_key_says_that_servers_ask_for_one_from_then_on(
    address: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "require_key" not in ponder(capsys, "keys", "create", "one")
    (tmp_path / "ponder.toml").write_text("")
    assert "require_key" in ponder(capsys, "keys", "create", "two")
    assert address


def test_an_id_goes_before_a_name_that_looks_like_it(address: str, capsys: pytest.CaptureFixture[str]) -> None:
    ponder(capsys, "keys", "create", "bob")
    bob = json.loads(ponder(capsys, "keys", "list", "--json").splitlines()[0])
    ponder(capsys, "keys", "create", bob["id"])
    assert ponder(capsys, "keys", "revoke", bob["id"]).startswith("bob ")
    assert len(audited(address)) == 3


def test_a_span_is_from_now_on() -> None:
    assert when("23h") < when("1d") < when("25h") < when("2d") < LATEST
    with pytest.raises(CannotDo):
        when("0s")
