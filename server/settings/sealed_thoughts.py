"""Thoughts that are sealed for their callers to hand back: the secrets they are sealed with."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field, SecretStr

from ponder.server.settings.table import Table

SHORTEST = 32
"""Characters of a secret."""


class SealedThoughtSettings(Table):
    """Thoughts that are sealed for their callers to hand back."""

    secrets: list[Annotated[SecretStr, Field(min_length=SHORTEST)]] = Field(
        default_factory=list[SecretStr],
        max_length=64,
        description="What thoughts are sealed with: at least 32 random characters each, the same for all servers that "
        "open what one of them has sealed. The first seals, all of them open: a new one goes first, and an old one "
        "goes when nobody hands back what it has sealed. Left out, with secret_file too: thoughts.key in the user's "
        "state folder, which is made once.",
    )
    secret_file: Path | None = Field(
        default=None, description="A file that holds them, one on each line, where secrets is left out."
    )
