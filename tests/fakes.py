"""What only our own tests want of a fake; the scripted models are in `ponder.testing`."""

from __future__ import annotations

from dataclasses import dataclass


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
