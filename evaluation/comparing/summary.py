"""What a comparison comes to: one row a plan, with 95 % intervals over the questions.

The questions are those somebody chose out of many. So they are drawn anew, with replacement, again and again (Efron
1979), whole: all that was answered to one stays together, and so does what two plans made of it.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from io import StringIO
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ponder.evaluation.comparing.compare import Answered, Comparison
from ponder.evaluation.comparing.plans import Plan
from ponder.evaluation.intervals import OUTSIDE, middle, resampled

RESAMPLED = 4000

Floats: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean and its 95 % interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Row:
    """A plan. Tokens, USD and seconds are means of an answer; where a plan has no answer, they are None."""

    plan: Plan
    answers: int
    errors: int
    right: Interval
    """Of 1. A question without an answer is answered wrong."""
    better: Interval | None
    """How much more of 1 than the first plan, over the same questions; None for the first."""
    tokens: Interval | None
    """Thinking and visible."""
    thinking: float | None
    visible: float | None
    verifier: float | None
    prompt: float | None
    cost: Interval | None
    """None also where the server gives no price."""
    first_p50: float | None
    """Seconds to the first visible text; p50 and p90 are those to the end of the answer."""
    p50: float | None
    p90: float | None


def rows(comparison: Comparison, known: Mapping[tuple[str, str, int], Answered]) -> list[Row]:
    """One row for each plan. What was not asked yet counts nowhere."""
    ids = [question.id for question in comparison.questions.all]
    weights = resampled(len(ids), RESAMPLED)
    table: list[Row] = []
    first: _Sums | None = None
    for plan in comparison.plans:
        all_ = [[one for draw in range(comparison.repeat) if (one := known.get((plan.name, id, draw)))] for id in ids]
        done = [one for of in all_ for one in of if one.error is None]

        right = _Sums.of(all_, lambda one: float(one.right))
        tokens = _Sums.of(all_, lambda one: None if one.error is not None else float(one.tokens))
        cost = _Sums.of(all_, lambda one: None if one.error is not None else one.cost_usd)
        table.append(
            Row(
                plan=plan,
                answers=len(done),
                errors=sum(one.error is not None for of in all_ for one in of),
                right=right.interval(weights, span=1.0) or Interval(0.0, 0.0, 1.0),
                better=None if first is None else right.over(first, weights),
                tokens=tokens.interval(weights),
                thinking=_mean(one.thinking_tokens for one in done),
                visible=_mean(one.visible_tokens for one in done),
                verifier=_mean(one.verifier_tokens for one in done),
                prompt=_mean(one.prompt_tokens for one in done),
                cost=cost.interval(weights),
                first_p50=_quantile([one.first_seconds for one in done], 0.5),
                p50=_quantile([one.seconds for one in done], 0.5),
                p90=_quantile([one.seconds for one in done], 0.9),
            )
        )
        first = first or right
    return table


@dataclass(frozen=True, slots=True)
class _Sums:
    """Of each question the sum of a figure and how many answers have it."""

    sums: Floats
    counts: Floats

    @staticmethod
    def of(answers: Sequence[Sequence[Answered]], figure: Callable[[Answered], float | None]) -> _Sums:
        values = [[value for one in of if (value := figure(one)) is not None] for of in answers]
        return _Sums(np.array([sum(of) for of in values], float), np.array([len(of) for of in values], float))

    def interval(self, weights: Floats, span: float = 0.0) -> Interval | None:
        """`span`: between the least and the greatest that an answer may have, where it is bounded."""
        if not self.counts.any():
            return None
        seen = self.counts > 0
        means = self.sums[seen] / self.counts[seen]
        mean = float(self.sums.sum() / self.counts.sum())
        if span and np.all(means == means[0]):
            # Nothing varies in what is resampled, and that is no certainty.
            room = span * _unseen(len(means))
            return Interval(mean, max(0.0, mean - room), min(span, mean + room))
        return _between(mean, _ratio(weights @ self.sums, weights @ self.counts))

    def over(self, first: _Sums, weights: Floats) -> Interval | None:
        """How much more the mean is, over the questions that both have."""
        both = (self.counts > 0) & (first.counts > 0)
        if not both.any():
            return None
        difference = self.sums[both] / self.counts[both] - first.sums[both] / first.counts[both]
        mean = float(difference.mean())
        if np.all(difference == difference[0]):
            room = _unseen(len(difference))
            return Interval(mean, max(-1.0, mean - room), min(1.0, mean + room))
        of_both = weights[:, both]
        return _between(mean, _ratio(of_both @ difference, of_both.sum(axis=1)))


def _unseen(questions: int) -> float:
    """The greatest share of questions of another kind, of which so many have shown none (Clopper and Pearson 1934)."""
    return 1 - (OUTSIDE / 2) ** (1 / questions)


def _ratio(sums: Floats, counts: Floats) -> Floats:
    return sums[counts > 0] / counts[counts > 0]


def _between(mean: float, found: Floats) -> Interval:
    return Interval(mean, *middle(found))


def _mean(values: Iterable[float]) -> float | None:
    found = list(values)
    return sum(found) / len(found) if found else None


def _quantile(values: Sequence[float], share: float) -> float | None:
    return float(np.quantile(values, share)) if values else None


# -- as text ----------------------------------------------------------------------------------------------------------

HEAD = ("strategy", "budget", "right, %", "beside the first", "tokens", "thinking", "visible", "verifier")
MORE = ("USD for 1,000", "first s", "p50 s", "p90 s", "errors")


def cells(row: Row) -> tuple[str, ...]:
    """A row as people read it, in the columns `HEAD` and `MORE`."""
    return (
        row.plan.called,
        "default" if row.plan.budget is None else str(row.plan.budget),
        _interval(row.right, "{:.1f}", 100),
        "" if row.better is None else _interval(row.better, "{:+.1f}", 100),
        _interval(row.tokens, "{:,.0f}"),
        *("-" if value is None else f"{value:,.0f}" for value in (row.thinking, row.visible, row.verifier)),
        _interval(row.cost, "{:.4f}", 1000),
        *("-" if value is None else f"{value:.2f}" for value in (row.first_p50, row.p50, row.p90)),
        str(row.errors),
    )


def _interval(of: Interval | None, form: str, times: float = 1) -> str:
    if of is None:
        return "-"
    mean, low, high = (form.format(times * value) for value in (of.mean, of.low, of.high))
    return f"{mean} ({low} to {high})"


def as_text(table: Sequence[Row]) -> str:
    """The table: words to the left, numbers to the right. Without a price there is no column of costs."""
    priced = any(row.cost is not None for row in table)
    lines = [(*HEAD, *MORE), *map(cells, table)]
    shown = [[cell for name, cell in zip(lines[0], line, strict=True) if priced or name != MORE[0]] for line in lines]
    widths = [max(map(len, column)) for column in zip(*shown, strict=True)]
    return "".join(
        "  ".join(cell.rjust(w) if i else cell.ljust(w) for i, (cell, w) in enumerate(zip(line, widths, strict=True)))
        + "\n"
        for line in shown
    )


def as_csv(table: Sequence[Row]) -> str:
    """The same with all digits, for programs. What is not known is empty."""
    lines = list(map(_figures, table))
    out = StringIO()
    writer = csv.DictWriter(out, list(lines[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return out.getvalue()


def _figures(row: Row) -> dict[str, Any]:
    figures: dict[str, Any] = {"strategy": row.plan.called, "budget": row.plan.budget, "answers": row.answers}
    intervals = {"right": row.right, "better": row.better, "tokens": row.tokens, "cost_usd": row.cost}
    for name, of in intervals.items():
        low, high = (None, None) if of is None else (of.low, of.high)
        figures |= {name: None if of is None else of.mean, f"{name}_low": low, f"{name}_high": high}
    return figures | {
        "thinking_tokens": row.thinking,
        "visible_tokens": row.visible,
        "verifier_tokens": row.verifier,
        "prompt_tokens": row.prompt,
        "first_p50_seconds": row.first_p50,
        "p50_seconds": row.p50,
        "p90_seconds": row.p90,
        "errors": row.errors,
    }
