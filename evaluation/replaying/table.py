"""The rows of a replay as text."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ponder.evaluation.intervals import Estimate
from ponder.evaluation.replaying.rows import Row


def as_text(rows: Sequence[Row], against: str) -> str:
    """A table of rows over one pool. Of a figure and its interval the first half-width is over questions and
    resamplings, the second over resamplings of these questions."""
    money = any(row.usd is not None for row in rows)
    judged = any(row.verifier for row in rows)
    width = max([len(row.setup) for row in rows] + [len(against), 8])
    head = f"{'cap':>8}  {'plan':{width}}  {'right %':^20}  {'difference':^20}"
    head += f"  {'tokens':>9} {'of its':>7}  {'steps':>9} {'of its':>7}  {'chains':>6}"
    head += f"  {'judged':>8}" * judged + f"  {'USD/1000':>9}" * money
    lines = [head.rstrip()]
    for row in rows:
        cap = "none" if row.cap is None else str(row.cap)
        line = f"{cap:>8}  {row.setup:{width}}  {_points(row.right)}"
        line += "  " + (" " * 20 if row.setup == against else _points(row.difference, signed=True))
        line += f"  {row.tokens.value:9,.0f} {_part(row.of_its_tokens)}  {row.steps.value:9,.0f}"
        line += f" {_part(row.of_its_steps)}  {row.chains:6.1f}"
        line += f"  {row.verifier:8,.0f}" * judged
        line += f"  {_usd(row.usd)}" * money
        lines.append(line.rstrip())
    lines += [
        f"{row.setup}: in {row.degraded} of {row.requests} requests the verifier failed and the fallback judged"
        for row in rows
        if row.degraded
    ]
    return "\n".join(lines)


def _points(figure: Estimate, *, signed: bool = False) -> str:
    value = f"{figure.value:+6.2f}" if signed else f"{figure.value:6.2f}"
    here = "-" if math.isnan(figure.half_here) else f"{figure.half_here:.2f}"
    return f"{value} ±{figure.half:5.2f} ±{here:>5}"


def _part(figure: Estimate) -> str:
    return f"{'-':>7}" if math.isnan(figure.value) else f"{figure.value:7.3f}"


def _usd(figure: Estimate | None) -> str:
    return f"{'-':>9}" if figure is None else f"{1000 * figure.value:9.4f}"
