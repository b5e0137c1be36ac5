"""What Prometheus is told: how many, how long, how full. For watching; bills are made from the ledger.

Every label's values come from a closed set or a capped one: a caller who could make up label values could fill the
server's memory with series. Token counts are read off the spendings of a request however it ended, so what a hang-up
cost is counted like any answer.
"""

from __future__ import annotations

import platform
from collections import deque
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from itertools import accumulate, repeat
from operator import mul
from typing import Any, Literal, Protocol, TypeVar

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)

from ponder.compute.account import Bill, Intent
from ponder.compute.budget import Spending
from ponder.compute.engine import Checked
from ponder.compute.outcome import Outcome
from ponder.compute.price import NANO
from ponder.compute.slots import Slots
from ponder.compute.usage import Usage

OWNERS = 200
"""Key owners with series of their own; the rest share `other`."""
NAMES = 64
"""The same for every other label: models, strategies, outcomes, reasons, phases."""
OTHER = "other"

Labelled = TypeVar("Labelled", Counter, Gauge, Histogram)
Role = Literal["generator", "verifier"]
CHECKS: dict[Role, str] = {"generator": "check", "verifier": "verifier_check"}
"""The roles under which the tokens are counted by which a model shows that it answers."""

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600)
TOKENS = (0, *accumulate(repeat(4, 9), mul, initial=16))
RATIO = (0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 1.0)


COST = tuple(digit * 10.0**power for power in range(-7, 2) for digit in (1, 2, 5))
COMMIT = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


class Unsettled(Protocol):
    """How much of a ledger is open, in requests and in tokens."""

    @property
    def unsettled(self) -> int: ...

    @property
    def reserved(self) -> int: ...


class Capped:
    """Gives a label's value back as it is, for the first `most` different ones, and `other` for all that come later."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._known: set[str] = set()

    def __call__(self, value: str) -> str:
        if value in self._known:
            return value
        if len(self._known) >= self._most or len(value) > 256:
            return OTHER
        self._known.add(value)
        return value


def _version() -> str:
    try:
        return version("ponder-server")
    except PackageNotFoundError:
        return "unknown"


class Metrics:
    """The server's series, in a registry of their own: what a library registers elsewhere does not show up here."""

    def __init__(self) -> None:
        # Without this every counter brings a second series with the time it was made. The switch is the library's, for
        # the whole process; the engine's metrics lose theirs too.
        disable_created_metrics()
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self._owner, self._model, self._strategy = Capped(OWNERS), Capped(NAMES), Capped(NAMES)
        self._outcome, self._reason, self._phase, self._verifier, self._where = (Capped(NAMES) for _ in range(5))
        self._lags: deque[float] = deque(maxlen=20)
        self._series: dict[tuple[object, ...], Any] = {}

        def counter(name: str, words: str, *labels: str) -> Counter:
            return Counter(f"ponder_{name}", words, labels, registry=registry)

        def gauge(name: str, words: str, *labels: str) -> Gauge:
            return Gauge(f"ponder_{name}", words, labels, registry=registry)

        def histogram(name: str, words: str, buckets: Sequence[float], *labels: str) -> Histogram:
            return Histogram(f"ponder_{name}", words, labels, registry=registry, buckets=buckets)

        by_model = ("model", "strategy")
        self._requests = counter("requests_total", "Requests that ended.", "key_owner", *by_model, "outcome")
        self._seconds = histogram("request_duration_seconds", "From the request to its last byte.", SECONDS, *by_model)
        self._first = histogram(
            "time_to_first_visible_token_seconds", "From the request to its first visible text.", SECONDS, *by_model
        )
        self._overhead = histogram(
            "orchestration_overhead_seconds", "Time of a request with no engine call outstanding.", SECONDS, "strategy"
        )
        self._inflight = gauge("inflight_requests", "Requests being worked on or waiting.")
        self._depth = gauge("queue_depth", "Requests waiting to be worked on.")
        self._wait = histogram("queue_wait_seconds", "Time a request waited before it was worked on.", SECONDS)
        self._rejections = counter("admission_rejections_total", "Requests turned away before any work.", "reason")
        by_role = ("model", "role")
        self._calls = gauge("calls_waiting", "Calls to a model that wait for one of its slots.", *by_role)
        self._slot_wait = histogram(
            "slot_wait_seconds", "Time a call waited for a slot of its model, where it had to.", SECONDS, *by_role
        )
        self._disconnects = counter("client_disconnects_total", "Callers who hung up early.", "phase")
        self._tokens = counter(
            "engine_tokens_total",
            "Tokens the models read (prompt: computed, cached: from the prefix cache) and wrote (thinking, visible). "
            "Roles: generator and verifier; check and verifier_check: to see whether these two answer.",
            "model",
            "role",
            "kind",
        )
        self._billed = counter(
            "billed_tokens_total",
            "Tokens as the caller's usage shows them: prompts once a request, reasoning with all that was discarded.",
            "key_owner",
            *by_model,
            "kind",
        )
        self._discarded = counter(
            "discarded_tokens_total", "Tokens of chains that are no part of what was answered.", *by_model
        )
        self._thought = histogram(
            "thinking_tokens_per_request", "Hidden tokens of a request, all its choices together.", TOKENS, *by_model
        )
        self._used = histogram(
            "thinking_budget_used_ratio", "Hidden tokens over the thinking budget; never above 1.", RATIO, *by_model
        )
        self._violations = counter(
            "budget_violations_total",
            "Requests that made more tokens than were reserved for them; a defect if ever above 0.",
        )
        self._samples = counter(
            "samples_total", "Chains asked for: finished, or not paid for or stopped early.", "strategy", "result"
        )
        self._repetitions = counter(
            "repetitions_total",
            "Chains ended because the model went in circles, in a thought or an answer.",
            "model",
            "where",
        )
        self._agreement = histogram(
            "vote_agreement_ratio", "Share of the vote behind the answer given.", RATIO, "strategy"
        )
        self._score = histogram("verifier_score", "Score of the answer given, from 0 to 1.", RATIO, "verifier")
        self._degraded = counter(
            "verifier_degraded_total", "Answers judged by a fallback because this verifier failed.", "verifier"
        )
        self._programs = counter(
            "program_seconds_total", "Processor time of the programs that a verifier ran in the sandbox.", "model"
        )
        self._up = gauge(
            "engine_up", "1 where the model (role: generator, or verifier) answers, else 0.", "model", "role"
        )
        self._restarts = counter(
            "engine_restarts_total", "Times an engine that went away was started again.", "model", "role"
        )
        self._resumed = counter(
            "resumed_samples_total", "Chains that went on after their engine had gone away in the middle.", "model"
        )
        self._wasted = counter(
            "wasted_tokens_total", "Tokens the model wrote in vain, which nobody is billed for.", "model", "reason"
        )
        self._lag = gauge(
            "event_loop_lag_seconds", "Worst delay of the server's event loop over the last measurements."
        )
        self._held = counter(
            "event_loop_held_total",
            "Times the server's event loop was held for long, by the code that held it.",
            "where",
        )
        gauge("build_info", "1; the labels say what is running.", "version", "python").labels(
            _version(), platform.python_version()
        ).set(1)

        self._cost = counter("cost_usd_total", "What was billed, in USD.", "key_owner", *by_model)
        self._each = histogram("cost_per_request_usd", "What a request with a price cost, in USD.", COST, *by_model)
        self._commit = histogram("ledger_commit_seconds", "How long the ledger's commits took.", COMMIT)
        self._unsettled = gauge("ledger_unsettled_requests", "Requests whose row in the ledger is open.")
        self._reserved = gauge("reserved_tokens", "Tokens that requests with an open row may make at most.")
        self._drift = counter("meter_drift_tokens", "Tokens that were made and are in no row of the ledger; 0.")

    # -- what happens -------------------------------------------------------------------------------------------------

    def _of(self, metric: Labelled, *labels: str) -> Labelled:
        """The series of a metric with these labels, looked up once: the library checks and joins them each time."""
        key = metric, *labels
        series: Labelled | None = self._series.get(key)
        if series is None:
            self._series[key] = series = metric.labels(*labels)
        return series

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
            self._judge(strategy, one, verifier)

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
        if row["price_version"] is not None:
            cost = row["cost_nano_usd"] / NANO
            model, strategy = self._model(row["model"]), self._strategy(row["strategy"])
            self._of(self._cost, self._owner(row["key"]), model, strategy).inc(cost)
            self._of(self._each, model, strategy).observe(cost)

    def drifted(self, tokens: int) -> None:
        """So many tokens were made that no row of the ledger has."""
        self._drift.inc(abs(tokens))

    def committed(self, seconds: float) -> None:
        """The ledger has committed."""
        self._commit.observe(seconds)

    def _count(self, model: str, strategy: str, budget: int | None, spendings: Sequence[Spending]) -> None:
        spent = [spending.spent for spending in spendings]
        reservations = [reservation for spending in spendings for reservation in spending.reservations]
        hidden = sum(s.hidden for s in spent)
        cached, verifier_cached = sum(s.cached for s in spent), sum(s.verifier_cached for s in spent)
        verifier = sum(s.verifier for s in spent)
        thought = said = resumed = wasted = 0
        for reservation in reservations:
            resumed += reservation.resumed
            wasted += reservation.wasted
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
        if wasted:
            self._of(self._wasted, model, "engine_lost").inc(wasted)
        self._of(self._thought, model, strategy).observe(hidden)
        allowed = sum(spending.budget.thinking for spending in spendings) if budget is None else budget
        if allowed > 0:
            self._of(self._used, model, strategy).observe(hidden / allowed)
        if hidden > max(0, allowed) or any(spending.overdrawn for spending in spendings):
            self._violations.inc()
        self._of(self._overhead, strategy).observe(max(spending.idle_seconds for spending in spendings))

    def _judge(self, strategy: str, outcome: Outcome, verifier: str | None) -> None:
        self._of(self._samples, strategy, "finished").inc(outcome.samples)
        if (missing := outcome.samples_requested - outcome.samples) > 0:
            self._of(self._samples, strategy, "unfinished").inc(missing)
        if outcome.agreement is not None:
            self._of(self._agreement, strategy).observe(outcome.agreement)
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

    def render(self) -> tuple[bytes, str]:
        """The exposition and its content type."""
        return generate_latest(self.registry), CONTENT_TYPE_LATEST


class _Billed:
    """The bill of one request in the metrics."""

    used = None

    def __init__(self, metrics: Metrics, intent: Intent) -> None:
        self._metrics, self._intent = metrics, intent

    async def settle(self, usage: Usage, ending: str) -> None:
        self._metrics.billed(self._intent, usage)
