"""Receipts: what a request has used, signed, so that nobody can change it later: not the server that billed it either.

A receipt is a JSON Web Signature in its compact form (RFC 7515) under Ed25519 (RFC 8037), so any library for JOSE can
check it. What is signed has the counts, the prices and the cost as the ledger's row has them, and the head of the
salted hash chain over the token ids of every call (`ponder.compute.token_chain`).
"""

from __future__ import annotations

import base64
import binascii
import hmac
import json
from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import Any, cast

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key

from ponder.compute.budget import Spending
from ponder.compute.errors import PonderError
from ponder.compute.price import Price
from ponder.compute.token_chain import call_link, head_of, read_link
from ponder.compute.usage import Usage
from ponder.metering.tables import counts_of

VERSION = 1
TYPE = "ponder-receipt"
KEY_ID = 16
"""Characters of a key's id, of its thumbprint (RFC 7638): 96 bits."""
COUNTS = ("prompt", "cached", "thinking", "answer", "verifier_tokens", "discarded", "wasted", "unseen_calls")
"""Claims that are counts; columns of the ledger have the same names."""
LATER = frozenset({"unseen_calls"})
"""Those that older receipts do not have."""
LONGEST = 1 << 16
"""Characters of a receipt that are looked at; ours have about 700."""


class WrongReceipt(PonderError):
    """It is a receipt, and it is refused; the message says what is wrong with it."""


class NoReceipt(PonderError):
    """It is no receipt, or no key, that can be read; the message says why."""


# -- keys -------------------------------------------------------------------------------------------------------------


def as_text(raw: bytes) -> str:
    """Bytes as JOSE writes them: base64url, without padding."""
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def _as_bytes(text: str) -> bytes:
    """Raises `ValueError` for anything but the one text that stands for some bytes."""
    raw = base64.b64decode(text + "=" * (-len(text) % 4), b"-_", validate=True)
    if as_text(raw) != text:
        raise ValueError(text)
    return raw


def _raw(key: Ed25519PublicKey) -> bytes:
    return key.public_bytes(Encoding.Raw, PublicFormat.Raw)


def key_id(key: Ed25519PublicKey) -> str:
    """The id of a key, which follows from it: the begin of its thumbprint (RFC 7638)."""
    told = f'{{"crv":"Ed25519","kty":"OKP","x":"{as_text(_raw(key))}"}}'
    return as_text(sha256(told.encode()).digest())[:KEY_ID]


def as_jwk(key: Ed25519PublicKey) -> dict[str, str]:
    """A public key as JOSE writes it (RFC 8037), and as OpenSSL does, in `pem`."""
    pem = key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    jose = {"kty": "OKP", "crv": "Ed25519", "x": as_text(_raw(key)), "kid": key_id(key), "alg": "EdDSA", "use": "sig"}
    return jose | {"pem": pem}


def public_key(x: str) -> Ed25519PublicKey:
    """A key by the `x` of its JWK. Raises `NoReceipt`."""
    try:
        return Ed25519PublicKey.from_public_bytes(_as_bytes(x))
    except (ValueError, binascii.Error):
        raise NoReceipt("a key that is listed is no public key of Ed25519") from None


def read_keys(text: str) -> list[Ed25519PublicKey]:
    """The public keys of a file: PEM, or a JWK or set of them as `GET /v1/receipts/key` answers. Raises `NoReceipt`."""
    if text.lstrip().startswith("{"):
        try:
            found: Any = json.loads(text)
        except (ValueError, RecursionError):
            raise NoReceipt("the keys are neither PEM nor JSON that can be read") from None
        listed: Any = found.get("keys", [found])
        if not isinstance(listed, list):
            raise NoReceipt("the keys are no set of JWKs")
        ours = [cast("dict[str, Any]", one) for one in cast("list[Any]", listed) if isinstance(one, dict)]
        keys = [public_key(str(one.get("x", ""))) for one in ours if one.get("crv") == "Ed25519"]
    else:
        end = "-----END PUBLIC KEY-----"
        try:
            pems = [load_pem_public_key((part + end).encode()) for part in text.split(end)[:-1]]
        except ValueError:
            raise NoReceipt("the key cannot be read: it is a public key in PEM") from None
        keys = [key for key in pems if isinstance(key, Ed25519PublicKey)]
    if not keys:
        raise NoReceipt("there is no public key of Ed25519 in it; GET /v1/receipts/key has those of a server")
    return keys


# -- signing ----------------------------------------------------------------------------------------------------------


class Signer:
    """Signs receipts. The salts come of the same secret, so that they need be kept nowhere."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key
        self.public = key.public_key()
        self.id = key_id(self.public)
        self._head = as_text(_compact({"alg": "EdDSA", "kid": self.id, "typ": TYPE}))
        self._secret = hmac.digest(key.private_bytes_raw(), b"salts of receipts", "sha256")

    def salt(self, request: str) -> bytes:
        """32 bytes which nobody can tell who has not the key, the same each time."""
        return hmac.digest(self._secret, request.encode(), "sha256")

    def sign(self, claims: Mapping[str, Any]) -> str:
        """The receipt."""
        signed = f"{self._head}.{as_text(_compact(claims))}"
        return f"{signed}.{as_text(self._key.sign(signed.encode()))}"


def _compact(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def claims(
    request: str,
    *,
    key: str,
    model: str,
    strategy: str,
    usage: Usage,
    price: Price | None,
    calls: int,
    chain: bytes,
    at: int,
) -> dict[str, Any]:
    """What is signed. `key` is the name of the API key, `chain` the head of the hash chain, `at` seconds since 1970."""
    facts: dict[str, Any] = {"v": VERSION, "id": request, "iat": at, "key": key, "model": model, "strategy": strategy}
    facts |= counts_of(usage) | {"calls": calls}
    if price is not None:
        prices = [price.prompt, price.cached, price.thinking, price.answer, price.verifier]
        facts |= {"price_version": price.version, "prices": prices}
    return facts | {"cost_nano_usd": 0 if price is None else price.cost(usage), "chain": as_text(chain)}


def chain_of(salt: bytes, spendings: Sequence[Spending]) -> bytes:
    """The head of the chain over all calls of a request: of each of its answers those to the model, by their numbers,
    then those to a reward model."""
    links: list[str] = []
    for answer, spending in enumerate(spendings):
        for one in spending.reservations:
            digest = "" if one.made is None else one.made.digest
            links.append(call_link(answer, one.number, one.parent, one.hidden, one.visible, one.wasted, digest))
        for number, asked in enumerate(spending.reward_reads):
            links.append(read_link(answer, number, asked.tokens, asked.cached, asked.chains))
    return head_of(salt, links)


# -- checking ---------------------------------------------------------------------------------------------------------


def read(receipt: str) -> tuple[str, dict[str, Any]]:
    """The id of the key that is said to have signed it, and what it says; nothing of that is proven yet. Raises
    `NoReceipt`."""
    parts = receipt.strip().split(".")
    try:
        if len(parts) != 3 or len(receipt) > LONGEST:
            raise ValueError
        head, told = (json.loads(_as_bytes(part)) for part in parts[:2])
        if not (isinstance(head, dict) and isinstance(told, dict)):
            raise ValueError
    except (ValueError, RecursionError):
        raise NoReceipt("it is no receipt: three parts in base64url with points between them are wanted") from None
    head, told = cast("dict[str, Any]", head), cast("dict[str, Any]", told)
    if head.get("alg") != "EdDSA" or head.get("typ") != TYPE or not isinstance(head.get("kid"), str) or "crit" in head:
        raise NoReceipt("it is signed, and is no receipt of this kind")
    return head["kid"], told


def verify(receipt: str, keys: Sequence[Ed25519PublicKey]) -> dict[str, Any]:
    """What a receipt says, which one of these keys has signed. Raises `WrongReceipt`, and `NoReceipt`."""
    signer, told = read(receipt)
    known = {key_id(key): key for key in keys}
    if signer not in known:
        raise WrongReceipt(f"it is signed by the key {signer}; the keys given are {', '.join(known)}")
    signed, _, signature = receipt.strip().rpartition(".")
    try:
        known[signer].verify(_as_bytes(signature), signed.encode())
    except (InvalidSignature, ValueError):
        raise WrongReceipt(
            f"the signature is not that of the key {signer} over what it says: one of them was changed"
        ) from None
    _consistent(told)
    return told


def _consistent(told: Mapping[str, Any]) -> None:
    """What was signed makes sense. Raises `NoReceipt` for a later version, and `WrongReceipt`."""
    if told.get("v") != VERSION:
        raise NoReceipt(f"it has version {told.get('v')}, which is not known here (this one knows {VERSION})")
    missing = LATER - told.keys()
    numbers = [told.get(name) for name in (*COUNTS, "calls", "cost_nano_usd") if name not in missing]
    if not all(isinstance(number, int) for number in numbers) or not isinstance(told.get("chain"), str):
        raise WrongReceipt("counts are missing from it")
    if "prices" in told:
        prices: Any = told["prices"]
        if not (isinstance(prices, list) and [type(one) for one in cast("list[Any]", prices)] == [int] * 5):
            raise WrongReceipt("its prices are not five numbers")
        cost = Price(str(told.get("price_version")), *cast("list[int]", prices)).cost(usage_of(told))
        if cost != told["cost_nano_usd"]:
            raise WrongReceipt(f"cost_nano_usd is {told['cost_nano_usd']}, and by its prices it is {cost}")


def usage_of(told: Mapping[str, Any]) -> Usage:
    """The counts of a receipt, or of a row of the ledger."""
    return Usage(
        prompt=told["prompt"],
        hidden=told["thinking"],
        visible=told["answer"],
        discarded=told["discarded"],
        verifier=told["verifier_tokens"],
        prompt_cached=told["cached"],
        wasted=told["wasted"],
        unseen_calls=told.get("unseen_calls", 0),
    )
