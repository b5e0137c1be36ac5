# pyright: reportUnknownVariableType=false, reportUnknownMemberType=false
"""The picture of a replay: accuracy against tokens on a logarithmic axis, a line a strategy, with intervals."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from ponder.evaluation.replay_rows import Row
from ponder.evaluation.replaying import Setup

SUFFIXES = (".png", ".svg")
SHAPES = "osD^vP*X<>"


def draw(table: Sequence[Row], file: Path) -> None:
    """Writes the picture, a panel for each pool; PNG or SVG, as the name ends."""
    pools = list(dict.fromkeys(row.pool for row in table))
    across = min(2, len(pools))
    down = -(-len(pools) // across)
    with rc_context({"svg.hashsalt": "ponder"}):
        figure = Figure(figsize=(9 if across == 1 else 14, 5.5 * down), layout="constrained")
        panels: Any = figure.subplots(down, across, squeeze=False)
        for panel in panels.flat[len(pools) :]:
            panel.set_axis_off()
        for pool, panel in zip(pools, panels.flat, strict=False):
            _panel(panel, [row for row in table if row.pool == pool])
            panel.set_title(pool)
        metadata = {"Date": None} if file.suffix == ".svg" else None
        figure.savefig(file, format=file.suffix[1:], dpi=144, metadata=metadata)


def _panel(axes: Any, table: Sequence[Row]) -> None:
    # Every pool has the same lines in the same order.
    for number, (name, points) in enumerate(_lines(table).items()):
        points.sort(key=lambda row: row.tokens.value)
        axes.errorbar(
            [row.tokens.value for row in points],
            [row.right.value for row in points],
            yerr=[row.right.half_here for row in points],
            label=name,
            color=f"C{number % 10}",
            marker=SHAPES[number % len(SHAPES)],
            linewidth=1.5,
            elinewidth=0.8,
            capsize=2.5,
        )
        for row, words in zip(points, _words(points), strict=True):
            place = (row.tokens.value, row.right.value)
            axes.annotate(words, place, textcoords="offset points", xytext=(5, 5), fontsize=7)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("generated tokens per question")
    axes.set_ylabel("right answers, %")
    axes.grid(alpha=0.3, which="both", linewidth=0.5)
    axes.legend(fontsize=8)


def _lines(table: Sequence[Row]) -> dict[str, list[Row]]:
    """Rows that belong together: with several caps a line for each setup, else one for setups that differ in numbers
    alone."""
    capped = len({row.cap for row in table}) > 1
    lines: dict[str, list[Row]] = {}
    for row in table:
        lines.setdefault(row.setup if capped else _without_numbers(row.setup), []).append(row)
    return {points[0].setup if len(points) == 1 else name: points for name, points in lines.items()}


def _without_numbers(name: str) -> str:
    setup = Setup.of(name)
    words = [f"{key}={value}" for key, value in setup.parameters.items() if not isinstance(value, int | float)]
    return ":".join([setup.strategy, *words])


def _words(points: Sequence[Row]) -> list[str]:
    """What is written at each point of a line."""
    if len({row.cap for row in points}) > 1:
        return ["" if row.cap is None else f"{row.cap:,}" for row in points]
    if len(points) == 1:
        return [""]
    numbers = [
        {key: value for key, value in Setup.of(row.setup).parameters.items() if isinstance(value, int | float)}
        for row in points
    ]
    return [",".join(f"{key}={value}" for key, value in one.items()) for one in numbers]
