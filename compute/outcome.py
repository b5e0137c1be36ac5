"""The result of a run: how one answer of a request ended, and what is noted on the way there."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from ponder.compute.full_vote import Ballots
from ponder.compute.text import Answer, Candidate, Hidden, Score
from ponder.compute.usage import Usage

StoppedBy = Literal[
    "finished", "budget", "cost", "quota", "deadline", "early_agreement", "draining", "engine_error", "repetition"
]
"""`budget`: the request's own tokens ended it; `cost`: its money did; `quota`: a limit of its API key did."""
Verdict = Literal["verified", "refuted", "agreed", "disputed", "scored", "unjudged"]
"""What is known of an answer: a verifier that decides passed it, or did not; more than half the vote is behind it, or
not; a verifier that estimates gave it a score; nothing."""


SummaryLength = Literal["auto", "concise", "detailed"]
"""How long a summary of a thought is to be; `auto` is between the others."""
NoSummary = Literal["no_thought", "no_budget", "no_time", "engine_error", "too_close"]
"""Why there is none: nothing was thought · no hidden tokens are left · no time is, or the answer was cut short · the
model failed · it has written nothing but passages of the thought."""


@dataclass(frozen=True, slots=True)
class Summarised:
    """What came of a wish for a summary."""

    text: str | None
    missing: NoSummary | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one answer of a request ended. Counts are tokens of the language model, and candidates."""

    answer: Answer
    complete: bool
    """False where the visible answer was cut: `finish_reason: "length"`."""
    stopped_by: StoppedBy
    spent: Usage
    samples: int
    samples_requested: int
    agreement: float | None = None
    confidence: float | None = None
    """The probability that the answer would win the vote in full; None where there was no vote among chains that were
    drawn one like the other, and for one chain alone of a model of which nothing was learned."""
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
    reduced: bool = False
    """The strategy drew fewer chains because so many calls of other requests waited."""
    decided: bool = False
    """The verifier decides, as one that runs the tests does, and does not estimate."""
    stop: str | None = None
    """The stop string that ended the answer, if one did."""
    thought: Hidden[str] = field(default_factory=lambda: Hidden(""))
    summary: Summarised | None = None
    """Of the thought; None where none was wanted."""

    @property
    def verdict(self) -> Verdict:
        """A chain alone agrees with nobody."""
        if self.decided and self.score is not None:
            return "verified" if self.score == 1 else "refuted"
        if self.agreement is not None and self.samples > 1:
            return "agreed" if self.agreement > 0.5 else "disputed"
        return "unjudged" if self.score is None else "scored"


@dataclass(slots=True)
class Notes:
    """What a run notes on its way for its `Outcome`; the fields that have the same name mean the same there."""

    requested: int = 0
    """Chains the strategy asked for."""
    wanted: int = 0
    """The most chains it would have raced with."""
    scores: dict[int, Score] = field(default_factory=dict[int, Score])
    """By number of the chain."""
    agreement: float | None = None
    votes: tuple[int, ...] = ()
    """How many chains gave each answer in the last vote, most first."""
    ballots: Ballots | None = None
    """The last vote, where its chains were drawn one like the other."""
    judging: int = 0
    """Verifiers that are at work."""
    stopped_early: bool = False
    """Chains were stopped because the answer stood without them."""
    short: bool = False
    """The budget allowed fewer chains than were asked for."""
    degraded: bool = False
    ungrouped: bool = False
    alike: bool = False
    reduced: bool = False

    def stopped_by(self, stopped_by: StoppedBy, chosen: Candidate, *, lost: bool = False) -> StoppedBy:
        """The same, but where a run that finished had a reason to finish sooner, or went on without chains that were
        lost: these say more than a budget, which may have gone further with them."""
        if lost and stopped_by in ("finished", "budget"):
            return "engine_error"
        if stopped_by != "finished":
            return stopped_by
        if chosen.circled:
            return "repetition"
        if chosen.forced or self.short:
            return "budget"
        if self.stopped_early:
            return "early_agreement"
        return "finished"
