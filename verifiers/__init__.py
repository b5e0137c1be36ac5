"""The ways to judge candidates: one way, one file, and the table of them."""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import Any

from verifiers.agreement import Agreement
from verifiers.code import Code
from verifiers.confidence import Confidence
from verifiers.judge import Judge
from verifiers.prm import Prm
from verifiers.rules import Rules

VERIFIERS: dict[str, type[Any]] = {
    "agreement": Agreement,
    "prm": Prm,
    "judge": Judge,
    "code": Code,
    "rules": Rules,
    "confidence": Confidence,
}

GROUP = "ponder.verifiers"
"""Entry points of this group add verifiers by name; a name of ours cannot be taken."""


def verifiers() -> dict[str, type[Any]]:
    """Ours and those of installed packages."""
    return {point.name: point.load() for point in entry_points(group=GROUP)} | VERIFIERS
