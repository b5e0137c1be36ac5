"""How far a run is, for callers who want to hear of it while it goes on: counts, and never a text.

A run is looked at from outside, whenever somebody wants to know. It does nothing for it itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ponder.compute.chains import Chains
from ponder.compute.outcome import Notes

Phase = Literal["waiting", "thinking", "judging", "answering"]
"""It has not begun · chains are written · a verifier judges them · the answer is being told."""


@dataclass(frozen=True, slots=True)
class Look:
    """A run at one moment."""

    phase: Phase = "waiting"
    samples: int = 0
    """Chains that have finished."""
    planned: int = 0
    """As many as the strategy wants, so far as it has said."""
    votes: tuple[int, ...] = ()
    """How many chains gave each answer in the last vote, most first."""


class Watch:
    """Looks at one run, once that has begun."""

    def __init__(self) -> None:
        self._run: tuple[Chains, Notes] | None = None

    def begin(self, chains: Chains, notes: Notes) -> None:
        """The run begins, with what it notes on its way."""
        self._run = chains, notes

    def look(self) -> Look:
        """How far it is."""
        if self._run is None:
            return Look()
        chains, notes = self._run
        finished = chains.drafts.finished
        phase: Phase = "answering" if chains.stream.begun else "judging" if notes.judging else "thinking"
        return Look(phase, finished, max(1, notes.requested, notes.wanted, finished), notes.votes)
