"""What the page of costs shows is what the usage API says, and so is what is saved of it."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import pytest

from ponder.console import charts, units
from ponder.console.pages.cost import agreement_of, as_csv
from tests.console.stage import Stage

VOTE = {"name": "majority_vote", "n": 4, "first": 4}


def ask(stage: Stage, **body: object) -> None:
    said = [{"role": "user", "content": "The answer is 7."}]
    stage.ask("POST", "/v1/chat/completions", {"model": "demo", "messages": said, **body})


def test_the_figures_are_those_of_the_usage_api(stage: Stage) -> None:
    ask(stage, strategy="direct", thinking_budget=300)
    ask(stage, strategy=VOTE, thinking_budget=2000)
    total = stage.ask("GET", "/v1/usage")["data"][0]
    by = stage.ask("GET", "/v1/usage?group_by=strategy")["data"]
    with stage.visit("/cost") as page:
        page.wait_for_selector(".figures")
        names, values = (page.locator(f".figures {tag}").all_inner_texts() for tag in ("dt", "dd"))
        shown = dict(zip(names, values, strict=True))
        assert shown["Cost"] == units.usd(total["cost_usd"])
        assert shown["Thinking"] == units.tokens(total["thinking"])
        assert shown["Answers"] == units.tokens(total["answer"])
        assert shown["Share of discarded"].startswith(units.percent(total["discarded"] / total["thinking"]))
        page.click("label:has-text('Lines')")
        page.click(".q-item:has-text('by strategy')")
        page.wait_for_selector("caption:has-text('Usage by strategy')")
        table = page.locator("table:has(caption:has-text('Usage by strategy')) tbody tr")
        lines = [table.nth(n).locator("td").all_inner_texts() for n in range(table.count())]
        assert [line[:4] for line in lines] == [
            [
                one["strategy"],
                units.counted(one["requests"], "request"),
                units.usd(one["cost_usd"]),
                units.tokens(one["thinking"]),
            ]
            for one in by
        ]
        # Votes have agreed, and what that cost stands beside it.
        agreed = page.locator("table:has(caption:has-text('Strategies that vote'))").inner_text()
        assert "majority_vote" in agreed
        assert "100 %" in agreed
        dear = page.locator("table:has(caption:has-text('cost most')) tbody tr td a")
        told = stage.ask("GET", "/v1/usage/requests")["data"]
        assert dear.all_inner_texts() == [one["id"] for one in told]
        with page.expect_download() as saving:
            page.click("text=Save as CSV")
        rows = list(csv.DictReader(Path(saving.value.path()).read_text().splitlines()))
        assert [(row["strategy"], int(row["thinking"]), float(row["cost_usd"])) for row in rows] == [
            (one["strategy"], one["thinking"], one["cost_usd"]) for one in by
        ]


def test_how_near_a_key_is_to_its_limits_is_shown_to_the_key_itself(stage: Stage) -> None:
    made = stage.ask("POST", "/v1/keys", {"name": "near", "limits": {"thinking_tokens_per_day": 1000}})
    said = [{"role": "user", "content": "What is it?"}]
    body = {"model": "demo", "messages": said, "thinking_budget": 300}
    stage.ask("POST", "/v1/chat/completions", body, key=made["key"])
    (limit,) = stage.ask("GET", "/v1/limits", key=made["key"])["data"]
    with stage.visit("/cost", key=made["key"]) as page:
        page.wait_for_selector("caption:has-text('Limits, the nearest first')")
        line = page.locator("table:has(caption:has-text('Limits')) tbody tr").inner_text()
        assert units.tokens(limit["used"]) in line
        assert units.percent(limit["share"]) in line
        # It may not read /metrics, and is told so in the server's words.
        assert "has not the scope metrics" in page.inner_text("main")


def test_a_key_that_has_used_nothing_is_told_so(stage: Stage) -> None:
    made = stage.ask("POST", "/v1/keys", {"name": "idle"})
    with stage.visit("/cost", key=made["key"]) as page:
        page.wait_for_selector(".empty")
        assert "Nothing was used in this time" in page.inner_text("main")


def test_what_is_saved_runs_in_no_spreadsheet_and_what_is_drawn_is_escaped() -> None:
    names = ("requests", "cost_usd", "thinking", "answer", "discarded", "verifier_tokens", "prompt", "cached")
    line = dict.fromkeys(names, 1) | {"key": "=cmd()"}
    assert as_csv("key", [line]).decode().splitlines()[1].startswith("'=cmd(),")
    assert "<b>" not in charts.bars([charts.Bar("<b>", [(1.0, "thinking")], "<b>")])
    assert "<b>" not in charts.points([charts.Point(1, "<b>", 1.0, 0.5, (0.5, 2.0), (0.1, 0.9))], "<b>", "<b>")


def test_the_mean_agreement_of_a_strategy_is_read_from_the_metrics() -> None:
    text = """ponder_vote_agreement_ratio_bucket{le="1.0",strategy="a"} 4.0
ponder_vote_agreement_ratio_count{strategy="a"} 4.0
ponder_vote_agreement_ratio_sum{strategy="a"} 3.0
ponder_vote_agreement_ratio_count{strategy="b"} 0.0
ponder_vote_agreement_ratio_sum{strategy="b"} 0.0
"""
    assert agreement_of(text) == {"a": 0.75}


@pytest.mark.parametrize(
    ("most", "marks"),
    [(62.5, ("20", "40", "60", "80")), (0.0269, ("0.01", "0.02", "0.03", "0.04")), (1, ("0.5", "1", "1.5", "2"))],
)
def test_marks_of_an_axis_are_round(most: float, marks: Sequence[str]) -> None:
    plot = charts.points([charts.Point(1, "direct", most, 0.5)], "tokens", "right")
    assert all(f'text-anchor="middle">{mark}</text>' in plot for mark in marks)
