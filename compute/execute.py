"""Carries out a plan: however its strategy ends, the best candidate so far becomes the answer."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace

from ponder.compute.budget import Spending
from ponder.compute.chains import Chains
from ponder.compute.errors import DeadlinePassed, EngineError, Exhausted, Unavailable, first
from ponder.compute.full_vote import Ballots, confidence
from ponder.compute.groups import apart
from ponder.compute.outcome import Notes, Outcome, StoppedBy
from ponder.compute.plan import Plan
from ponder.compute.progress import Watch
from ponder.compute.resources import Resources
from ponder.compute.run import Run, Task, decides
from ponder.compute.stop import StopSignal
from ponder.compute.stream import OnDelta
from ponder.compute.summary import kept, summarise
from ponder.compute.text import Answer, Candidate
from ponder.compute.transcript import Transcript

log = logging.getLogger(__name__)

GRACE = 10.0
"""Seconds before a deadline (or a tenth of the time allowed, if that is less) kept for closing and answering."""


async def execute(
    plan: Plan,
    resources: Resources,
    spending: Spending,
    on_delta: OnDelta,
    stop_signal: StopSignal | None = None,
    *,
    timeout: float | None = None,  # noqa: ASYNC109 - part of it is kept for the ending
    watch: Watch | None = None,
) -> Outcome:
    """Runs the plan's strategy to an answer, within its budget and its time: `timeout` seconds from now, or as the plan
    says. `watch` may look at it meanwhile.

    The visible text goes to `on_delta`, all of it exactly once, in order, as early as the strategy allows. Cut short by
    the budget, by time or by the stop signal, the best so far is completed and answered. Raises `DeadlinePassed` when
    there is nothing to answer with (`Unavailable` where the server goes down), `EngineError` when the model fails
    before there is a complete answer (`Lost` where it went away), and `RequestError` for a request the model refuses.
    Cancelled, it stops the model; when it has returned, the spending is complete.
    """
    try:
        seconds = timeout or plan.timeout
        return await _execute(plan, resources, spending, on_delta, stop_signal or StopSignal(), seconds, watch)
    except BaseExceptionGroup as group:
        raise first(group) from None


async def _execute(
    plan: Plan,
    resources: Resources,
    spending: Spending,
    on_delta: OnDelta,
    stop_signal: StopSignal,
    seconds: float | None,
    watch: Watch | None,
) -> Outcome:
    now = asyncio.get_running_loop().time()
    deadline = None if seconds is None else now + seconds
    cut = None if seconds is None else now + seconds - min(GRACE, seconds / 10)
    chains = Chains(resources, spending, plan.sampling, on_delta, streams=plan.stream, keep_text=plan.keep_text)
    drafts, notes = chains.drafts, Notes()
    if plan.summary is not None:
        spending.kept = kept(chains, plan.summary)
    if watch is not None:
        watch.begin(chains, notes)
    task = Task(plan.prompt, plan.strategy.name, plan.verifier, plan.fallback, cut, plan.yields, plan.called)
    run = Run(task, resources, chains, notes)
    stopped_by: StoppedBy = "finished"
    chosen: Candidate | None = None
    try:
        async with stop_signal.scope(cut):
            chosen = await apart(plan.strategy.call(run))
            if chosen not in drafts:
                raise TypeError(f"strategy {plan.strategy.name} returned no candidate of its run")
            if drafts.streamed not in (None, chosen.number):
                log.warning(
                    "strategy %s returned another chain than it streamed; what was streamed stands", plan.strategy.name
                )
                chosen = drafts.best()
    except* Exhausted:
        stopped_by = "budget"
    except* TimeoutError:
        # Anybody may raise one; ours alone says that the time was up.
        if not stop_signal.expired:
            raise
        stopped_by = stop_signal.reason or "deadline"
    except* EngineError:
        chosen = drafts.whole
        if chosen is None:
            raise
        stopped_by = "engine_error"
    chosen = chosen or drafts.best()
    try:
        # What is whole and told in one piece needs no time.
        async with stop_signal.ending(None if chosen and chosen.complete and not plan.stream else deadline):
            chosen = await _completed(chosen, plan, chains, urgent=stopped_by in ("deadline", "draining"))
    except TimeoutError:
        stopped_by = stop_signal.reason or "deadline"
        chosen = drafts.best()
        if (chosen is None or not chosen.text) and stopped_by == "draining":
            raise Unavailable("the server is going down", code="draining", retry_after=5) from None
        if chosen is None or not chosen.text:
            raise DeadlinePassed("time was up before there was anything to answer with") from None
    except EngineError:
        whole = drafts.whole
        if chains.stream.begun or whole is None or not spending.affords(whole.number):
            raise
        chosen, stopped_by = whole, "engine_error"
    await chains.stream.tell_rest(chosen)
    outcome = _outcome(chosen, stopped_by, plan, chains, notes)
    if (sure := await _confidence(chosen, outcome, run, spending, notes)) is not None:
        outcome = replace(outcome, confidence=sure)
    if plan.summary is None:
        return outcome
    spending.kept = 0
    summary = await summarise(chains, chosen, plan.summary, stop_signal, stopped_by, cut)
    return replace(outcome, summary=summary, spent=spending.spent)


async def _completed(chosen: Candidate | None, plan: Plan, chains: Chains, *, urgent: bool) -> Candidate:
    """Completes `chosen`: closes its thought and writes its answer on the allowance, sent as it is written. With None,
    it is an answer without a thought."""
    spending, drafts = chains.spending, chains.drafts
    if chosen is not None:
        spending.bind(chosen.number)
        await chains.stream.tell_rest(chosen)
    allowance = spending.allowance
    prompt = plan.prompt if chosen is None else chosen.prompt
    unfinished = chosen is None or not chosen.complete
    if unfinished and allowance > 0 and chains.room(prompt, chosen) > 0:
        parent = None if chosen is None else chosen.number
        with chains.reserve("answer", thinking=0, answer=allowance, parent=parent, bound=True) as reservation:
            drafts.answering = reservation.number
            drafts.add(reservation.number, Transcript(reservation, prompt, chosen))
            chosen = await chains.write(reservation, prompt, chosen, streamed=True, urgent=urgent)
    if chosen is None:
        raise DeadlinePassed("time was up before there was anything to answer with")
    return chosen


def _outcome(chosen: Candidate, stopped_by: StoppedBy, plan: Plan, chains: Chains, notes: Notes) -> Outcome:
    spending, finished = chains.spending, chains.drafts.finished
    spending.choose(chosen.number)
    line = spending.line(chosen.number)
    score = next((notes.scores[n] for n in sorted(line, reverse=True) if n in notes.scores), None)
    verifier = plan.fallback if notes.degraded else plan.verifier
    return Outcome(
        answer=Answer(chosen.text, logprobs=chosen.logprobs),
        complete=chosen.complete,
        stopped_by=_by_quota(
            _by_cost(notes.stopped_by(stopped_by, chosen, lost=chains.lost > 0), chosen, spending), spending
        ),
        spent=spending.spent,
        samples=max(1, finished),
        samples_requested=max(1, notes.requested, notes.wanted, finished),
        agreement=notes.agreement,
        score=score.value if score else None,
        verifier=verifier.name if verifier and score else None,
        degraded=notes.degraded,
        truncated=bool(score and score.truncated),
        ungrouped=notes.ungrouped,
        alike=notes.alike,
        reduced=notes.reduced,
        decided=verifier is plan.verifier and decides(verifier),
        stop=chosen.stop,
        thought=chosen.thought,
    )


async def _confidence(chosen: Candidate, outcome: Outcome, run: Run, spending: Spending, notes: Notes) -> float | None:
    """The probability that the answer would win the vote in full. A verifier that decides leaves nothing to a vote. Of
    one chain alone it is known how its model answers, where that was learned."""
    ballots, policy = notes.ballots, run.policy
    if outcome.decided and outcome.score is not None:
        return None
    if outcome.samples == 1:
        free = chosen.complete and not chosen.forced and not chosen.circled and chosen.parent is None
        in_time = outcome.stopped_by not in ("deadline", "draining")
        known = policy.model is not None and free and in_time and chosen.prompt is run.prompt
        ballots = Ballots((1,), {chosen.number: 0}) if known and await run.groups([chosen]) == [0] else None
    if ballots is None:
        return None
    full = max(policy.chains, outcome.samples_requested)
    return confidence(ballots, spending.line(chosen.number), full, policy.urns)


def _by_cost(stopped_by: StoppedBy, chosen: Candidate, spending: Spending) -> StoppedBy:
    """The same, but where a limit has ended it that is as low as it is because of what the request may cost."""
    cost = spending.budget.cost
    if cost is None or stopped_by not in ("finished", "budget"):
        return stopped_by
    cut = cost.answer_short and not chosen.complete
    return "cost" if cut or spending.unread or (stopped_by == "budget" and spending.dear) else stopped_by


def _by_quota(stopped_by: StoppedBy, spending: Spending) -> StoppedBy:
    """The same, but where tokens have ended it that the quota had not."""
    return "quota" if spending.out_of_quota and stopped_by in ("finished", "budget", "engine_error") else stopped_by
