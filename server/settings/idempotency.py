"""Requests that carry an `Idempotency-Key`: how long their answers are kept, and the secret that seals them."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, SecretStr

from ponder.server.settings.table import Table

SHORTEST = 32
"""Characters of a secret."""


class IdempotencySettings(Table):
    """Requests that carry an `Idempotency-Key`."""

    retention_seconds: int = Field(
        default=86400,
        ge=0,
        le=30 * 86400,
        description="Seconds for which the answer is kept, encrypted, to be given to the same request again. 0: none "
        "is kept, and the same request is told that it was answered (409).",
    )
    answer_bytes: int = Field(default=1 << 23, ge=1, le=1 << 28, description="Size of an answer that is kept, at most.")
    linger_seconds: float = Field(
        default=30,
        gt=0,
        le=3600,
        description="Seconds for which it runs on when its caller has hung up and nobody waits for it; at least 5 "
        "where several servers share a ledger.",
    )
    secret: SecretStr | None = Field(
        default=None,
        min_length=SHORTEST,
        description="What answers are encrypted with: at least 32 random characters, the same for all servers that "
        "share a ledger. Left out, with secret_file too: a file beside the SQLite ledger, which is made once.",
    )
    secret_file: Path | None = Field(default=None, description="A file that holds it, where secret is left out.")
