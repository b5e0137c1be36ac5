"""Cost: what was used and what it cost, as the usage API has it."""

# NiceGUI leaves callables of any kind without types.
# pyright: reportUnknownMemberType=false

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from nicegui import ui

from ponder.clients.answers import AskError, Refused
from ponder.console import charts, limits, units
from ponder.console.api import Api, words
from ponder.console.frame import telling
from ponder.console.links import linked
from ponder.console.metrics import series
from ponder.console.page import Page, Visit
from ponder.console.parts import button, empty, figure, figures, panel, table

__all__ = ["PAGE"]

SPANS = {7: "7 days", 30: "30 days", 90: "90 days"}
WAYS = ("day", "key", "model", "strategy")
MOST = 1000
"""Lines of a report that are asked for; of more, the page says so."""
DRAWN = 40
"""Lines that are drawn as bars."""

Line = Mapping[str, Any]
"""A line of `GET /v1/usage`."""


async def _cost(visit: Visit) -> None:
    with ui.element("div").classes("line"):
        span = ui.select(SPANS, value=30, label="Time, until now").props("outlined dense").classes("pick")
        way = ui.select({one: f"by {one}" for one in WAYS}, value="day", label="Lines").props("outlined dense")
        way.classes("pick")
        save = button("Save as CSV").props("icon=download")
    place = ui.element("div").classes("stack")
    shown: dict[str, Any] = {}

    async def look() -> None:
        async with telling(place):
            since = f"{datetime.now(UTC) - timedelta(days=int(span.value) - 1):%Y-%m-%d}"
            page = await visit.api.get("/v1/usage", start=since, group_by=way.value, limit=MOST)
            total = (await visit.api.get("/v1/usage", start=since))["data"]
            by = page["data"] if way.value == "strategy" else await _by_strategy(visit.api, since)
            top = (await visit.api.get("/v1/usage/requests", start=since, limit=10))["data"]
            near = (await visit.api.get("/v1/limits"))["data"]
            agreement = await _agreement(visit.api)
            shown.update(way=way.value, lines=page["data"], since=since)
            with place:
                _all(way.value, page, total, by, agreement, top, near)

    def give() -> None:
        if shown:
            ui.download.content(as_csv(shown["way"], shown["lines"]), f"usage-by-{shown['way']}-{shown['since']}.csv")

    save.on_click(give)
    span.on_value_change(look)
    way.on_value_change(look)
    await look()


async def _by_strategy(api: Api, since: str) -> Sequence[Line]:
    return (await api.get("/v1/usage", start=since, group_by="strategy", limit=MOST))["data"]


async def _agreement(api: Api) -> Mapping[str, float] | str:
    """The mean agreement of votes by strategy since the server began, or why it cannot be told."""
    try:
        told = await api.text("/metrics")
    except Refused as error:
        return words(error)
    except AskError as error:
        return str(error)
    return agreement_of(told)


def agreement_of(metrics: str) -> dict[str, float]:
    """Means of `ponder_vote_agreement_ratio` by strategy."""
    sums, counts = (series(metrics, f"ponder_vote_agreement_ratio_{end}") for end in ("sum", "count"))
    votes = {labels["strategy"]: count for labels, count in counts if count}
    return {name: value / votes[name] for labels, value in sums if (name := labels["strategy"]) in votes}


def as_csv(way: str, lines: Sequence[Line]) -> bytes:
    """What is shown, number by number. A text that a spreadsheet would take for a formula is quoted."""
    out = io.StringIO()
    columns = [way, "requests", "cost_usd", "thinking", "answer", "discarded", "verifier_tokens", "prompt", "cached"]
    rows = csv.writer(out, lineterminator="\n")
    rows.writerow(columns)
    rows.writerows([_cell(line[name]) for name in columns] for line in lines)
    return out.getvalue().encode()


def _cell(value: Any) -> Any:
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r") else value


def _all(
    way: str,
    page: Mapping[str, Any],
    total: Sequence[Line],
    by: Sequence[Line],
    agreement: Mapping[str, float] | str,
    top: Sequence[Line],
    near: Sequence[Line],
) -> None:
    if not total or not total[0]["requests"]:
        with panel():
            empty("Nothing was used in this time. What is asked now shows here when it has ended.")
        _limits(near)
        return
    one = total[0]
    with panel("All of it"), figures():
        figure("Requests", units.counted(one["requests"], "request"))
        if unseen := one.get("unseen_requests"):
            figure("Counts that are the least", f"of {units.counted(unseen, 'request')}")
        figure("Cost", units.usd(one["cost_usd"]))
        figure("Thinking", units.tokens(one["thinking"]))
        figure("Answers", units.tokens(one["answer"]))
        figure("Prompts", units.tokens(one["prompt"]))
        figure("Read by verifiers", units.tokens(one["verifier_tokens"]))
        figure("Share of thinking", _share(one["thinking"], one["thinking"] + one["answer"], "of what was written"))
        figure("Share of discarded", _share(one["discarded"], one["thinking"], "of thinking"))
    _lines(way, page)
    _agreeing(by, agreement)
    _top(top)
    _limits(near)


def _share(part: float, whole: float, of: str) -> str:
    return f"{units.percent(part / whole)} {of}" if whole else units.NONE


def _lines(way: str, page: Mapping[str, Any]) -> None:
    lines: Sequence[Line] = page["data"]
    with panel(f"By {way}"):
        drawn = list(lines)[-DRAWN:] if way == "day" else sorted(lines, key=lambda one: -one["cost_nano_usd"])[:DRAWN]
        parts = [
            charts.Bar(
                _name(one[way]),
                [
                    (one["thinking"] - one["discarded"], "thinking"),
                    (one["discarded"], "discarded"),
                    (one["answer"], "answer"),
                ],
                f"{units.tokens(one['thinking'] + one['answer'])}, {units.usd(one['cost_usd'])}",
            )
            for one in drawn
        ]
        kinds = [("thinking", "thinking that counted"), ("discarded", "discarded thinking"), ("answer", "answers")]
        # Names of keys and models were escaped where it was made.
        ui.html(charts.bars(parts) + charts.legend(kinds), sanitize=False)
        columns = (way.capitalize(), "Requests", "Cost", "Thinking", "Discarded", "Answers", "Verifiers")
        table(
            columns,
            [
                [
                    _name(one[way]),
                    units.counted(one["requests"], "request"),
                    units.usd(one["cost_usd"]),
                    units.tokens(one["thinking"]),
                    units.tokens(one["discarded"]),
                    units.tokens(one["answer"]),
                    units.tokens(one["verifier_tokens"]),
                ]
                for one in lines
            ],
            says=f"Usage by {way}" + (f", the first {units.whole(len(lines))} lines" if page["has_more"] else ""),
            numbers=(1, 2, 3, 4, 5, 6),
        )


def _name(value: Any) -> str:
    return "none" if value is None else str(value)


def _agreeing(by: Sequence[Line], agreement: Mapping[str, float] | str) -> None:
    with panel("Cost of an answer, and agreement of its votes", "By strategy; agreement since the server began."):
        if isinstance(agreement, str):
            empty(f"How far votes agree stands in /metrics, which this key may not read: {agreement}")
            return
        voted = [one for one in by if one["strategy"] in agreement and one["requests"]]
        found = [
            charts.Point(n, one["strategy"], one["cost_usd"] / one["requests"], agreement[one["strategy"]])
            for n, one in enumerate(voted, 1)
        ]
        if not found:
            empty("No strategy that votes has answered yet: majority_vote and others do.")
            return
        ui.html(charts.points(found, "USD an answer", "Agreement"), sanitize=False)
        table(
            ("Number", "Strategy", "Cost of an answer", "Agreement"),
            [[str(one.number), one.name, units.usd(one.x), units.percent(one.y)] for one in found],
            says="Strategies that vote",
            numbers=(2, 3),
        )


def _top(top: Sequence[Line]) -> None:
    with panel("Requests that cost most"):
        if not top:
            empty("There is none in this time.")
            return
        linked(
            "The ten that cost most",
            ("Request", "Key", "Model, strategy", "Cost", "Thinking", "Answer"),
            [
                (
                    f"/requests/{one['id']}",
                    [
                        one["id"],
                        one["key"],
                        f"{one['model']}, {one['strategy']}",
                        units.usd(one["cost_usd"]),
                        units.tokens(one["thinking"]),
                        units.tokens(one["answer"]),
                    ],
                )
                for one in top
            ],
            numbers=(3, 4, 5),
        )


def _limits(found: Sequence[Line]) -> None:
    with panel("Limits of keys, and how near they are", "By what has ended in the window that runs now."):
        if not found:
            empty("No key has limits of what all its requests may use together.")
            return
        bars = [
            charts.Bar(
                f"{one['key']}, {limits.named(one)}",
                [(min(1.0, one["share"]), "near" if one["share"] >= 0.8 else "thinking")],
                units.percent(one["share"]),
            )
            for one in found
        ]
        ui.html(charts.bars(bars, most=1.0), sanitize=False)
        table(
            ("Key", "Limit", "Used", "Of", "Share", "Until"),
            [
                [
                    one["key"],
                    limits.named(one),
                    limits.amount(one["used"], one["unit"]),
                    limits.amount(one["limit"], one["unit"]),
                    units.percent(one["share"]),
                    _until(one["ends_at"]),
                ]
                for one in found
            ],
            says="Limits, the nearest first",
            numbers=(2, 3, 4),
        )


def _until(at: int | None) -> str:
    return "no window" if at is None else f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M} UTC"


PAGE = Page("/cost", "Cost", _cost, says="Tokens and money, as they are billed.", icon="payments")
