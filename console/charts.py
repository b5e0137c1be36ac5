"""Bars and points as HTML and SVG, in the colours of the page. Each stands beside a table with the same numbers, which
screen readers read in its place."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

__all__ = ["Bar", "Point", "bars", "legend", "points"]


@dataclass(frozen=True, slots=True)
class Bar:
    """A bar of several parts: each a length, and a class of `console.css` for its colour."""

    name: str
    parts: Sequence[tuple[float, str]]
    says: str
    """What stands behind it: the number, with its unit."""


@dataclass(frozen=True, slots=True)
class Point:
    """A point with its 95 % intervals, where it has some."""

    number: int
    """Which line of the table it is."""
    name: str
    x: float
    y: float
    x_span: tuple[float, float] | None = None
    y_span: tuple[float, float] | None = None


def bars(rows: Sequence[Bar], most: float | None = None) -> str:
    """Bars below one another; one of `most`, or the longest, is as wide as there is room. All in it is escaped."""
    most = most or max([sum(length for length, _ in row.parts) for row in rows], default=0.0) or 1.0
    lines = "".join(
        f'<div class="bar"><span class="name">{escape(row.name)}</span><span class="length">'
        + "".join(
            f'<i class="{escape(kind)}" style="width: {max(0.0, length) / most * 100:.2f}%"></i>'
            for length, kind in row.parts
        )
        + f'</span><span class="says">{escape(row.says)}</span></div>'
        for row in rows
    )
    return f'<div class="bars" aria-hidden="true">{lines}</div>'


def legend(parts: Sequence[tuple[str, str]]) -> str:
    """What the colours mean: the class of each, and its name."""
    marks = "".join(f'<span><i class="{escape(kind)}"></i>{escape(name)}</span>' for kind, name in parts)
    return f'<div class="kinds">{marks}</div>'


WIDE, HIGH, LEFT, BELOW, ABOVE, RIGHT = 640, 300, 56, 44, 24, 40
AWAY = (-6, 14, -19, 27, -32, 40)
"""How far below its point a number may stand, the nearest first: the first place that no other number has."""


def points(found: Sequence[Point], x_says: str, y_says: str, y_most: float = 1.0) -> str:
    """Points by two figures, `x` from 0 on. `y` goes from 0 to `y_most`, and is written in hundredths of it. Points are
    numbered, as their names in the table beside them are. Everything in it is escaped."""
    step = _step(max([point.x_span[1] if point.x_span else point.x for point in found], default=0.0))
    x_most = 4 * step

    def across(x: float) -> float:
        return LEFT + max(0.0, min(1.0, x / x_most)) * (WIDE - LEFT - RIGHT)

    def down(y: float) -> float:
        return HIGH - BELOW - max(0.0, min(1.0, y / y_most)) * (HIGH - BELOW - ABOVE)

    parts: list[str] = []
    taken: list[tuple[float, float]] = []
    for mark in range(5):
        x, y = step * mark, y_most * mark / 4
        parts.append(f'<line class="rule" x1="{LEFT}" x2="{WIDE - RIGHT}" y1="{down(y):.1f}" y2="{down(y):.1f}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{down(y) + 4:.1f}" text-anchor="end">{y / y_most * 100:.0f} %</text>')
        parts.append(f'<text x="{across(x):.1f}" y="{HIGH - BELOW + 16}" text-anchor="middle">{_short(x)}</text>')
    parts.append(f'<text x="{(WIDE + LEFT) / 2}" y="{HIGH - 8}" text-anchor="middle">{escape(x_says)}</text>')
    for point in found:
        x, y = across(point.x), down(point.y)
        if point.x_span is not None:
            low, high = map(across, point.x_span)
            parts.append(f'<line class="span" x1="{low:.1f}" x2="{high:.1f}" y1="{y:.1f}" y2="{y:.1f}"/>')
        if point.y_span is not None:
            low, high = map(down, point.y_span)
            parts.append(f'<line class="span" x1="{x:.1f}" x2="{x:.1f}" y1="{low:.1f}" y2="{high:.1f}"/>')
        parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5"><title>{escape(point.name)}</title></circle>')
        free = (y + away for away in AWAY if all(abs(x - a) > 16 or abs(y + away - b) > 12 for a, b in taken))
        taken.append((x, next(free, y + AWAY[-1])))
        parts.append(f'<text class="number" x="{x + 9:.1f}" y="{taken[-1][1]:.1f}">{point.number}</text>')
    return (
        '<figure class="plot"><div class="scrolls" tabindex="0" role="region" aria-label="Plot of the table">'
        f'<svg viewBox="0 0 {WIDE} {HIGH}" aria-hidden="true">{"".join(parts)}</svg></div>'
        f'<figcaption class="says">{escape(y_says)}, by {escape(x_says)}. The numbers are those of the table.'
        "</figcaption></figure>"
    )


def _step(most: float) -> float:
    """The least of 1, 2, 2.5, 5 times a power of ten that reaches above `most` in four steps."""
    if most <= 0:
        return 0.25
    power = 10.0 ** math.floor(math.log10(most / 4))
    return next(power * times for times in (1, 2, 2.5, 5, 10) if 4 * power * times > most)


def _short(value: float) -> str:
    if value == 0:
        return "0"
    if value >= 10_000:
        return f"{value / 1000:.3g}k"
    return f"{value:.6f}".rstrip("0")[:8].rstrip(".") if value < 1 else f"{value:.4g}"
