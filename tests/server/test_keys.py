"""API keys: what is kept of them, who is known by them, and what they allow."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ponder.compute.errors import NotAuthenticated
from ponder.server.auth import keys
from ponder.server.auth.keys import Key, Keyring, Secret
from ponder.server.dialects import DEFAULT as OPENAI
from ponder.server.settings import KeySettings, Scope, Settings

HASH = keys.digest("pk-a")


def ring(*names: str) -> tuple[Keyring, dict[str, str]]:
    made = {name: keys.make() for name in names}
    settings = [KeySettings(name=name, hash=digest) for name, (_, digest) in made.items()]
    return Keyring(settings), {name: key for name, (key, _) in made.items()}


def test_a_key_is_random_and_only_its_hash_is_kept() -> None:
    (one, hash_one), (two, hash_two) = keys.make(), keys.make()
    assert one != two
    assert hash_one != hash_two
    assert one.startswith("pk-")
    assert len(one) >= 40
    assert hash_one.startswith("sha256:")
    assert one.removeprefix("pk-") not in hash_one
    assert keys.digest(one) == hash_one


def test_a_caller_is_known_by_the_bearer_key() -> None:
    keyring, made = ring("alice", "bob")
    assert not keyring.open
    for name, key in made.items():
        assert keyring.who(OPENAI.key({"authorization": f"Bearer {key}"}), OPENAI.key_hint).name == name
        assert keyring.who(OPENAI.key({"authorization": f"bearer  {key} "}), OPENAI.key_hint).name == name


@pytest.mark.parametrize("header", ["", "Bearer", "Bearer ", "Basic abc", "pk-abc"])
def test_no_key_and_a_wrong_one_are_told_apart(header: str) -> None:
    keyring, made = ring("alice")
    with pytest.raises(NotAuthenticated) as caught:
        keyring.who(OPENAI.key({"authorization": header} if header else {}), OPENAI.key_hint)
    assert caught.value.code == "missing_api_key"
    key = made["alice"]
    for wrong in (key[:-1], key + "x", key.upper(), "x" * 10_000, "\u00ff\udcff", keys.digest(key)):
        with pytest.raises(NotAuthenticated) as caught:
            keyring.who(OPENAI.key({"authorization": f"Bearer {wrong}"}), OPENAI.key_hint)
        assert caught.value.code == "invalid_api_key"
        assert wrong not in caught.value.message


def test_a_key_may_what_its_settings_say() -> None:
    secret, digest = keys.make()
    settings = KeySettings(
        name="a",
        hash=digest,
        scopes=frozenset({"infer", "reveal"}),
        max_thinking_budget=9,
        models=frozenset({"m"}),
    )
    key = Keyring([settings]).who(OPENAI.key({"authorization": f"Bearer {secret}"}), OPENAI.key_hint)
    assert key.may("infer")
    assert key.may("reveal")
    assert not key.may("admin")
    assert key.may_ask("m")
    assert not key.may_ask("n")
    assert key.max_thinking_budget == 9


def test_without_keys_anyone_may_ask_and_nobody_sees_thoughts() -> None:
    keyring = Keyring([])
    assert keyring.open
    anyone = keyring.who(OPENAI.key({}), OPENAI.key_hint)
    assert anyone.may("infer")
    assert anyone.may("admin")
    assert anyone.may_ask("any")
    assert not anyone.may("reveal")


def test_keys_of_both_places_change_as_a_whole_and_a_revoked_one_is_told_so() -> None:
    (one, hash_one), (two, hash_two) = keys.make(), keys.make()
    counts: list[int] = []
    keyring = Keyring([KeySettings(name="one", hash=hash_one)])
    keyring.told = counts.append
    stored = Secret(hash_two, Key("two", frozenset({"infer"}), id="key_two"))
    keyring.store([stored])
    assert keyring.who(two, "x").name == "two"
    keyring.configure([])
    with pytest.raises(NotAuthenticated):
        keyring.who(one, "x")
    keyring.store([replace(stored, revoked=True)])
    with pytest.raises(NotAuthenticated) as caught:
        keyring.who(two, "x")
    assert caught.value.code == "revoked_api_key"
    keyring.store([])
    assert not keyring.open
    assert counts == [2, 1, 0, 0]


def test_a_key_expires_by_the_clock_at_the_moment_it_is_used() -> None:
    now = 1000.0
    secret, hash = keys.make()
    keyring = Keyring([], required=True, clock=lambda: now)
    keyring.store([Secret(hash, Key("a", frozenset({"infer"})), until_ms=1_001_000)])
    assert keyring.who(secret, "x").name == "a"
    now = 1001.0
    with pytest.raises(NotAuthenticated) as caught:
        keyring.who(secret, "x")
    assert caught.value.code == "expired_api_key"


def test_admin_may_read_metrics_and_usage_alone_may_not() -> None:
    scopes: list[frozenset[Scope]] = [frozenset({"admin"}), frozenset({"metrics"}), frozenset({"infer", "usage"})]
    may = [keys.caller(KeySettings(name="a", hash=HASH, scopes=one)).may("metrics") for one in scopes]
    assert may == [True, True, False]
    assert keys.ANYONE.may("metrics")


def test_an_id_is_given_or_follows_from_the_hash_and_does_not_tell_it() -> None:
    plain = KeySettings(name="a", hash=HASH)
    assert plain.identity == KeySettings(name="b", hash=HASH).identity
    assert plain.identity != KeySettings(name="a", hash=keys.digest("other")).identity
    assert plain.identity.removeprefix("key_") not in HASH
    given = KeySettings(name="a", hash=HASH, id=keys.new_id())
    assert given.identity == given.id
    with pytest.raises(ValueError, match="have the same id"):
        Settings(keys=[plain, KeySettings(name="b", hash=HASH)])
