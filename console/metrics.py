"""Series of a server, read from the text that Prometheus reads."""

from __future__ import annotations

import re
from collections.abc import Mapping

__all__ = ["series"]


def series(text: str, name: str) -> list[tuple[Mapping[str, str], float]]:
    """The labels and values of a series."""
    found: list[tuple[Mapping[str, str], float]] = []
    for labels, value in re.findall(rf"^{re.escape(name)}(?:\{{([^}}]*)\}})? (\S+)$", text, re.MULTILINE):
        found.append((dict(re.findall(r'(\w+)="((?:[^"\\]|\\.)*)"', labels)), float(value)))
    return found
