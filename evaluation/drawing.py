# pyright: reportUnknownVariableType=false, reportUnknownMemberType=false
"""What pictures of accuracy against tokens have alike: a line a strategy, intervals, tokens on a logarithmic axis."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

STYLE: Any = {"svg.hashsalt": "ponder"}
"""For `rc_context`: an SVG of the same figures is the same to the byte."""
SHAPES = "osD^vP*X<>"


def line(
    axes: Any,
    number: int,
    name: str,
    points: Sequence[tuple[float, float]],
    words: Sequence[str],
    *,
    colour: str,
    right: Any,
    tokens: Any = None,
) -> None:
    """The line of this number: points of tokens and % of right answers, in rising order, with words at each. `right`
    and `tokens` are how far intervals reach, as `errorbar` takes them."""
    axes.errorbar(
        [x for x, _ in points],
        [y for _, y in points],
        yerr=right,
        xerr=tokens,
        label=name,
        color=colour,
        marker=SHAPES[number % len(SHAPES)],
        linewidth=1.5,
        elinewidth=0.8,
        capsize=2.5,
    )
    for place, told in zip(points, words, strict=True):
        axes.annotate(told, place, textcoords="offset points", xytext=(5, 5), fontsize=7)


def finish(axes: Any, tokens: str) -> None:
    """Scales, grid and legend, when all lines are drawn; `tokens` is written below."""
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel(tokens)
    axes.set_ylabel("right answers, %")
    axes.grid(alpha=0.3, which="both", linewidth=0.5)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=8)


def save(figure: Figure, to: Path | IO[bytes], form: str, *, bare: bool = False) -> None:
    """As "png" or "svg". A `bare` picture has no ground of its own."""
    # The date of an SVG would differ each time.
    metadata = {"Date": None} if form == "svg" else None
    figure.savefig(to, format=form, dpi=144, transparent=bare, metadata=metadata)
