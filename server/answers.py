"""What comes of a request, in words of our own: every dialect writes its answers from this.

Text and tool calls come as they are made; then each answer ends, and the last end has a summary of them all.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ponder.compute import usage as tokens
from ponder.compute.budget import Spending
from ponder.compute.outcome import Outcome, StoppedBy
from ponder.compute.progress import Look, Phase
from ponder.compute.text import TokenLogprob, ToolCall
from ponder.server import unseal
from ponder.server.calls import ToolCallParser
from ponder.server.plan import ResolvedRequest


@dataclass(frozen=True, slots=True)
class End:
    """How one answer ended."""

    reason: Literal["complete", "cut", "tool_calls"]
    """`cut`: the visible answer was, if after calls then within the next."""
    thought: str | None
    """Only where the key may see it and the request asks for it."""
    sealed: str | None = None
    """The thought as the caller may hand it back, where the request asks for that and there is one."""
    summary: str | None = None
    """Of the thought, where the request asks for one and its budget had room for it."""
    stop: str | None = None
    """The stop string that ended it, if one did."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the work on one answer is: counts, and never a text."""

    phase: Phase
    samples: int
    """Finished candidates."""
    samples_planned: int
    """As many as the strategy wants, so far as it has said."""
    votes: tuple[int, ...]
    """How many candidates gave each answer, most first; empty where there was no vote yet."""
    tokens_left: int
    """Hidden tokens that the answer may still take."""
    cost_left_nano_usd: int | None = None
    """Of what the request may cost; None where nothing but its tokens' limits bounds it."""


@dataclass(frozen=True, slots=True)
class Whole:
    """One answer that is not streamed."""

    text: str
    calls: tuple[ToolCall, ...]
    logprobs: tuple[TokenLogprob, ...]
    end: End


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one request; the prompt once, everything that was generated for all of its answers."""

    prompt: int
    cached: int
    """Of the prompt, in the prefix cache when the first chain began."""
    generated: int
    hidden: int
    """Of those generated."""


@dataclass(frozen=True, slots=True)
class Summary:
    """What was decided about the thinking, and what came of it."""

    strategy: str
    budget: int
    """Hidden tokens of all answers together, at most."""
    budget_source: str
    budget_clamped_from: int | None
    usage: Usage
    outcomes: tuple[Outcome, ...]
    """One for each answer that has ended."""
    program_seconds: float = 0.0
    """Processor time of the programs that a verifier ran."""
    cost_nano_usd: int | None = None
    """What all of it costs; None where the model has no price."""
    max_cost_nano_usd: int | None = None
    """What it may cost at most; None where nothing but its tokens' limits bounds it."""
    receipt: str | None = None
    """Signed over what was used; None where there is none."""


@dataclass(frozen=True, slots=True)
class Failure:
    """Why there is no answer, or why a stream ends before its answer does."""

    status: int
    """Of HTTP."""
    code: str
    """A stable word for programs."""
    message: str
    field: str | None
    """Where the fault is the request's: the dotted path of the field, in the dialect's words."""
    wants_key: bool = False
    """An API key is missing, or unknown."""
    again: bool = True
    """False where asking again would only cost again."""
    usage: Usage | None = None
    """What was made for it all the same; None: nothing was begun."""


def ended(resolved: ResolvedRequest, outcome: Outcome, parser: ToolCallParser, sealed: str | None) -> End:
    """The end of an answer whose text the parser has read; `sealed` is its thought."""
    thought = unseal.thought(outcome) if resolved.shows_thought else None
    summary = None if outcome.summary is None else outcome.summary.text
    if parser.calls and not parser.cut:
        return End("tool_calls", thought, sealed, summary)
    return End("complete" if outcome.complete else "cut", thought, sealed, summary, stop=outcome.stop)


def sealed(resolved: ResolvedRequest, outcome: Outcome) -> str | None:
    """The thought of an answer for its caller to carry; None where that was not asked for, or there is none."""
    return None if resolved.sealing is None else resolved.sealing.sealed(outcome.thought, outcome.spent.hidden)


def progress(resolved: ResolvedRequest, spendings: Sequence[Spending], index: int, look: Look) -> Progress:
    """How far an answer is that is looked at now. For keys whose numbers are exact."""
    spending, cost = spendings[index] if spendings else None, None
    if resolved.max_cost is not None and resolved.price is not None:
        used = spent(resolved, spendings) if spendings else tokens.Usage()
        cost = max(0, resolved.max_cost - resolved.price.cost(used))
    budget = resolved.plans[index].budget.thinking
    left = budget if spending is None else max(0, budget - spending.spent.hidden)
    return Progress(look.phase, look.samples, look.planned, look.votes, left, cost)


def stopped_by(outcomes: Sequence[Outcome]) -> StoppedBy:
    """Why a request of these answers ended: that of the first which has a reason of its own."""
    return next((one for one in outcomes if one.stopped_by != "finished"), outcomes[0]).stopped_by


def whole(resolved: ResolvedRequest, outcome: Outcome, parser: ToolCallParser) -> Whole:
    """The answer in one piece."""
    text = parser.feed(outcome.answer.text)[0] + parser.end(outcome.complete)[0]
    end = ended(resolved, outcome, parser, sealed(resolved, outcome))
    return Whole(text, tuple(parser.calls), tuple(outcome.answer.logprobs), end)


def summary(
    resolved: ResolvedRequest, outcomes: Sequence[Outcome], spendings: Sequence[Spending], receipt: str | None = None
) -> Summary:
    """`outcomes` are those of all answers that have ended."""
    seconds = sum(spending.program_seconds for spending in spendings)
    if (coarse := resolved.coarse) is not None:
        budgets = [spending.budget.thinking for spending in spendings]
        outcomes = [coarse.outcome(outcome, budget) for outcome, budget in zip(outcomes, budgets, strict=True)]
        seconds = float(math.ceil(seconds))
    usage = Usage(
        prompt=resolved.told_prompt,
        cached=cached(resolved, spendings),
        generated=sum(outcome.spent.generated for outcome in outcomes),
        hidden=sum(outcome.spent.hidden for outcome in outcomes),
    )
    decided = resolved.strategy, resolved.budget, resolved.source, resolved.clamped_from
    cost = None
    if resolved.price is not None:
        # Of what is told: a cost to the token would tell what coarse numbers do not.
        cached_ = usage.cached
        told = tokens.Usage(usage.prompt, usage.hidden, usage.generated - usage.hidden, prompt_cached=cached_)
        cost = resolved.price.cost(told + tokens.Usage(verifier=sum(one.spent.verifier for one in outcomes)))
        if coarse is not None and resolved.max_cost is not None:
            cost = min(cost, resolved.max_cost)
    return Summary(*decided, usage, tuple(outcomes), seconds, cost, resolved.max_cost, receipt)


def spent(resolved: ResolvedRequest, spendings: Sequence[Spending]) -> tokens.Usage:
    """All that a request has used so far, as accounts are told it."""
    usage = tokens.Usage()
    if any(spending.reservations for spending in spendings):
        usage = tokens.Usage(prompt=resolved.prompt_tokens, prompt_cached=cached(resolved, spendings))
    for spending in spendings:
        usage += spending.spent
    return usage


def used(resolved: ResolvedRequest, spendings: Sequence[Spending]) -> Usage | None:
    """What a request has used that comes to no answer; None where nothing was begun."""
    if not any(spending.reservations for spending in spendings):
        return None
    spent = [spending.spent for spending in spendings]
    hidden = [one.hidden for one in spent]
    if (coarse := resolved.coarse) is not None:
        hidden = [coarse.hidden(one, spending.budget.thinking) for one, spending in zip(hidden, spendings, strict=True)]
    return Usage(
        prompt=resolved.told_prompt,
        cached=cached(resolved, spendings),
        generated=sum(hidden) + sum(one.visible for one in spent),
        hidden=sum(hidden),
    )


def cached(resolved: ResolvedRequest, spendings: Sequence[Spending]) -> int:
    """Tokens of the prompt that were in the prefix cache when the first chain began. A chain whose thought was closed
    by force, or whose model went away, has read its prompt a second time."""
    firsts = [one.reservations for one in spendings[:: max(1, len(spendings) // resolved.prompts)]]
    found = sum(reservations[0].first_cached for reservations in firsts if reservations)
    return max(0, min(resolved.prompt_tokens - resolved.earlier, found))
