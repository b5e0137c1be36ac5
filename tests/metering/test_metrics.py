"""The series Prometheus reads: what they count, that they stay bounded, and that Prometheus's own linter likes them."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ponder.compute.account import Intent
from ponder.compute.budget import Budget, Spending
from ponder.compute.engine import Checked
from ponder.compute.outcome import Outcome
from ponder.compute.price import NANO, TOKENS, Price
from ponder.compute.text import Answer, Message, Prompt
from ponder.compute.transcript import Transcript
from ponder.compute.usage import Usage
from ponder.metering.metrics import Metrics, cost_by_kind
from ponder.metering.series import NAMES, OWNERS, Capped
from tests.needs import tool

BY = {"model": "m", "strategy": "direct"}


def spent(thinking: int = 100) -> Spending:
    """A race of two chains, 13 and 8 tokens, of which the first is the answer; 30 tokens read by a verifier."""
    spending = Spending(Budget(thinking, 20))
    for hidden, visible in ((10, 3), (6, 2)):
        with spending.reserve("sample", thinking=20, answer=5) as reservation:
            reservation.read(12, 4)
            reservation.spend(hidden=hidden)
            reservation.spend(visible=visible)
    spending.read_for_verifier(30, 10)
    spending.choose(0)
    return spending


def outcome(spending: Spending) -> Outcome:
    return Outcome(
        Answer("19"),
        complete=True,
        stopped_by="finished",
        spent=spending.spent,
        samples=2,
        samples_requested=4,
        agreement=0.5,
        score=0.75,
        verifier="agreement",
        degraded=True,
    )


def end(
    metrics: Metrics,
    owner: str = "alice",
    model: str = "m",
    spending: Spending | None = None,
    outcomes: Sequence[Outcome] | None = None,
) -> None:
    metrics.begun()
    spendings = [spending or spent()]
    metrics.ended(
        owner=owner,
        model=model,
        strategy="direct",
        outcome="answered",
        seconds=2.0,
        first_visible=0.5,
        budget=100,
        spendings=spendings,
        outcomes=[outcome(spendings[0])] if outcomes is None else outcomes,
        verifier="prm",
    )
    intent = Intent("req_1", owner, model, "direct", prompt=12, thinking=100, answer=20, timeout=60.0)
    asyncio.run(settled(metrics, intent, Usage(prompt=12) + spendings[0].spent))


async def settled(metrics: Metrics, intent: Intent, usage: Usage) -> None:
    await (await metrics.reserve(intent)).settle(usage, "answered")


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(f"ponder_{name}", labels)


def test_chains_that_went_in_circles_are_counted_by_where() -> None:
    metrics, spending = Metrics(), Spending(Budget(100, 20))
    for close_thought in (False, True):
        with spending.reserve("sample", thinking=20, answer=5) as reservation:
            transcript = Transcript(reservation, Prompt((Message("user", "?"),)))
            if close_thought:
                transcript.close_thought()
            transcript.circled()
    end(metrics, spending=spending)
    for where in ("thought", "answer"):
        assert value(metrics, "repetitions_total", model="m", where=where) == 1


def test_every_token_is_counted_once_as_made_and_once_as_billed() -> None:
    metrics = Metrics()
    end(metrics)

    def made(role: str, kind: str) -> float | None:
        return value(metrics, "engine_tokens_total", model="m", role=role, kind=kind)

    def billed(kind: str) -> float | None:
        return value(metrics, "billed_tokens_total", key_owner="alice", kind=kind, **BY)

    assert (made("generator", "prompt"), made("generator", "cached")) == (16, 8)
    assert (made("generator", "thinking"), made("generator", "visible")) == (16, 5)
    assert (made("verifier", "prompt"), made("verifier", "cached")) == (20, 10)
    assert (billed("prompt"), billed("reasoning"), billed("visible"), billed("verifier")) == (12, 18, 3, 30)
    assert value(metrics, "discarded_tokens_total", **BY) == 8


def test_a_request_leaves_its_marks() -> None:
    metrics = Metrics()
    metrics.begun()
    assert value(metrics, "inflight_requests") == 1
    metrics.ended(owner="a", model="m", strategy="direct", outcome="disconnected", seconds=1.0)
    end(metrics)
    assert value(metrics, "inflight_requests") == 0
    assert value(metrics, "requests_total", key_owner="alice", outcome="answered", **BY) == 1
    assert value(metrics, "requests_total", key_owner="a", outcome="disconnected", **BY) == 1
    assert value(metrics, "request_duration_seconds_sum", **BY) == 3.0
    assert value(metrics, "time_to_first_visible_token_seconds_count", **BY) == 1
    assert value(metrics, "thinking_tokens_per_request_sum", **BY) == 18
    assert value(metrics, "thinking_budget_used_ratio_sum", **BY) == 0.18
    assert value(metrics, "orchestration_overhead_seconds_count", strategy="direct") == 1
    assert value(metrics, "samples_total", strategy="direct", result="finished") == 2
    assert value(metrics, "samples_total", strategy="direct", result="unfinished") == 2
    assert value(metrics, "vote_agreement_ratio_sum", strategy="direct") == 0.5
    assert value(metrics, "verifier_score_sum", verifier="agreement") == 0.75
    assert value(metrics, "verifier_degraded_total", verifier="prm") == 1  # the one that failed
    assert value(metrics, "budget_violations_total") == 0


@pytest.mark.parametrize(
    ("verdict", "facts"),
    [
        ("verified", {"score": 1.0, "decided": True, "agreement": 0.2}),
        ("refuted", {"score": 0.5, "decided": True, "agreement": 1.0}),
        ("agreed", {"agreement": 0.6, "score": 0.1}),
        ("disputed", {"agreement": 0.5, "score": 1.0}),
        ("scored", {"agreement": None, "score": 0.9}),
        ("scored", {"agreement": 1.0, "score": 0.9, "samples": 1}),
        ("unjudged", {"agreement": 1.0, "score": None, "samples": 1}),
        ("unjudged", {"agreement": None, "score": None, "decided": True}),
    ],
)
def test_an_answer_has_one_verdict(verdict: str, facts: dict[str, Any]) -> None:
    metrics, spending = Metrics(), spent()
    end(metrics, spending=spending, outcomes=[replace(outcome(spending), **facts)])
    assert value(metrics, "verified_total", verdict=verdict, **BY) == 1
    assert metrics.render()[0].decode().count("ponder_verified_total{") == 1


ROW = {"key": "alice", "model": "m", "strategy": "direct", "price_version": "1"}
COUNT = st.integers(0, 10**6)
PRICE = st.integers(0, 10**11)


@given(st.builds(Price, st.just("1"), PRICE, PRICE, PRICE, PRICE, PRICE), *[COUNT] * 6)
def test_the_costs_of_all_kinds_are_the_cost(
    price: Price, fresh: int, cached: int, kept: int, lost: int, visible: int, verifier: int
) -> None:
    usage = Usage(
        prompt=fresh + cached,
        prompt_cached=cached,
        hidden=kept + lost,
        visible=visible,
        discarded=lost,
        verifier=verifier,
    )
    row = ROW | {
        "prompt": usage.prompt,
        "cached": usage.prompt_cached,
        "thinking": usage.hidden,
        "answer": usage.visible,
        "verifier_tokens": usage.verifier,
        "discarded": usage.discarded,
        "cost_nano_usd": price.cost(usage),
        "price_prompt": price.prompt,
        "price_cached": price.cached,
        "price_thinking": price.thinking,
        "price_answer": price.answer,
        "price_verifier": price.verifier,
    }
    costs = cost_by_kind(row)
    assert sum(costs.values()) == price.cost(usage)
    assert all(nano >= 0 for nano in costs.values())
    assert abs(costs["reasoning"] - usage.hidden * price.thinking / TOKENS) <= 4
    metrics = Metrics()
    metrics.settled(row)
    by_kind = [value(metrics, "cost_usd_total", key_owner="alice", kind=kind, **BY) or 0.0 for kind in costs]
    assert sum(by_kind) == pytest.approx(price.cost(usage) / NANO, rel=1e-12, abs=1e-12)
    if lost:
        discarded = value(metrics, "discarded_cost_usd_total", **BY)
        assert discarded == pytest.approx(lost * price.thinking / TOKENS / NANO, rel=1e-12, abs=5 / NANO)


def test_the_other_events_are_counted() -> None:
    metrics = Metrics()
    metrics.disconnected("thinking")
    metrics.rejected("busy")
    metrics.queued(3)
    metrics.waited(0.25)
    metrics.engine_up("m", "generator", True)
    metrics.engine_up("m", "verifier", False)
    metrics.checked("m", "generator", Checked(prompt=7, cached=4, written=1))
    metrics.checked("m", "verifier", Checked(prompt=20))
    metrics.lag(0.5)
    metrics.lag(-0.001)
    assert value(metrics, "client_disconnects_total", phase="thinking") == 1
    assert value(metrics, "admission_rejections_total", reason="busy") == 1
    assert value(metrics, "queue_depth") == 3
    assert value(metrics, "queue_wait_seconds_sum") == 0.25
    assert value(metrics, "engine_up", model="m", role="generator") == 1
    assert value(metrics, "engine_up", model="m", role="verifier") == 0
    for role, kind, tokens in (
        ("check", "prompt", 3),
        ("check", "cached", 4),
        ("check", "visible", 1),
        ("verifier_check", "prompt", 20),
    ):
        assert value(metrics, "engine_tokens_total", model="m", role=role, kind=kind) == tokens
    assert value(metrics, "event_loop_lag_seconds") == 0.5
    metrics.engine_up("m", "generator", False)
    assert value(metrics, "engine_up", model="m", role="generator") == 0


def test_more_than_was_held_is_a_violation() -> None:
    metrics = Metrics()
    spending = Spending(Budget(5, 5))
    with spending.reserve("sample", thinking=5, answer=5, bound=True) as reservation:
        reservation.spend(hidden=7)
    end(metrics, spending=spending)
    assert value(metrics, "budget_violations_total") == 1


def test_labels_are_capped() -> None:
    metrics = Metrics()
    for i in range(OWNERS + 50):
        end(metrics, owner=f"owner{i}")
    for i in range(NAMES + 50):
        end(metrics, model=f"model{i}")
        metrics.rejected(f"reason{i}")
        metrics.disconnected(f"phase{i}")
    text = metrics.render()[0].decode()
    assert text.count("ponder_requests_total{") == (OWNERS + 1) + NAMES
    assert f'ponder_requests_total{{key_owner="other",model="m",outcome="answered",strategy="direct"}} {50}.0' in text
    assert text.count("ponder_admission_rejections_total{") == NAMES + 1
    assert text.count("ponder_client_disconnects_total{") == NAMES + 1


def test_a_label_that_is_a_novel_is_other() -> None:
    assert Capped(3)("x" * 257) == "other"
    assert Capped(3)("x" * 256) == "x" * 256


def test_two_servers_in_one_process_do_not_share_series() -> None:
    one, two = Metrics(), Metrics()
    one.rejected("busy")
    assert value(two, "admission_rejections_total", reason="busy") is None


def test_prometheus_finds_nothing_to_lint_and_there_are_no_created_series() -> None:
    metrics = Metrics()
    end(metrics)
    metrics.disconnected("thinking")
    metrics.rejected("busy")
    metrics.engine_up("m", "generator", True)
    body, kind = metrics.render()
    assert kind.startswith("text/plain")
    assert b"_created" not in body
    assert b"ponder_build_info{" in body
    promtool = tool("promtool", "prometheus")
    done = subprocess.run([promtool, "check", "metrics"], input=body, capture_output=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
