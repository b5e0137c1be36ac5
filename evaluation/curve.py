# pyright: reportUnknownVariableType=false, reportUnknownMemberType=false
"""The picture of a comparison: accuracy against tokens on a logarithmic axis, a line a strategy, with intervals."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from typing import Any, Literal

from matplotlib import rc_context, style
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from ponder.evaluation.summary import Interval, Row

SHAPES = "osD^vP*X<>"
COLOURS: tuple[tuple[str, str], ...] = (
    ("#0b62c4", "#6cb2ff"),
    ("#b3261e", "#ff8a80"),
    ("#1b7837", "#7bd88f"),
    ("#7b3fa0", "#cf9bf0"),
    ("#9a5b00", "#ffc266"),
    ("#00707a", "#5fd6e0"),
)
"""Of each line on light and on dark. Shapes differ as well, for who tells no colours apart."""


def drawn(table: Sequence[Row], form: Literal["png", "svg"], *, dark: bool = False) -> bytes:
    """The picture. On dark its ground is left out, so that it takes the page's."""
    look: Any = dict(style.library["dark_background"]) if dark else {}
    with rc_context(look | {"svg.hashsalt": "ponder"}):
        figure = Figure(figsize=(9, 5.5), layout="constrained")
        axes: Any = figure.subplots()
        lines: dict[str, list[tuple[Row, Interval]]] = {}
        for row in table:
            if row.tokens is not None:
                lines.setdefault(row.plan.called, []).append((row, row.tokens))
        for number, (name, points) in enumerate(lines.items()):
            points.sort(key=lambda point: point[1].mean)
            axes.errorbar(
                [tokens.mean for _, tokens in points],
                [100 * row.right.mean for row, _ in points],
                yerr=_sides([row.right for row, _ in points], 100),
                xerr=_sides([tokens for _, tokens in points], 1),
                label=name,
                color=COLOURS[number % len(COLOURS)][dark],
                marker=SHAPES[number % len(SHAPES)],
                linewidth=1.5,
                elinewidth=0.8,
                capsize=2.5,
            )
            for row, tokens in points:
                budget = "" if row.plan.budget is None else str(row.plan.budget)
                place = (tokens.mean, 100 * row.right.mean)
                axes.annotate(budget, place, textcoords="offset points", xytext=(5, 5), fontsize=7)
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.xaxis.set_major_formatter("{x:,.0f}")
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_xlabel("generated tokens per answer, thinking and visible")
        axes.set_ylabel("right answers, %")
        axes.grid(alpha=0.3, which="both", linewidth=0.5)
        if lines:
            axes.legend(fontsize=8)
        out = BytesIO()
        metadata = {"Date": None} if form == "svg" else None
        figure.savefig(out, format=form, dpi=144, transparent=dark, metadata=metadata)
    return out.getvalue()


def _sides(of: Sequence[Interval], times: float) -> list[list[float]]:
    """How far the intervals reach below and above."""
    below = [max(0.0, times * (one.mean - one.low)) for one in of]
    return [below, [max(0.0, times * (one.high - one.mean)) for one in of]]
