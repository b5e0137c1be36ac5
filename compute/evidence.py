"""What was learned lately about evidence beside votes, of one model."""

from __future__ import annotations

from dataclasses import dataclass, field

from ponder.compute.likelihood import MEMORY, Worth

STAGES = 8
"""A typical chain is a quarter written at the end of the first stage; behind twice its length all is the last."""

DOUBTED = 8.0
"""Probes that what is thought beforehand, that half of them hold, counts for."""


class Foresight:
    """How often the answer of a half-written chain was the one it came to, by how far it was: lately, of one model."""

    def __init__(self) -> None:
        self._held = [DOUBTED / 2] * STAGES
        self._made = [DOUBTED] * STAGES

    @staticmethod
    def stage(tokens: int, typical: int) -> int:
        """How far a chain of so many tokens is, where half of all are longer than `typical`."""
        return min(STAGES - 1, 4 * tokens // max(1, typical))

    def holds(self, stage: int) -> float:
        """How often, in (0, 1)."""
        return self._held[stage] / self._made[stage]

    def saw(self, stage: int, *, held: bool) -> None:
        """A chain has ended that was asked at this stage; `held`: with the answer it gave then."""
        fades = 1 - 1 / MEMORY if self._made[stage] >= MEMORY else 1.0
        self._held[stage] = self._held[stage] * fades + held
        self._made[stage] = self._made[stage] * fades + 1


@dataclass(frozen=True, slots=True)
class Evidence:
    """Kept by whoever serves the model, and added to by its requests."""

    worth: Worth = field(default_factory=Worth)
    """How well the likelihood of its chains tells answers apart."""
    foresight: Foresight = field(default_factory=Foresight)
    """How often what a half-written chain would answer holds."""
