"""What is kept of answers, for an `Idempotency-Key` or as responses: encrypted, and opened for the API key and the
request it is of.

AES-256-GCM, under a key that follows from a secret (HKDF, RFC 5869). The secret is configured, or made once, in a file
beside the ledger's. Of a request's body there is a fingerprint alone, keyed by the same secret.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
import secrets
import zlib
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from ponder.compute.errors import Unavailable
from ponder.metering.database import Database, WrongAddress, made_once, state_folder
from ponder.metering.ledger import RETRY
from ponder.server.settings import IdempotencySettings, WrongSettings
from ponder.server.settings.idempotency import SHORTEST

log = logging.getLogger(__name__)

NONCE = 12
"""Bytes."""
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
        return self.shut(head + b"\n" + answer.body, bound)

    def opened(self, sealed: bytes, bound: str) -> Answer | None:
        """None for what was sealed with another secret, or is of another request."""
        plain = self.unshut(sealed, bound)
        if plain is None:
            return None
        head, _, body = plain.partition(b"\n")
        status, headers = json.loads(head)
        return Answer(status, tuple((name.encode("latin-1"), value.encode("latin-1")) for name, value in headers), body)

    def shut(self, plain: bytes, bound: str) -> bytes:
        """Bytes that are opened where `bound` is the same. What is bound has words of its own for each use."""
        nonce = secrets.token_bytes(NONCE)
        return nonce + self._cipher.encrypt(nonce, zlib.compress(plain, 1), bound.encode())

    def unshut(self, sealed: bytes, bound: str) -> bytes | None:
        """None for what was sealed with another secret, is of something else, or was altered."""
        try:
            return zlib.decompress(self._cipher.decrypt(sealed[:NONCE], sealed[NONCE:], bound.encode()))
        except (InvalidTag, ValueError):
            return None


class Sealing:
    """The seal of a server, known from its start or made when it is first wanted."""

    def __init__(self, settings: IdempotencySettings, place: Database | None) -> None:
        """`place`: the ledger beside which a secret may be made. Raises `WrongSettings` for a secret that cannot be
        read."""
        self._place = place
        secret = configured(settings)
        self._seal = None if secret is None else Seal(secret)

    async def seal(self, without: str, code: str) -> Seal:
        """Raises `Unavailable` where there is no secret and none can be made: `without` says what there is not then."""
        seal = self._seal or await asyncio.to_thread(self.made)
        if seal is None:
            raise Unavailable(
                f"this server has no secret to keep answers with, so {without}", code=code, retry_after=RETRY
            )
        return seal

    def made(self) -> Seal | None:
        """The same in the thread that asks; None where there is none."""
        if self._seal is None and self._place is not None:
            try:
                self._seal = Seal(generated(self._place))
            except (OSError, WrongAddress, WrongSettings) as error:
                log.error("no secret for [idempotency] can be made: %s", error)
        return self._seal


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
