"""Every series the server shows to Prometheus: names, labels, buckets, and how many there may be of each.

Every label's values come from a closed set or a capped one: a caller who could make up label values could fill the
server's memory with series.
"""

from __future__ import annotations

import platform
from collections.abc import Sequence
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from itertools import accumulate, repeat
from operator import mul
from typing import Any, TypeVar

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

from ponder.metering.replica_series import ReplicaSeries

OWNERS = 200
"""Key owners with series of their own; the rest share `other`."""
NAMES = 64
"""The same for every other label: models, strategies, outcomes, reasons, phases."""
OTHER = "other"

Labelled = TypeVar("Labelled", Counter, Gauge, Histogram)

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600)
TOKENS = (0, *accumulate(repeat(4, 9), mul, initial=16))
RATIO = (0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 1.0)
COST = tuple(digit * 10.0**power for power in range(-7, 2) for digit in (1, 2, 5))
COMMIT = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


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


@cache
def release() -> str:
    """The version of Ponder that is installed, or "unknown"."""
    try:
        return version("ponder-server")
    except PackageNotFoundError:
        return "unknown"


class Series:
    """The server's series, in a registry of their own: what a library registers elsewhere does not show up here."""

    def __init__(self) -> None:
        # Without this every counter brings a second series with the time it was made. The switch is the library's, for
        # the whole process; the engine's metrics lose theirs too.
        disable_created_metrics()
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self._replicas = ReplicaSeries()
        registry.register(self._replicas)
        self._owner, self._model, self._strategy = Capped(OWNERS), Capped(NAMES), Capped(NAMES)
        self._outcome, self._reason, self._phase, self._verifier, self._where = (Capped(NAMES) for _ in range(5))
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
        self._confidence = histogram(
            "vote_confidence_ratio", "How likely the answer given is to win the vote in full.", RATIO, "strategy"
        )
        self._score = histogram("verifier_score", "Score of the answer given, from 0 to 1.", RATIO, "verifier")
        self._verdicts = counter(
            "verified_total",
            "Answers by what is known of them (verified or refuted by a verifier that decides, agreed or disputed in a "
            "vote of several, scored by one that estimates, unjudged).",
            *by_model,
            "verdict",
        )
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
        self._unseen = counter(
            "unseen_calls_total",
            "Chains of which the end of a call was not seen, so that only the tokens that came are counted.",
            "model",
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
            release(), platform.python_version()
        ).set(1)

        self._cost = counter(
            "cost_usd_total", "What was billed, in USD, by kind of token.", "key_owner", *by_model, "kind"
        )
        self._discarded_cost = counter(
            "discarded_cost_usd_total", "Of it, what discarded tokens cost, in USD.", *by_model
        )
        self._each = histogram("cost_per_request_usd", "What a request with a price cost, in USD.", COST, *by_model)
        self._commit = histogram("ledger_commit_seconds", "How long the ledger's commits took.", COMMIT)
        self._unsettled = gauge("ledger_unsettled_requests", "Requests whose row in the ledger is open.")
        self._reserved = gauge("reserved_tokens", "Tokens that requests with an open row may make at most.")
        self._left = gauge(
            "quota_remaining_tokens",
            "Hidden tokens that are left of a limit of an API key, what runs reserved, as far as this server knows.",
            "key_owner",
            "window",
        )
        self._limit = gauge("quota_limit_tokens", "The limit itself.", "key_owner", "window")
        self._left_usd = gauge("quota_remaining_usd", "The same of its USD for a month.", "key_owner")
        self._limit_usd = gauge("quota_limit_usd", "The limit itself.", "key_owner")
        self._drift = counter("meter_drift_tokens", "Tokens that were made and are in no row of the ledger; 0.")

    def _of(self, metric: Labelled, *labels: str) -> Labelled:
        """The series of a metric with these labels, looked up once: the library checks and joins them each time."""
        key = metric, *labels
        series: Labelled | None = self._series.get(key)
        if series is None:
            self._series[key] = series = metric.labels(*labels)
        return series

    def render(self) -> tuple[bytes, str]:
        """The exposition and its content type."""
        return generate_latest(self.registry), CONTENT_TYPE_LATEST
