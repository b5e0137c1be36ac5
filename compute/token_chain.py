"""A hash over the token ids of a request, which tells nothing of them to whoever has not its salt: what a receipt is
signed over.

The ids of a call are hashed as they come, in the order in which the model made them. At the end the calls are chained
by their numbers, whichever was quicker. With the salt and the ids anybody can work out the same; `docs/metering.md`
says how, in words.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Iterable, Sequence
from hashlib import sha256

from ponder.compute.text import Hidden

PIECE = 1024
"""Ids that are hashed in one go."""


class TokenHash:
    """SHA-256 over the salt and the ids of one call. Ids are integers of four bytes, the lowest first."""

    __slots__ = ("_hash", "_kept", "_waiting")

    def __init__(self, salt: bytes, *, keep: bool = False) -> None:
        """`keep`: the ids themselves are kept, too."""
        self._hash = sha256(salt)
        self._waiting: list[int] = []
        self._kept = array("I") if keep else None

    def add(self, ids: Sequence[int]) -> None:
        """The model made these. On the path of the tokens, so it is quick."""
        self._waiting.extend(ids)
        if len(self._waiting) >= PIECE:
            self.flush()

    def flush(self) -> None:
        """Hashes what waits to be."""
        if not self._waiting:
            return
        ids = _packed(self._waiting)
        self._waiting.clear()
        if self._kept is not None:
            self._kept.extend(ids)
        if sys.byteorder == "big":
            ids.byteswap()
        self._hash.update(ids.tobytes())

    @property
    def digest(self) -> str:
        """Of all that were made so far, in hexadecimal digits."""
        self.flush()
        return self._hash.hexdigest()

    @property
    def ids(self) -> Hidden[array[int]] | None:
        """Those that were made so far; None where they are not kept."""
        self.flush()
        return None if self._kept is None else Hidden(self._kept)


def _packed(ids: Sequence[int]) -> array[int]:
    try:
        return array("I", ids)
    except OverflowError:
        # No model has so many tokens; whatever an engine tells, nothing ends over it.
        return array("I", [number & 0xFFFFFFFF for number in ids])


def call_link(answer: int, number: int, parent: int | None, hidden: int, visible: int, wasted: int, digest: str) -> str:
    """The link of a call: which it is, which it continues, what it made and the hash of its ids."""
    return f"call {answer} {number} {-1 if parent is None else parent} {hidden} {visible} {wasted} {digest}"


def read_link(answer: int, number: int, tokens: int, cached: int, chains: Iterable[int]) -> str:
    """The link of a question to a reward model: what it read, and for which chains."""
    return f"read {answer} {number} {tokens} {cached} {','.join(map(str, chains))}"


def head_of(salt: bytes, links: Iterable[str]) -> bytes:
    """The hash of the last link, which has that of the one before it in it, and so of them all."""
    head = sha256(salt).digest()
    for link in links:
        head = sha256(head + link.encode()).digest()
    return head
