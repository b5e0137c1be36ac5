"""The ways to judge candidates: one way, one file, and the table of them."""

from __future__ import annotations

from typing import Any

from ponder import under_one_name
from ponder.compute.plugins import loaded, points
from ponder.verifiers.agreement import Agreement
from ponder.verifiers.code import Code
from ponder.verifiers.confidence import Confidence
from ponder.verifiers.consensus import Consensus
from ponder.verifiers.judge import Judge
from ponder.verifiers.prm import Prm
from ponder.verifiers.rules import Rules

under_one_name(__name__)

VERIFIERS: dict[str, type[Any]] = {
    "agreement": Agreement,
    "prm": Prm,
    "judge": Judge,
    "consensus": Consensus,
    "code": Code,
    "rules": Rules,
    "confidence": Confidence,
}

GROUP = "ponder.verifiers"
"""Entry points of this group add verifiers by name; a name of ours cannot be taken."""


def verifiers() -> dict[str, type[Any]]:
    """Ours and those of installed packages. Raises `BrokenPlugin`."""
    return {point.name: loaded("verifier", point) for point in points(GROUP)} | VERIFIERS
