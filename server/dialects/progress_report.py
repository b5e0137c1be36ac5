"""How far the work on an answer is, as streams tell it: counts, and never a text."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from ponder.compute.price import NANO
from ponder.server.answers import Progress
from ponder.server.dialects.described import Part


class ProgressReport(Part):
    """How far the work on an answer is."""

    phase: Literal["waiting", "thinking", "judging", "answering"]
    samples: int = Field(description="Finished candidates")
    samples_planned: int = Field(description="As many as the strategy wants, so far as it has said")
    votes: list[int] = Field(description="How many candidates gave each answer, most first")
    tokens_left: int = Field(description="Hidden tokens that may still be spent")
    cost_left_usd: float = Field(default=0, description="Where something bounds the cost")


def progress_report(progress: Progress) -> dict[str, Any]:
    """The shape."""
    told: dict[str, Any] = {
        "phase": progress.phase,
        "samples": progress.samples,
        "samples_planned": progress.samples_planned,
        "votes": progress.votes,
        "tokens_left": progress.tokens_left,
    }
    if progress.cost_left_nano_usd is not None:
        told["cost_left_usd"] = progress.cost_left_nano_usd / NANO
    return told
