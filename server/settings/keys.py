"""An API key: whose it is, what it may do, and how much."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ponder.server.settings.table import Table

Scope = Literal["infer", "usage", "admin", "reveal", "trace"]


class KeySettings(Table):
    """One API key. `ponder keys new NAME` makes one and prints this table."""

    name: str = Field(
        pattern=r"^[A-Za-z0-9_.@-]{1,64}$", description="Who it belongs to; shown in metrics, never secret."
    )
    hash: str = Field(pattern=r"^sha256:[0-9a-f]{64}$", description="SHA-256 of the key; the key itself is not kept.")
    scopes: frozenset[Scope] = Field(
        default=frozenset({"infer", "usage"}),
        description="infer: ask models. usage: read metrics. admin: read health details. "
        "reveal: see thoughts. trace: see the tree of calls.",
    )
    max_thinking_budget: int | None = Field(default=None, ge=0, description="Highest thinking_budget of one request.")
    models: frozenset[str] | None = Field(default=None, description="Names of the models it may ask; left out: all.")
