"""What is decided about a run before it begins, what it works with, and what comes of it.

Also the contracts `Strategy` and `Verifier`: what anybody may write and have run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Generic, Literal, Protocol, TypeVar

from compute.budget import Budget, Lengths, Spent
from compute.engine import Engine, RewardModel, Sampling
from compute.text import Answer, Candidate, Hidden, Prompt, Score

if TYPE_CHECKING:
    from compute.run import Run

StoppedBy = Literal["finished", "budget", "deadline", "early_agreement", "draining", "engine_error"]

T = TypeVar("T")


class Strategy(Protocol):
    """A way to spend a thinking budget: is given a run, returns the candidate that is the answer."""

    async def __call__(self, run: Run) -> Candidate: ...


class Verifier(Protocol):
    """A way of judging: one score in [0, 1] for each candidate, in order."""

    async def __call__(self, run: Run, candidates: Sequence[Candidate]) -> Sequence[Score]: ...


@dataclass(frozen=True, slots=True)
class Named(Generic[T]):
    """A strategy or verifier and the name it is listed under."""

    name: str
    call: T


@dataclass(frozen=True, slots=True)
class Plan:
    """All that was decided about a request before it runs. Made in `server/plan.py` and never changed."""

    prompt: Prompt
    strategy: Named[Strategy]
    budget: Budget
    sampling: Sampling
    """The caller's wishes; its token limits are set anew for each call from what is held for it."""
    verifier: Named[Verifier] | None = None
    fallback: Named[Verifier] | None = None
    """Judges where `verifier` fails."""
    timeout: float | None = None
    """Seconds from the start of the run."""
    keep_text: bool = False
    """The operator wants the text of every call in the trace."""
    listens: bool = True
    """The caller hears the answer as it is written; else it is told in one piece at the end, which costs less."""


@dataclass(frozen=True, slots=True)
class Means:
    """What a run works with: the model, what is known of its chains, and a reward model where there is one."""

    engine: Engine
    lengths: Lengths
    reward_model: RewardModel | None = None


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

    @property
    def share(self) -> float:
        """The leader's part of all the weight, in [0, 1]."""
        whole = sum(self.weights)
        return self.weights[0] / whole if whole else 0.0

    @property
    def unanimous(self) -> bool:
        """All candidates gave the same answer."""
        return self.counts == (self.candidates,)
