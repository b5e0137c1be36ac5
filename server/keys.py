"""Who may ask: API keys, known by their hashes only, compared in constant time."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Sequence
from dataclasses import dataclass

from ponder.compute.errors import NotAuthenticated
from ponder.server.coarse import Coarse
from ponder.server.settings import KeySettings, Scope

LONGEST = 512
"""Characters of a presented key that are looked at; ours have 46."""


@dataclass(frozen=True, slots=True)
class Key:
    """A caller: what they are called and what they may do."""

    name: str
    scopes: frozenset[Scope]
    max_thinking_budget: int | None = None
    models: frozenset[str] | None = None
    """Names of the models they may ask; None is all."""
    coarse: Coarse | None = None
    """How coarse the numbers are they see; None: exact."""
    weight: float = 1.0
    """Their share beside other callers, in relation to the others'."""

    def may(self, scope: Scope) -> bool:
        return scope in self.scopes

    def may_ask(self, model: str) -> bool:
        return self.models is None or model in self.models


ANYONE = Key("anyone", frozenset({"infer", "usage", "admin", "trace"}))
"""The key of all callers of a server without keys, which binds to loopback only: every scope but that to see
thoughts."""


def digest(key: str) -> str:
    """How a key is written down. A plain hash is enough: the key is 256 random bits, nothing to guess."""
    return "sha256:" + hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()


def make() -> tuple[str, str]:
    """A new key and its hash. The key is shown once and kept nowhere."""
    key = "pk-" + secrets.token_urlsafe(32)
    return key, digest(key)


def _coarse(key: KeySettings) -> Coarse | None:
    return Coarse(key.coarse_tokens, key.coarse_seconds) if key.coarse_tokens > 1 or key.coarse_seconds else None


class Keyring:
    """The keys of a server."""

    def __init__(self, keys: Sequence[KeySettings]) -> None:
        self._keys = [
            (k.hash, Key(k.name, k.scopes, k.max_thinking_budget, k.models, _coarse(k), k.weight)) for k in keys
        ]

    @property
    def open(self) -> bool:
        """No key is configured: anyone on this machine may ask."""
        return not self._keys

    def who(self, presented: str | None, hint: str) -> Key:
        """The caller, by the key a request presents. `hint`: the header to send one in. Raises `NotAuthenticated`.

        Every key is compared, whichever matches, so the time it takes tells nothing.
        """
        if self.open:
            return ANYONE
        if not presented:
            raise NotAuthenticated(f"this server wants an API key: send the header {hint}", code="missing_api_key")
        found: Key | None = None
        if len(presented) <= LONGEST:
            asked = digest(presented)
            for known, key in self._keys:
                if hmac.compare_digest(known, asked):
                    found = key
        if found is None:
            raise NotAuthenticated("this server does not know that API key", code="invalid_api_key")
        return found
