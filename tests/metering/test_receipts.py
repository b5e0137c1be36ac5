"""Receipts as such: what is signed and how, the chain over token ids, the file of the key."""

from __future__ import annotations

import asyncio
import json
import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from hypothesis import given
from hypothesis import strategies as st

from ponder.compute.budget import Budget, Spending
from ponder.compute.price import Price
from ponder.compute.text import Prompt
from ponder.compute.token_chain import PIECE, TokenHash
from ponder.compute.transcript import Transcript
from ponder.compute.usage import Usage
from ponder.metering import upkeep
from ponder.metering.database import database
from ponder.metering.receipt_keys import NoKey, listed, others_may_read, remember, signer_of
from ponder.metering.receipts import (
    NoReceipt,
    Signer,
    WrongReceipt,
    as_jwk,
    as_text,
    chain_of,
    claims,
    key_id,
    read_keys,
    usage_of,
    verify,
)
from ponder.server.commands.receipt import differences
from tests.metering.ledgers import a_ledger, rows

SALT = bytes(range(32))
USED = Usage(12, 300, 20, 40, 12, 5, 7, 3, 2, prompt_cached=5, wasted=9, unseen_calls=1)
PRICE = Price("2026-01", 10**8, 10**7, 4 * 10**8, 4 * 10**8, 10**7)


def signer() -> Signer:
    return Signer(Ed25519PrivateKey.generate())


def told(price: Price | None = PRICE, **more: Any) -> dict[str, Any]:
    facts: dict[str, Any] = {"key": "alice", "model": "demo", "strategy": "direct", "usage": USED, "calls": 2}
    facts |= {"price": price, "chain": b"\0" * 32, "at": 1_800_000_000} | more
    return claims("req_1", **facts)


def test_a_receipt_says_what_the_row_says_and_is_small() -> None:
    mine = signer()
    receipt = mine.sign(told())
    found = verify(receipt, [signer().public, mine.public])
    assert found == {
        "v": 1,
        "id": "req_1",
        "iat": 1_800_000_000,
        "key": "alice",
        "model": "demo",
        "strategy": "direct",
        "prompt": 12,
        "cached": 5,
        "thinking": 300,
        "answer": 20,
        "verifier_tokens": 7,
        "discarded": 40,
        "wasted": 9,
        "unseen_calls": 1,
        "calls": 2,
        "price_version": "2026-01",
        "prices": [10**8, 10**7, 4 * 10**8, 4 * 10**8, 10**7],
        "cost_nano_usd": PRICE.cost(USED),
        "chain": as_text(b"\0" * 32),
    }
    assert verify(mine.sign(told(None)), [mine.public])["cost_nano_usd"] == 0
    assert len(receipt) < 800


def test_a_receipt_of_an_earlier_release_says_nothing_of_ends_that_were_not_seen() -> None:
    mine, older = signer(), told()
    del older["unseen_calls"]
    found = verify(mine.sign(older), [mine.public])
    assert differences(found, {"receipt": "...", **found, "unseen_calls": 0}) == []
    assert differences(found, {"receipt": "...", **found, "unseen_calls": 1}) == [
        "unseen_calls: it says 1, the receipt None"
    ]
    assert usage_of(found).unseen_calls == 0
    with pytest.raises(WrongReceipt, match="counts are missing"):
        verify(mine.sign(told() | {"unseen_calls": "1"}), [mine.public])


def test_a_receipt_with_any_bit_changed_is_refused() -> None:
    mine = signer()
    receipt = mine.sign(told()).encode()
    for place in range(len(receipt)):
        for bit in range(7):
            changed = bytearray(receipt)
            changed[place] ^= 1 << bit
            text = changed.decode()
            if text.strip() == receipt.decode():
                continue
            with pytest.raises((WrongReceipt, NoReceipt)):
                verify(text, [mine.public])


def test_another_key_another_price_and_another_version_are_named() -> None:
    mine, other = signer(), signer()
    receipt = mine.sign(told())
    with pytest.raises(WrongReceipt, match=f"signed by the key {mine.id}; the keys given are {other.id}"):
        verify(receipt, [other.public])
    # The other key says that it were this one.
    head, said, _ = receipt.split(".")
    forged = other.sign(told())
    with pytest.raises(WrongReceipt, match="not that of the key"):
        verify(f"{head}.{said}.{forged.rpartition('.')[2]}", [mine.public])
    dear = told() | {"prices": [10**9] * 5}
    with pytest.raises(WrongReceipt, match=f"cost_nano_usd is {PRICE.cost(USED)}, and by its prices it is "):
        verify(mine.sign(dear), [mine.public])
    with pytest.raises(NoReceipt, match="version 2"):
        verify(mine.sign(told() | {"v": 2}), [mine.public])
    for broken in ({"prices": [1]}, {"prompt": "12"}, {"chain": None}):
        with pytest.raises(WrongReceipt):
            verify(mine.sign(told() | broken), [mine.public])


def test_what_is_signed_for_something_else_is_no_receipt() -> None:
    key = Ed25519PrivateKey.generate()
    heads: list[dict[str, Any]] = [
        {"alg": "none"},
        {"alg": "EdDSA"},
        {"alg": "EdDSA", "typ": "ponder-receipt", "kid": "a", "crit": []},
    ]
    for head in heads:
        signed = f"{as_text(json.dumps(head).encode())}.{as_text(json.dumps(told()).encode())}"
        with pytest.raises(NoReceipt):
            verify(f"{signed}.{as_text(key.sign(signed.encode()))}", [key.public_key()])


def test_the_id_of_a_key_is_that_of_the_standard() -> None:
    """RFC 8037, appendix A.2 and A.3."""
    x = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"
    (key,) = read_keys(json.dumps({"kty": "OKP", "crv": "Ed25519", "x": x}))
    assert "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k".startswith(key_id(key))
    assert [as_jwk(one)["x"] for one in read_keys(as_jwk(key)["pem"] * 2)] == [x, x]
    for wrong in ("", "{}", "{", "[]", '{"keys": 3}', '{"crv": "Ed25519", "x": "AA"}', "-----END PUBLIC KEY-----"):
        with pytest.raises(NoReceipt):
            read_keys(wrong)


# -- the chain --------------------------------------------------------------------------------------------------------

IDS = st.lists(st.integers(0, 2**32 - 1), max_size=3 * PIECE)


@given(IDS, st.lists(st.integers(1, 700), min_size=1, max_size=8))
def test_the_hash_of_a_call_does_not_depend_on_the_portions_its_tokens_came_in(
    ids: list[int], sizes: list[int]
) -> None:
    at_once, bit_by_bit = TokenHash(SALT), TokenHash(SALT, keep=True)
    at_once.add(ids)
    at = 0
    while at < len(ids):
        size = sizes[at % len(sizes)]
        bit_by_bit.add(ids[at : at + size])
        at += size
    assert at_once.digest == bit_by_bit.digest == bit_by_bit.digest
    assert at_once.ids is None
    kept = bit_by_bit.ids
    assert kept is not None
    assert kept.unseal().tolist() == ids
    assert TokenHash(SALT[::-1]).digest != TokenHash(SALT).digest


def spending(begin: list[int], answers: list[list[int]], **more: Any) -> Spending:
    """A run whose calls began in the order 0, 1, ... and whose tokens came in the order `begin` says."""
    one = Spending(Budget(1000, 100))
    one.hash_ids(SALT)
    prompt = Prompt(())
    reservations = [one.reserve("sample", thinking=100, answer=10) for _ in answers]
    for number in begin:
        with reservations[number] as reservation:
            transcript = Transcript(reservation, prompt)
            transcript.think(answers[number])
            transcript.force([99])
            transcript.say([7], "a")
            transcript.discard(2, [8, more.get("last", 9)])
    asked = one.reads([0, 1])
    asked.read(more.get("read", 50), 5)
    return one


def test_the_chain_has_the_order_of_the_calls_and_not_that_in_which_they_ended() -> None:
    answers = [[1, 2, 3], [4, 5]]
    head = chain_of(SALT, [spending([0, 1], answers)])
    assert chain_of(SALT, [spending([1, 0], answers)]) == head
    others = [
        chain_of(SALT, [spending([0, 1], answers[::-1])]),
        chain_of(SALT, [spending([0, 1], [[1, 2], [3, 4, 5]])]),
        chain_of(SALT, [spending([0, 1], answers, last=10)]),
        chain_of(SALT, [spending([0, 1], answers, read=51)]),
        chain_of(SALT, [spending([0, 1], answers)] * 2),
        chain_of(SALT, [Spending(Budget(1, 1)), spending([0, 1], answers)]),
        chain_of(SALT[1:] + b"\0", [spending([0, 1], answers)]),
    ]
    assert len({head, *others}) == 8


def test_tokens_made_in_vain_stay_in_the_chain() -> None:
    one = Spending(Budget(1000, 100))
    one.hash_ids(SALT, keep=True)
    with one.reserve("sample", thinking=100, answer=10) as reservation:
        transcript = Transcript(reservation, Prompt(()))
        transcript.think([1, 2])
        transcript.close_thought()
        transcript.say([3, 4], "ab")
        transcript.resume(anew=True)
        transcript.say([5], "c")
    assert (reservation.hidden, reservation.visible, reservation.wasted) == (2, 1, 2)
    made = reservation.made
    assert made is not None
    assert made.ids is not None
    assert made.ids.unseal().tolist() == [1, 2, 3, 4, 5]


def test_an_id_that_no_model_has_ends_nothing() -> None:
    odd = TokenHash(SALT)
    odd.add([-1, 2**40])
    assert len(odd.digest) == 64


# -- the key ----------------------------------------------------------------------------------------------------------


def test_a_key_is_made_once_for_its_owner_alone_whoever_else_makes_one(tmp_path: Path) -> None:
    file = tmp_path / "state" / "receipts.key"
    with ThreadPoolExecutor(16) as threads:
        found = list(threads.map(signer_of, [file] * 64))
    assert len({one.id for one, _ in found}) == 1
    assert sum(made for _, made in found) == 1
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) & 0o077 == 0
    assert os.listdir(file.parent) == [file.name]
    assert not others_may_read(file)
    file.chmod(0o640)
    assert others_may_read(file)
    assert signer_of(file)[0].salt("req_1") == found[0][0].salt("req_1") != found[0][0].salt("req_2")


def test_a_file_that_holds_no_such_key_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text("nothing")
    with pytest.raises(NoKey, match="no private key in PEM"):
        signer_of(file)
    rsa = generate_private_key(65537, 2048)
    file.write_bytes(rsa.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    with pytest.raises(NoKey, match="no key of Ed25519"):
        signer_of(file)
    with pytest.raises(NoKey, match="Is a directory"):
        signer_of(tmp_path)


def test_public_keys_are_listed_for_good_and_go_with_a_copy(address: str, tmp_path: Path) -> None:
    first, second = signer(), signer()

    async def go() -> None:
        async with a_ledger(address) as ledger:
            for one in (first, second, first):
                remember(ledger.place, one.public)

    asyncio.run(go())
    upkeep.copy(database(address), tmp_path / "copy.db")
    other = database(f"sqlite:///{tmp_path}/other.db")
    upkeep.restore(other, tmp_path / "copy.db")
    for place in (database(address), other):
        assert {key_id(key) for key in listed(place.engine(reads=True))} == {first.id, second.id}
    assert rows(address) == {}
