"""Limits of keys, as pages write them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ponder.console import units

__all__ = ["amount", "named"]


_NAMES = {"max_inflight": "requests at the same time", "usd_per_month": "USD per month"}
"""Limits whose own names are no words."""


def named(limit: Mapping[str, Any]) -> str:
    """What a limit is of, in words."""
    name = str(limit["name"])
    return _NAMES.get(name, name.replace("_", " "))


def amount(value: float, unit: str) -> str:
    """So much of a limit, with its unit."""
    match unit:
        case "usd":
            return units.usd(value)
        case "tokens":
            return units.tokens(value)
        case _:
            return units.counted(value, "request")
