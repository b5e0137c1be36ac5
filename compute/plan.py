"""What was decided about one answer of a request before it runs."""

from __future__ import annotations

from dataclasses import dataclass

from ponder.compute.budget import Budget
from ponder.compute.engine import Sampling
from ponder.compute.outcome import SummaryLength
from ponder.compute.run import ReadCalls, Selection, Strategy, Verifier
from ponder.compute.text import Prompt


@dataclass(frozen=True, slots=True)
class Plan:
    """All that was decided about a request before it runs. Made in `server/plan.py` and never changed."""

    prompt: Prompt
    strategy: Selection[Strategy]
    budget: Budget
    sampling: Sampling
    """The caller's wishes; its token limits are set anew for each call from what is reserved for it."""
    verifier: Selection[Verifier] | None = None
    fallback: Selection[Verifier] | None = None
    """Judges where `verifier` fails."""
    timeout: float | None = None
    """Seconds from the start of the run."""
    keep_text: bool = False
    """The operator wants the text of every call in the trace."""
    stream: bool = True
    """The answer is sent as it is written; else in one piece at the end, which costs less."""
    summary: SummaryLength | None = None
    """A summary of the thought is wanted, so long."""
    called: ReadCalls | None = None
    """Reads the calls of tools in an answer; None where no tool may be called."""
    yields: bool = False
    """Where many calls wait for the model, the strategy may make do with fewer chains than it would else."""
