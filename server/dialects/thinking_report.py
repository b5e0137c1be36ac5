"""The one extension object of answers, `thinking`: what was decided about the thinking, and what came of it."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from ponder.compute.outcome import NoSummary, Outcome, StoppedBy
from ponder.compute.price import NANO
from ponder.server.answers import Summary, stopped_by
from ponder.server.dialects.described import Part


class Judged(Part):
    """How an answer was chosen. What does not apply is left out."""

    agreement: float = Field(default=0, description="The answer's share of the vote, where there was one")
    confidence: float = Field(
        default=0, description="How likely the answer is to win the vote in full, as far as the vote had come"
    )
    verifier: str = Field(default="", description="Who judged the answer")
    score: float = Field(default=0, description="How the verifier judged the answer, from 0 to 1")
    verifier_degraded: Literal[True] = Field(
        default=True, description="The verifier asked for failed, and the one named judged instead"
    )
    verifier_truncated: Literal[True] = Field(
        default=True, description="The chain was too long for the reward model, and only a part was judged"
    )
    ungrouped: Literal[True] = Field(
        default=True, description="No answer could be compared with another, so there was no vote"
    )
    deterministic: Literal[True] = Field(
        default=True, description="At temperature 0 all chains are the same: one was drawn"
    )
    reduced_by_load: Literal[True] = Field(
        default=True, description="Fewer chains were drawn because calls of others waited for the model"
    )
    no_summary: NoSummary = Field(
        default="no_budget", description="Why there is no summary of the thought, where one was asked for"
    )


class ChoiceThinking(Judged):
    """The thinking behind one of several choices."""

    index: int
    spent: int = Field(description="Hidden tokens")
    samples: int = Field(description="Finished candidates")
    stopped_by: StoppedBy


class ThinkingReport(Judged):
    """What was decided about the thinking, and what came of it."""

    strategy: str
    budget: int = Field(description="Hidden tokens at most")
    budget_source: str = Field(description="The field or setting that decided the budget")
    budget_clamped_from: int = Field(default=0, description="The budget asked for, where it was lowered")
    spent: int = Field(description="Hidden tokens: reasoning_tokens of usage")
    samples: int = Field(description="Finished candidates")
    samples_requested: int = Field(description="Candidates the strategy wanted")
    stopped_by: StoppedBy
    verifier_tokens: int = Field(description="Read by a reward model; not part of usage")
    discarded_tokens: int = Field(description="Generated, and not part of the answer or its own chain")
    unseen_calls: int = Field(
        default=0,
        description="Chains of which a call's end was not seen, where there are some: what came is all that counts",
    )
    program_seconds: float = Field(default=0, description="Processor time of programs that the verifier ran")
    cost_usd: float = Field(default=0, description="What the request costs, where its model has a price")
    max_cost_usd: float = Field(
        default=0, description="What it may cost at most: max_cost_usd of the request, or the operator's"
    )
    receipt: str = Field(default="", description="Signed over what was used, where the server makes receipts")
    choices: list[ChoiceThinking] = Field(default=[], description="With n above 1: the same for each choice")


def thinking(summary: Summary) -> dict[str, Any]:
    """The one extension object: what was decided about the thinking, and what came of it."""
    outcomes = summary.outcomes
    told: dict[str, Any] = {
        "strategy": summary.strategy,
        "budget": summary.budget,
        "budget_source": summary.budget_source,
        "spent": sum(o.spent.hidden for o in outcomes),
        "samples": sum(o.samples for o in outcomes),
        "samples_requested": sum(o.samples_requested for o in outcomes),
        "stopped_by": stopped_by(outcomes),
        "verifier_tokens": sum(o.spent.verifier for o in outcomes),
        "discarded_tokens": sum(o.spent.discarded for o in outcomes),
    }
    if summary.budget_clamped_from is not None:
        told["budget_clamped_from"] = summary.budget_clamped_from
    if unseen := sum(o.spent.unseen_calls for o in outcomes):
        told["unseen_calls"] = unseen
    if summary.program_seconds:
        told["program_seconds"] = round(summary.program_seconds, 3)
    if summary.cost_nano_usd is not None:
        told["cost_usd"] = summary.cost_nano_usd / NANO
    if summary.max_cost_nano_usd is not None:
        told["max_cost_usd"] = summary.max_cost_nano_usd / NANO
    if summary.receipt is not None:
        told["receipt"] = summary.receipt
    if len(outcomes) == 1:
        return told | _judged(outcomes[0])
    told["choices"] = [
        {"index": i, "spent": o.spent.hidden, "samples": o.samples, "stopped_by": o.stopped_by} | _judged(o)
        for i, o in enumerate(outcomes)
    ]
    return told


def _judged(outcome: Outcome) -> dict[str, Any]:
    facts = {
        "agreement": outcome.agreement,
        "confidence": outcome.confidence,
        "verifier": outcome.verifier,
        "score": outcome.score,
        "no_summary": outcome.summary and outcome.summary.missing,
    }
    marks = {
        "verifier_degraded": outcome.degraded,
        "verifier_truncated": outcome.truncated,
        "ungrouped": outcome.ungrouped,
        "deterministic": outcome.alike,
        "reduced_by_load": outcome.reduced,
    }
    told: dict[str, Any] = {name: fact for name, fact in facts.items() if fact is not None}
    return told | {name: True for name, marked in marks.items() if marked}
