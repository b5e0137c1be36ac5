# pyright: reportUnknownVariableType=false, reportUnknownMemberType=false
"""The picture of a comparison: accuracy against tokens on a logarithmic axis, a line a strategy, with intervals."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from typing import Any, Literal

from matplotlib import rc_context, style
from matplotlib.figure import Figure

from ponder.evaluation import drawing
from ponder.evaluation.comparing.summary import Interval, Row

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
    with rc_context(look | drawing.STYLE):
        figure = Figure(figsize=(9, 5.5), layout="constrained")
        axes: Any = figure.subplots()
        lines: dict[str, list[tuple[Row, Interval]]] = {}
        for row in table:
            if row.tokens is not None:
                lines.setdefault(row.plan.called, []).append((row, row.tokens))
        for number, (name, points) in enumerate(lines.items()):
            points.sort(key=lambda point: point[1].mean)
            drawing.line(
                axes,
                number,
                name,
                [(tokens.mean, 100 * row.right.mean) for row, tokens in points],
                ["" if row.plan.budget is None else str(row.plan.budget) for row, _ in points],
                colour=COLOURS[number % len(COLOURS)][dark],
                right=_sides([row.right for row, _ in points], 100),
                tokens=_sides([tokens for _, tokens in points], 1),
            )
        drawing.finish(axes, "generated tokens per answer, thinking and visible")
        out = BytesIO()
        drawing.save(figure, out, form, bare=dark)
    return out.getvalue()


def _sides(of: Sequence[Interval], times: float) -> list[list[float]]:
    """How far the intervals reach below and above."""
    below = [max(0.0, times * (one.mean - one.low)) for one in of]
    return [below, [max(0.0, times * (one.high - one.mean)) for one in of]]
