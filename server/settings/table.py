"""What all parts of the configuration share: a table, the error, and the word that was meant."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict

from ponder.compute.errors import PonderError


class WrongSettings(PonderError):
    """The configuration is at fault; the message has one line for each thing that is wrong."""


class Table(BaseModel):
    """A table of the configuration: frozen, and a key it does not know is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def nearest(word: str, words: Sequence[str] | Mapping[str, Any], cutoff: float = 0.6) -> str:
    """`; did you mean ...?`, or nothing."""
    found = difflib.get_close_matches(word, list(words), n=1, cutoff=cutoff)
    return f"; did you mean {found[0]}?" if found else ""
