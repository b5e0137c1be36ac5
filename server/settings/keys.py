"""An API key: whose it is, what it may do, and how much."""

from __future__ import annotations

import hashlib
from typing import Literal

from pydantic import Field, model_validator

from ponder.server.settings.key_limits import KeyLimits

Scope = Literal["infer", "usage", "metrics", "admin", "reveal", "trace"]
NAME = r"^[A-Za-z0-9_.@-]{1,64}$"


class KeyTerms(KeyLimits):
    """What the configuration and the database say of a key alike, beside who it is and its scopes."""

    coarse_tokens: int = Field(
        default=1,
        ge=1,
        le=1 << 20,
        description="Budgets in multiples of so many tokens, and counts of hidden tokens rounded up to one, so that "
        "neither tells how long thoughts are. For keys with the scope infer alone; docs/security.md.",
    )
    coarse_seconds: float = Field(
        default=0, ge=0, le=60, description="The same for times: text is first seen at a multiple of so many seconds."
    )
    weight: float = Field(
        default=1,
        ge=0.01,
        le=100,
        description="Its share of the models and of the queue beside the other keys, in relation to theirs.",
    )


class KeySettings(KeyTerms):
    """One API key, with its limits. `ponder keys new NAME` makes one and prints this table."""

    name: str = Field(pattern=NAME, description="What it is called in metrics and reports; never secret.")
    id: str = Field(
        default="",
        pattern=r"^(key_[A-Za-z0-9]{16,64})?$",
        description="Which key it is in the ledger, for ever: it sees what was used under its id. A new secret with "
        "the id of the old one is the same key. Left out: it follows from the hash.",
    )
    hash: str = Field(pattern=r"^sha256:[0-9a-f]{64}$", description="SHA-256 of the key; the key itself is not kept.")
    scopes: frozenset[Scope] = Field(
        default=frozenset({"infer", "usage"}),
        description="infer: ask models. usage: read what this key used. metrics: read /metrics, which names all keys. "
        "admin: read what all keys used, metrics and health details, make and revoke keys, have the configuration read "
        "again. "
        "reveal: see thoughts. trace: see the tree of calls.",
    )

    @property
    def identity(self) -> str:
        """Its id, given or not. Nothing can be told from it about the hash."""
        return self.id or "key_" + hashlib.sha256(f"id of {self.hash}".encode()).hexdigest()[:24]

    @model_validator(mode="after")
    def _hides_what_it_hides(self) -> KeySettings:
        exact = sorted(self.scopes - {"infer"})
        if exact and (self.coarse_tokens > 1 or self.coarse_seconds):
            raise ValueError(
                f"coarse numbers are for keys with the scope infer alone: {', '.join(exact)} would show exact ones"
            )
        return self
