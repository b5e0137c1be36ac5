"""What a run comes to: how a vote among candidates stands, and how a choice of a request ended."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from ponder.compute.budget import Spent
from ponder.compute.text import Answer, Candidate, Hidden

StoppedBy = Literal["finished", "budget", "deadline", "early_agreement", "draining", "engine_error", "repetition"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one choice of a request ended."""

    answer: Answer
    complete: bool
    """False where the visible answer was cut: `finish_reason: "length"`."""
    stopped_by: StoppedBy
    spent: Spent
    samples: int
    samples_requested: int
    agreement: float | None = None
    score: float | None = None
    verifier: str | None = None
    degraded: bool = False
    """The verifier failed and the fallback judged."""
    truncated: bool = False
    """The chosen chain was too long for the verifier, and only its end was judged."""
    ungrouped: bool = False
    """No answer could be compared with another, so that there was no vote."""
    alike: bool = False
    """Many chains were asked for and one was drawn: at temperature 0 all would have been the same."""
    thought: Hidden[str] = field(default_factory=lambda: Hidden(""))


@dataclass(frozen=True, slots=True)
class Vote:
    """How candidates stand when those with equal answers are counted together.

    `counts` and `weights` have one entry for each answer, heaviest first. Both are empty where no candidate holds an
    answer that can be compared; then the best scored, or first, candidate leads.
    """

    leader: Candidate
    counts: tuple[int, ...]
    weights: tuple[float, ...]
    candidates: int
    """Those without an answer, who do not vote, included."""
    votes: tuple[int | None, ...] = ()
    """For each candidate (one given twice is one) its answer's place in `counts`; None where it does not vote."""

    @property
    def share(self) -> float:
        """The leader's part of all the weight, in [0, 1]."""
        whole = sum(self.weights)
        return self.weights[0] / whole if whole else 0.0

    @property
    def unanimous(self) -> bool:
        """All candidates gave the same answer."""
        return self.counts == (self.candidates,)
