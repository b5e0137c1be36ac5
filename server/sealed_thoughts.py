"""Thoughts that callers carry: sealed, so that nobody reads or alters them, and opened again for whom they are.

A caller who is given its answer's thought sealed can hand it back with a later turn, to whichever server has the
secret. Nothing of it is kept here. AES-256-GCM, under a key that follows from a secret (HKDF, RFC 5869); bound by its
associated data to the API key, the model and the purpose. `docs/sealed-thoughts.md` says what that promises.
"""

from __future__ import annotations

import base64
import binascii
import json
import logging
import secrets
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from ponder.compute.engine import ModelCard
from ponder.compute.errors import RequestError
from ponder.compute.text import Hidden, Message
from ponder.metering.database import WrongAddress, made_once, state_folder
from ponder.server.coarse import Coarse
from ponder.server.loop_thoughts import DENSE, asked_at
from ponder.server.settings import WrongSettings
from ponder.server.settings.sealed_thoughts import SHORTEST, SealedThoughtSettings
from ponder.server.unseal import encrypted, joined

log = logging.getLogger("ponder.server")

FILE = "thoughts.key"
"""The secret of a server that is told none, in the user's state folder."""
NAME, NONCE = 8, 12
"""Bytes before what is encrypted: which secret it was, and what makes each seal another."""
HEAD = struct.Struct(">BIII")
"""Whether the text is deflated, its bytes before and after that, and the tokens that its tool loop has thought."""
STEP = 48
"""Bytes that the text is padded to a multiple of."""
PER_TOKEN = 8
"""The same for each token of a coarse number: more than a token has when it is deflated."""
SEVERAL = ","
"""Between the seals of one turn, where it has several."""
MOST = (1 << 32) - 1


class WrongSeal(Exception):
    """Nothing that was sealed here, for this key and model."""


@dataclass(frozen=True, slots=True)
class Opened:
    """A thought that was opened. Its text is made when it is asked for: before that its size is known."""

    size: int
    """Bytes of its text."""
    spent: int
    """Hidden tokens of its tool loop, up to the answer it belongs to."""
    _packed: bytes
    _deflated: bool

    @property
    def thought(self) -> Hidden[str]:
        """No more than `size` bytes are made of it, whatever it holds."""
        text = zlib.decompressobj().decompress(self._packed, max(1, self.size)) if self._deflated else self._packed
        return Hidden(text.decode("utf-8", "surrogatepass"))


class SealedThoughts:
    """What the secrets of a server seal and open."""

    def __init__(self, known: Sequence[bytes]) -> None:
        """The first of the secrets seals, all of them open."""
        made = [HKDF(SHA256(), 32 + NAME, salt=None, info=b"ponder sealed thoughts").derive(one) for one in known]
        self._ciphers = {one[32:]: AESGCM(one[:32]) for one in reversed(made)}
        self._name = made[0][32:]

    def seal(self, thought: bytes, key: str, model: str, *, spent: int = 0, step: int = STEP) -> str:
        """A text, sealed for a key (by its id) and a model: letters, digits, `+` and `/`. Its length tells that of the
        text in steps of so many bytes."""
        packed = zlib.compress(thought, 1)
        deflated = len(packed) < len(thought)
        body = packed if deflated else thought
        plain = HEAD.pack(deflated, len(thought), len(body), min(spent, MOST)) + body
        # A multiple of three bytes is spelt in one way alone, so that no letter of it can be altered.
        step += -step % 3
        plain += bytes(-len(plain) % step)
        nonce = secrets.token_bytes(NONCE)
        bound = self._ciphers[self._name].encrypt(nonce, plain, _bound(key, model))
        return base64.b64encode(self._name + nonce + bound).decode()

    def open(self, sealed: str, key: str, model: str) -> Opened:
        """What was sealed for this key and model. Raises `WrongSeal`."""
        try:
            raw = base64.b64decode(sealed, validate=True)
            if base64.b64encode(raw) != sealed.encode():
                raise WrongSeal
            name, nonce, body = raw[:NAME], raw[NAME : NAME + NONCE], raw[NAME + NONCE :]
            plain = self._ciphers[name].decrypt(nonce, body, _bound(key, model))
            deflated, size, length, spent = HEAD.unpack_from(plain)
        except (binascii.Error, ValueError, KeyError, InvalidTag, struct.error):
            raise WrongSeal from None
        return Opened(size, spent, plain[HEAD.size : HEAD.size + length], bool(deflated))


@dataclass(frozen=True, slots=True)
class Sealing:
    """How the thoughts of one request's answers are sealed."""

    seals: SealedThoughts
    key: str
    """The id of its API key."""
    model: str
    coarse: Coarse | None
    before: int = 0
    """Hidden tokens that its tool loop has spent before it."""

    def sealed(self, thought: Hidden[str], hidden: int) -> str | None:
        """The thought of an answer that has taken so many hidden tokens; None where it says nothing. Where numbers are
        coarse, that a thought is empty is not told either."""
        step, spent = STEP, hidden
        if self.coarse is not None:
            step, spent = PER_TOKEN * self.coarse.tokens, self.coarse.up(hidden)
        text = encrypted(thought, empty=self.coarse is not None and hidden > 0)
        if text is None:
            return None
        return self.seals.seal(text, self.key, self.model, spent=self.before + spent, step=step)


def handed_back(
    seals: SealedThoughts, key: str, model: str, card: ModelCard, messages: tuple[Message, ...]
) -> tuple[tuple[Message, ...], int]:
    """The messages with the thoughts that came sealed with them, and the hidden tokens that the tool loop they are in
    has spent. The rules are those of `LoopThoughts.given_back`: the model has to read them, of the turns since the last
    question or of all; each is given back once; none where a context cannot hold them. All are opened, also those that
    nobody reads. The same object where nothing is given back. Raises `RequestError` that names the turn."""
    if not any(one.sealed for one in messages):
        return messages, 0
    asked, spent = asked_at(messages), 0
    first = 0 if card.keeps_thoughts else asked
    seen: set[str] = set()
    found: dict[int, list[Opened]] = {}
    for n, one in enumerate(messages):
        for sealed, opened in _opened(seals, key, model, n, one):
            if n >= asked:
                spent = max(spent, opened.spent)
            if n >= first and sealed not in seen and opened.size:
                seen.add(sealed)
                found.setdefault(n, []).append(opened)
    sizes = sum(opened.size for several in found.values() for opened in several)
    if not found or not card.shows_thoughts or sizes > DENSE * card.context:
        return messages, spent
    told = list(messages)
    for n, several in found.items():
        told[n] = replace(told[n], thought=joined([opened.thought for opened in several]))
    return tuple(told), spent


def given_back(messages: Sequence[Message]) -> int:
    """How many thoughts a model is given back with them, at most."""
    return sum(1 + (one.sealed or "").count(SEVERAL) for one in messages if one.thought is not None)


def _opened(seals: SealedThoughts, key: str, model: str, number: int, message: Message) -> Iterator[tuple[str, Opened]]:
    for sealed in (message.sealed or "").split(SEVERAL) if message.sealed else ():
        try:
            if message.role != "assistant":
                raise WrongSeal
            # Some clients spell bytes in the alphabet of URLs.
            sealed = sealed.replace("-", "+").replace("_", "/")
            yield sealed, seals.open(sealed, key, model)
        except WrongSeal:
            field = f"messages.{number}.sealed"
            raise RequestError(
                f"{field} cannot be opened: it was altered, belongs to another API key or another model, or was sealed "
                "with a secret that this server does not have. Send the conversation without it",
                param=field,
                code="invalid_encrypted_content",
            ) from None


# -- secrets ----------------------------------------------------------------------------------------------------------


def configured(settings: SealedThoughtSettings) -> list[bytes]:
    """The secrets of the configuration; empty where there are none. Raises `WrongSettings`."""
    if settings.secrets:
        return [one.get_secret_value().encode() for one in settings.secrets]
    return [] if settings.secret_file is None else _read(settings.secret_file)


def sealing(settings: SealedThoughtSettings) -> SealedThoughts:
    """What a server that starts seals with. Where nothing is configured its secret is in a file, which is made once.
    Raises `WrongSettings`."""
    if known := configured(settings):
        return SealedThoughts(known)
    try:
        file = state_folder() / FILE
        if not file.is_file() and made_once(file, secrets.token_hex(32).encode() + b"\n"):
            log.info("a secret for sealed thoughts is made: %s", file)
        return SealedThoughts(_read(file))
    except (OSError, WrongAddress, WrongSettings) as error:
        words = error.message if isinstance(error, WrongSettings) else str(error)
        log.warning(
            "thoughts that are sealed now cannot be opened after a restart, for there is no secret to keep (%s); "
            "[sealed_thoughts] secret_file names a file",
            words,
        )
        return passing()


def passing() -> SealedThoughts:
    """Sealed with a secret that nobody keeps."""
    return SealedThoughts([secrets.token_bytes(32)])


def _read(file: Path) -> list[bytes]:
    where = f"sealed_thoughts.secret_file: {file}"
    try:
        lines = [line for line in map(bytes.strip, file.read_bytes().splitlines()) if line]
    except OSError as error:
        raise WrongSettings(f"{where} cannot be read: {error.strerror}") from None
    if not lines:
        raise WrongSettings(f"{where} is empty: it has a secret on each line, the newest first")
    for number, line in enumerate(lines, 1):
        if len(line) < SHORTEST:
            raise WrongSettings(f"{where} has {len(line)} characters as secret {number}: at least {SHORTEST}")
    return lines


def _bound(key: str, model: str) -> bytes:
    """What a seal holds for alone."""
    return json.dumps(["thought", key, model]).encode()
