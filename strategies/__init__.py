"""The ways to spend a thinking budget: one paper, one file, and the table of them."""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import Any

from strategies.direct import Direct

STRATEGIES: dict[str, type[Any]] = {
    "direct": Direct,
}

GROUP = "ponder.strategies"
"""Entry points of this group add strategies by name; a name of ours cannot be taken."""


def strategies() -> dict[str, type[Any]]:
    """Ours and those of installed packages."""
    return {point.name: point.load() for point in entry_points(group=GROUP)} | STRATEGIES
