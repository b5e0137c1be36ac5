"""The scripted models of `ponder.testing`, and what only our own tests want of a fake."""

from __future__ import annotations

from dataclasses import dataclass

from ponder.testing import CARD, MARKER, Chain, Script, ScriptedEngine, ScriptedRewards, always, question

__all__ = ["CARD", "MARKER", "Chain", "Script", "ScriptedEngine", "ScriptedRewards", "Told", "always", "question"]


@dataclass
class Told:
    """What a reward model says it has read."""

    tokens: int = 0
    cached: int = 0
    calls: int = 0

    def __call__(self, tokens: int, cached: int) -> None:
        self.tokens += tokens
        self.cached += cached
        self.calls += 1
