"""The ways to judge candidates: one way, one file, and the table of them."""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import Any

VERIFIERS: dict[str, type[Any]] = {}

GROUP = "ponder.verifiers"
"""Entry points of this group add verifiers by name; a name of ours cannot be taken."""


def verifiers() -> dict[str, type[Any]]:
    """Ours and those of installed packages."""
    return {point.name: point.load() for point in entry_points(group=GROUP)} | VERIFIERS
