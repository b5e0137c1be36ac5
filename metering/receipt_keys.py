"""The key that signs a server's receipts, in a file for its owner alone; and the public keys of all servers that ever
signed any, in the ledger, so that old receipts can be checked when a key has been replaced.
"""

from __future__ import annotations

import stat
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from sqlalchemy import Engine, select
from sqlalchemy.exc import SQLAlchemyError

from ponder.compute.errors import PonderError
from ponder.metering.clock import milliseconds
from ponder.metering.database import Database, made_once, state_folder
from ponder.metering.receipts import Signer, as_jwk, public_key
from ponder.metering.tables import receipt_keys
from ponder.metering.writer import insert_of


class NoKey(PonderError):
    """There is no key to sign with; the message says why."""


def usual_place() -> Path:
    """Where the key is when none is named. Raises `WrongAddress` for a user without a home."""
    return state_folder() / "receipts.key"


def signer_of(file: Path) -> tuple[Signer, bool]:
    """The signer whose key is in a file, which is made with a new key where it is not there; and whether it was made.
    Raises `NoKey`."""
    try:
        made = not file.exists() and _make(file)
        key = load_pem_private_key(file.read_bytes(), None)
    except OSError as error:
        raise NoKey(f"{file}: {error.strerror or type(error).__name__}") from None
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise NoKey(f"{file}: no private key in PEM, without a password, can be read in it") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise NoKey(f"{file}: it is no key of Ed25519, as `openssl genpkey -algorithm ed25519` makes one")
    return Signer(key), made


def others_may_read(file: Path) -> bool:
    """Whether the file of a key is readable for more than its owner."""
    return bool(file.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO))


def _make(file: Path) -> bool:
    """Puts a new key into a file; False where another process was quicker. Raises `OSError`."""
    pem = Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return made_once(file, pem)


def remember(place: Database, key: Ed25519PublicKey) -> None:
    """Lists a public key in a ledger, for good. Raises `NoKey` where it cannot be."""
    jwk, engine = as_jwk(key), place.engine()
    row = {"id": jwk["kid"], "x": jwk["x"], "seen_ms": milliseconds()}
    try:
        with engine.begin() as connection:
            connection.execute(insert_of(connection, receipt_keys), [row])
    except SQLAlchemyError as error:
        raise NoKey(f"the key for receipts cannot be listed in the ledger: {type(error).__name__}") from None
    finally:
        engine.dispose()


def listed(engine: Engine) -> list[Ed25519PublicKey]:
    """All public keys that have ever signed receipts of requests in this ledger, the oldest first."""
    with engine.connect() as connection:
        rows = connection.execute(select(receipt_keys.c.x).order_by(receipt_keys.c.seen_ms, receipt_keys.c.id))
        return [public_key(x) for x in rows.scalars()]
