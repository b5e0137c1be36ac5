# pyright: reportUnknownVariableType=false, reportUnknownMemberType=false
"""The picture of a replay: accuracy against tokens on a logarithmic axis, a line a strategy, with intervals."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure

from ponder.evaluation import drawing
from ponder.evaluation.replaying.replay import Setup
from ponder.evaluation.replaying.rows import Row

SUFFIXES = (".png", ".svg")


def draw(table: Sequence[Row], file: Path) -> None:
    """Writes the picture, a panel for each pool; PNG or SVG, as the name ends."""
    pools = list(dict.fromkeys(row.pool for row in table))
    across = min(2, len(pools))
    down = -(-len(pools) // across)
    with rc_context(drawing.STYLE):
        figure = Figure(figsize=(9 if across == 1 else 14, 5.5 * down), layout="constrained")
        panels: Any = figure.subplots(down, across, squeeze=False)
        for panel in panels.flat[len(pools) :]:
            panel.set_axis_off()
        for pool, panel in zip(pools, panels.flat, strict=False):
            _panel(panel, [row for row in table if row.pool == pool])
            panel.set_title(pool)
        drawing.save(figure, file, file.suffix[1:])


def _panel(axes: Any, table: Sequence[Row]) -> None:
    # Every pool has the same lines in the same order.
    for number, (name, points) in enumerate(_lines(table).items()):
        points.sort(key=lambda row: row.tokens.value)
        drawing.line(
            axes,
            number,
            name,
            [(row.tokens.value, row.right.value) for row in points],
            _words(points),
            colour=f"C{number % 10}",
            right=[row.right.half_here for row in points],
        )
    drawing.finish(axes, "generated tokens per question")


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
