"""Responses that are kept: for how long, and how large they may be."""

from __future__ import annotations

from pydantic import Field

from ponder.server.settings.table import Table


class ResponseSettings(Table):
    """Responses that are kept in the ledger's database, encrypted with the secret of [idempotency]."""

    retention_days: int = Field(
        default=30,
        ge=0,
        le=3650,
        description="Days for which a response is kept, with its input, to be asked for again or gone on with. 0: none "
        "is kept, and requests that want it are refused.",
    )
    response_bytes: int = Field(
        default=1 << 23,
        ge=1 << 10,
        le=1 << 28,
        description="Size of a response that is kept, with its input, and of the stream of one that runs in the "
        "background, at most. What is larger is not kept; in the background it fails.",
    )
    most_per_key: int = Field(
        default=10_000,
        ge=1,
        le=10_000_000,
        description="Responses of one API key that are kept, about. Where there are more, the oldest are forgotten "
        "before their time; those that run are never.",
    )
