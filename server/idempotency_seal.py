"""Answers that are kept for an `Idempotency-Key`: encrypted, and opened for the API key and the request they are of.

AES-256-GCM, under a key that follows from a secret (HKDF, RFC 5869). The secret is configured, or made once, in a file
beside the ledger's. Of a request's body there is a fingerprint alone, keyed by the same secret.
"""

from __future__ import annotations

import hmac
import json
import secrets
import zlib
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from ponder.metering.database import Database, made_once, state_folder
from ponder.server.settings import IdempotencySettings, WrongSettings
from ponder.server.settings.idempotency import SHORTEST

NONCE = 12
"""Bytes."""
LARGE = 1 << 16
"""Bytes that are sealed, opened or read beside the event loop."""
FILE = "idempotency.key"
"""The secret of a ledger that is no file, in the user's state folder."""

Headers = tuple[tuple[bytes, bytes], ...]


@dataclass(frozen=True, slots=True)
class Answer:
    """What was sent."""

    status: int
    headers: Headers
    body: bytes


class Seal:
    """What one secret seals and opens."""

    def __init__(self, secret: bytes) -> None:
        made = HKDF(SHA256(), 96, salt=None, info=b"ponder idempotency").derive(secret)
        self._cipher, self._mac = AESGCM(made[:32]), made[32:64]
        self.name = made[64:72].hex()
        """Tells secrets apart, and nothing of them."""

    def fingerprint(self, id: str, body: bytes) -> bytes:
        """Of a body: equal for the same body under the same key alone."""
        return hmac.digest(self._mac, id.encode() + b"\0" + body, "sha256")

    def sealed(self, answer: Answer, bound: str) -> bytes:
        """An answer that is opened where `bound` is the same."""
        headers = [[name.decode("latin-1"), value.decode("latin-1")] for name, value in answer.headers]
        head = json.dumps([answer.status, headers]).encode()
        nonce = secrets.token_bytes(NONCE)
        return nonce + self._cipher.encrypt(nonce, zlib.compress(head + b"\n" + answer.body, 1), bound.encode())

    def opened(self, sealed: bytes, bound: str) -> Answer | None:
        """None for what was sealed with another secret, or is of another request."""
        try:
            plain = self._cipher.decrypt(sealed[:NONCE], sealed[NONCE:], bound.encode())
        except InvalidTag:
            return None
        head, _, body = zlib.decompress(plain).partition(b"\n")
        status, headers = json.loads(head)
        return Answer(status, tuple((name.encode("latin-1"), value.encode("latin-1")) for name, value in headers), body)


def configured(settings: IdempotencySettings) -> bytes | None:
    """The secret of the configuration; None where there is none. Raises `WrongSettings`."""
    if settings.secret is not None:
        return settings.secret.get_secret_value().encode()
    if settings.secret_file is None:
        return None
    return _read(settings.secret_file)


def generated(place: Database) -> bytes:
    """The secret beside a ledger, which is made by the first who wants it. Raises `OSError` and `WrongSettings`, and
    `WrongAddress` where there is no place for it."""
    file = state_folder() / FILE if place.file is None else place.file.with_name(place.file.name + ".key")
    if not file.is_file():
        made_once(file, secrets.token_hex(32).encode() + b"\n")
    return _read(file)


def _read(file: Path) -> bytes:
    try:
        secret = file.read_bytes().strip()
    except OSError as error:
        raise WrongSettings(f"idempotency.secret_file: {file} cannot be read: {error.strerror}") from None
    if len(secret) < SHORTEST:
        raise WrongSettings(f"idempotency.secret_file: {file} holds {len(secret)} characters: at least {SHORTEST}")
    return secret
