"""What Prometheus is told: how many, how long, how full. For watching; bills are made from the ledger.

Token counts are read off the spendings of a request however it ended: what a hang-up cost is counted like any answer.
Billed tokens and costs come from settled rows.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol

from ponder.compute.account import Bill, Intent
from ponder.compute.budget import Spending
from ponder.compute.engine import Checked
from ponder.compute.outcome import Outcome
from ponder.compute.price import NANO
from ponder.compute.replicas import HasReplicas
from ponder.compute.slots import Slots
from ponder.compute.usage import Usage
from ponder.metering.recent import RecentErrors
from ponder.metering.series import OTHER, Series

Role = Literal["generator", "verifier"]
CHECKS: dict[Role, str] = {"generator": "check", "verifier": "verifier_check"}
"""The roles under which the tokens are counted by which a model shows that it answers."""


class Unsettled(Protocol):
    """How much of a ledger is open, in requests and in tokens."""

    @property
    def unsettled(self) -> int: ...

    @property
    def reserved(self) -> int: ...


class Metrics(Series):
    """What happens in a server, in its series."""

    def __init__(self) -> None:
        super().__init__()
        self._lags: deque[float] = deque(maxlen=20)
        self.errors = RecentErrors()
        """What callers were told lately."""

    # -- what happens -------------------------------------------------------------------------------------------------

    def begun(self) -> None:
        """A request has begun; `ended` follows for certain."""
        self._inflight.inc()

    def ended(
        self,
        *,
        owner: str,
        model: str,
        strategy: str,
        outcome: str,
        seconds: float,
        first_visible: float | None = None,
        budget: int | None = None,
        spendings: Sequence[Spending] = (),
        outcomes: Sequence[Outcome] = (),
        verifier: str | None = None,
    ) -> None:
        """A request is over. `outcome` is a word such as answered, failed or disconnected; `spendings` are all it had,
        `outcomes` those of its choices that came to an answer, `budget` its thinking budget (left out: that of the
        spendings), `verifier` the one that was to judge. Billed tokens come through `reserve`'s bill."""
        self._inflight.dec()
        owner, model, strategy = self._owner(owner), self._model(model), self._strategy(strategy)
        self._of(self._requests, owner, model, strategy, self._outcome(outcome)).inc()
        self._of(self._seconds, model, strategy).observe(seconds)
        if first_visible is not None:
            self._of(self._first, model, strategy).observe(first_visible)
        if spendings:
            self._count(model, strategy, budget, spendings)
        for one in outcomes:
            self._judge(model, strategy, one, verifier)

    async def reserve(self, intent: Intent) -> Bill:
        """An `Account`: what a request is billed for, counted when it is settled."""
        return _Billed(self, intent)

    def billed(self, intent: Intent, usage: Usage) -> None:
        """The usage of a whole request."""
        kinds = {
            "prompt": usage.prompt,
            "reasoning": usage.hidden,
            "visible": usage.visible,
            "verifier": usage.verifier,
        }
        self._bill(intent.owner, intent.model, intent.strategy, kinds, usage.discarded)

    def _bill(self, owner: str, model: str, strategy: str, kinds: Mapping[str, int], discarded: int) -> None:
        owner, model, strategy = self._owner(owner), self._model(model), self._strategy(strategy)
        for kind, tokens in kinds.items():
            if tokens:
                self._of(self._billed, owner, model, strategy, kind).inc(tokens)
        if discarded:
            self._of(self._discarded, model, strategy).inc(discarded)

    # -- what the ledger does -----------------------------------------------------------------------------------------

    def follow(self, ledger: Unsettled) -> None:
        """Shows how much of a ledger is open."""
        self._unsettled.set_function(lambda: ledger.unsettled)
        self._reserved.set_function(lambda: ledger.reserved)

    def settled(self, row: Mapping[str, Any]) -> None:
        """A row of the ledger was settled durably: what it says is billed."""
        self._bill(
            row["key"],
            row["model"],
            row["strategy"],
            {
                "prompt": row["prompt"],
                "reasoning": row["thinking"],
                "visible": row["answer"],
                "verifier": row["verifier_tokens"],
            },
            row["discarded"],
        )
        if row["price_version"] is None:
            return
        owner, model, strategy = self._owner(row["key"]), self._model(row["model"]), self._strategy(row["strategy"])
        costs = cost_by_kind(row)
        for kind, nano in costs.items():
            self._of(self._cost, owner, model, strategy, kind).inc(nano / NANO)
        if row["discarded"]:
            discarded = costs["reasoning"] * row["discarded"] / row["thinking"]
            self._of(self._discarded_cost, model, strategy).inc(discarded / NANO)
        self._of(self._each, model, strategy).observe(row["cost_nano_usd"] / NANO)

    def drifted(self, tokens: int) -> None:
        """So many tokens were made that no row of the ledger has."""
        self._drift.inc(abs(tokens))

    def limited(self, key: str, kind: str, limit: int, left: int) -> None:
        """So much is left of a limit of a key. Keys beyond `OWNERS` have no series: a sum of limits says nothing."""
        owner = self._owner(key)
        if owner == OTHER or kind == "inflight":
            return
        if kind == "usd":
            self._of(self._limit_usd, owner).set(limit / NANO)
            self._of(self._left_usd, owner).set(left / NANO)
        else:
            self._of(self._limit, owner, kind).set(limit)
            self._of(self._left, owner, kind).set(left)

    def committed(self, seconds: float) -> None:
        """The ledger has committed."""
        self._commit.observe(seconds)

    def _count(self, model: str, strategy: str, budget: int | None, spendings: Sequence[Spending]) -> None:
        spent = [spending.spent for spending in spendings]
        reservations = [reservation for spending in spendings for reservation in spending.reservations]
        hidden = sum(s.hidden for s in spent)
        cached, verifier_cached = sum(s.cached for s in spent), sum(s.verifier_cached for s in spent)
        verifier = sum(s.verifier for s in spent)
        thought = said = resumed = wasted = unseen = 0
        for reservation in reservations:
            resumed += reservation.resumed
            wasted += reservation.wasted
            unseen += reservation.unseen
            thought += reservation.hidden
            said += reservation.visible
            if reservation.circled is not None:
                self._of(self._repetitions, model, reservation.circled).inc()
        for role, kind, tokens in (
            ("generator", "prompt", sum([s.prompt_read for s in spent]) - cached),
            ("generator", "cached", cached),
            ("generator", "thinking", thought),
            ("generator", "visible", said + wasted),
            ("verifier", "prompt", verifier - verifier_cached),
            ("verifier", "cached", verifier_cached),
        ):
            if tokens > 0:
                self._of(self._tokens, model, role, kind).inc(tokens)
        if seconds := sum(spending.program_seconds for spending in spendings):
            self._of(self._programs, model).inc(seconds)
        if resumed:
            self._of(self._resumed, model).inc(resumed)
        if unseen:
            self._of(self._unseen, model).inc(unseen)
        if wasted:
            self._of(self._wasted, model, "engine_lost").inc(wasted)
        self._of(self._thought, model, strategy).observe(hidden)
        allowed = sum(spending.budget.thinking for spending in spendings) if budget is None else budget
        if allowed > 0:
            self._of(self._used, model, strategy).observe(hidden / allowed)
        if hidden > max(0, allowed) or any(spending.overdrawn for spending in spendings):
            self._violations.inc()
        self._of(self._overhead, strategy).observe(max(spending.idle_seconds for spending in spendings))

    def _judge(self, model: str, strategy: str, outcome: Outcome, verifier: str | None) -> None:
        self._of(self._samples, strategy, "finished").inc(outcome.samples)
        if (missing := outcome.samples_requested - outcome.samples) > 0:
            self._of(self._samples, strategy, "unfinished").inc(missing)
        self._of(self._verdicts, model, strategy, outcome.verdict).inc()
        if outcome.agreement is not None:
            self._of(self._agreement, strategy).observe(outcome.agreement)
        if outcome.confidence is not None:
            self._of(self._confidence, strategy).observe(outcome.confidence)
        if outcome.verifier is not None and outcome.score is not None:
            self._of(self._score, self._verifier(outcome.verifier)).observe(outcome.score)
        if outcome.degraded and verifier is not None:
            self._of(self._degraded, self._verifier(verifier)).inc()

    def disconnected(self, phase: str) -> None:
        """A caller hung up while the request was in `phase`: queued, thinking, answering, ..."""
        self._of(self._disconnects, self._phase(phase)).inc()

    def rejected(self, reason: str) -> None:
        """A request was turned away: busy, draining, no key, ..."""
        self._of(self._rejections, self._reason(reason)).inc()

    def queued(self, depth: int) -> None:
        """So many requests wait now."""
        self._depth.set(depth)

    def waited(self, seconds: float) -> None:
        """A request has left the queue."""
        self._wait.observe(seconds)

    def slots(self, model: str, role: Role, slots: Slots) -> None:
        """Tells of the calls that wait for this model."""
        labels = self._model(model), role
        self._of(self._calls, *labels).set_function(lambda: slots.waiting)
        slots.on_wait = self._of(self._slot_wait, *labels).observe

    def replicas(self, model: str, engine: HasReplicas) -> None:
        """Tells of the replicas of this model."""
        self._replicas.follow(self._model(model), lambda: engine.replicas)

    def engine_up(self, model: str, role: Role, up: bool) -> None:
        self._of(self._up, self._model(model), role).set(int(up))

    def restarted(self, model: str, role: Role, times: int) -> None:
        """An engine was started again so often since this was told last."""
        self._of(self._restarts, self._model(model), role).inc(times)

    def checked(self, model: str, role: Role, took: Checked) -> None:
        """A model was asked whether it answers, which nobody is billed for."""
        for kind, tokens in (
            ("prompt", took.prompt - took.cached),
            ("cached", took.cached),
            ("visible", took.written),
        ):
            if tokens > 0:
                self._of(self._tokens, self._model(model), CHECKS[role], kind).inc(tokens)

    def lag(self, seconds: float) -> None:
        """The event loop came `seconds` late."""
        self._lags.append(max(0.0, seconds))
        self._lag.set(max(self._lags))

    def held(self, where: str) -> None:
        """The event loop was held by code at `where`, module and function. From any thread."""
        self._held.labels(self._where(where)).inc()


def cost_by_kind(row: Mapping[str, Any]) -> dict[str, int]:
    """The cost of a settled row with a price, in nano-USD for each kind of token. They add up to the row's cost: what
    is left of rounding is the dearest kind's."""
    exact = {
        "prompt": (row["prompt"] - row["cached"]) * row["price_prompt"] + row["cached"] * row["price_cached"],
        "reasoning": row["thinking"] * row["price_thinking"],
        "visible": row["answer"] * row["price_answer"],
        "verifier": row["verifier_tokens"] * row["price_verifier"],
    }
    cost, whole = row["cost_nano_usd"], max(1, sum(exact.values()))
    parts = {kind: cost * part // whole for kind, part in exact.items()}
    parts[max(exact, key=exact.__getitem__)] += cost - sum(parts.values())
    return parts


class _Billed:
    """The bill of one request in the metrics."""

    used = None

    def __init__(self, metrics: Metrics, intent: Intent) -> None:
        self._metrics, self._intent = metrics, intent

    async def settle(self, usage: Usage, ending: str) -> None:
        self._metrics.billed(self._intent, usage)
