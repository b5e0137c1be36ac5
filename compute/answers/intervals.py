"""Sets of real numbers: intervals, their unions, and the inequalities that say the same."""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import ClassVar, cast

from ponder.compute.answers.brackets import inside, matching, parts
from ponder.compute.answers.notation import SET_CLOSES, SET_OPENS

Bound = Callable[[str], Hashable | None]
"""The core of a bound in words, None for what is none."""

LOW, HIGH = ("infinite", "-∞"), ("infinite", "∞")
_RELATION = re.compile(r"\s*(<=|>=|=<|=>|!=|<>|[<>≤≥≠])\s*")
_EITHER = re.compile(r"\s*(?:∪|,?\s+or\s+|,?\s*(?:或者|或|또는)\s*)\s*", re.IGNORECASE)
_WITHOUT = re.compile(r"\s*(?:∖|\s-\s)\s*")
_COMMA = re.compile(r"\s*[,;]\s*")
_NAME = re.compile(r"[^\W\d_](?:_\{?\w{1,3}\}?)?")
_SPELLED = {"<=": "≤", "=<": "≤", ">=": "≥", "=>": "≥", "!=": "≠", "<>": "≠"}
_TURNED = {"<": ">", ">": "<", "≤": "≥", "≥": "≤", "≠": "≠"}


@dataclass(frozen=True, slots=True)
class Interval:
    """From a lower to an upper bound, each with whether it belongs to it."""

    low: Hashable
    low_in: bool
    high: Hashable
    high_in: bool

    EVERYTHING: ClassVar[Interval]

    @staticmethod
    def between(low: Hashable, low_in: bool, high: Hashable, high_in: bool) -> Interval | None:
        """None where the bounds are the wrong way round."""
        a, b = size(low), size(high)
        if a is not None and b is not None and a >= b:
            return None
        if low == HIGH or high == LOW:
            return None
        return Interval(low, low_in and low != LOW, high, high_in and high != HIGH)


Interval.EVERYTHING = Interval(LOW, False, HIGH, False)


def size(core: Hashable) -> float | None:
    """The value of a bound; None of one with variables."""
    if core in (LOW, HIGH):
        return float("-inf") if core == LOW else float("inf")
    if isinstance(core, tuple) and core[0] in ("number", "real"):
        return float(cast("str", core[1]))
    return None


def of_bounds(*intervals: Interval) -> Hashable:
    """What a union of intervals is compared by."""
    ordered = sorted(intervals, key=lambda i: (size(i.low) or 0.0, repr(i)))
    return "reals", tuple((i.low, i.low_in, i.high, i.high_in) for i in ordered)


def of_relation(text: str, bound: Bound) -> tuple[str, Hashable] | None:
    """(variable or "", what it is compared by) of inequalities, unions and differences; None for any other."""
    names = set[str]()
    found: list[Interval] = []
    for part in parts(text, _EITHER):
        intervals = _intervals(part, bound, names)
        if intervals is None:
            return None
        found += intervals
    return None if len(names) > 1 else (next(iter(names), ""), of_bounds(*found))


def union(text: str, bound: Bound) -> list[Interval] | None:
    """The intervals of one that is written in brackets."""
    if text == "ℝ":
        return [Interval.EVERYTHING]
    if not matching(text) or text[0] not in "([" or text[-1] not in ")]":
        return None
    ends = parts(inside(text), _COMMA)
    if len(ends) != 2:
        return None
    low, high = map(bound, ends)
    if low is None or high is None:
        return None
    found = Interval.between(low, text[0] == "[", high, text[-1] == "]")
    return None if found is None else [found]


def _intervals(text: str, bound: Bound, names: set[str]) -> list[Interval] | None:
    if "∖" in text:
        return _difference(text, bound)
    if (written := union(text, bound)) is not None:
        return written
    pieces = _RELATION.split(text)
    sides, signs = pieces[::2], [_SPELLED.get(sign, sign) for sign in pieces[1::2]]
    if len(sides) == 2:
        if not _NAME.fullmatch(sides[0]):
            sides, signs = sides[::-1], [_TURNED[signs[0]]]
        if not _NAME.fullmatch(sides[0]) or (end := bound(sides[1])) is None:
            return None
        names.add(sides[0])
        if signs[0] == "≠":
            return [Interval(LOW, False, end, False), Interval(end, False, HIGH, False)]
        closed = signs[0] in "≤≥"
        below = signs[0] in "<≤"
        return [Interval(LOW, False, end, closed) if below else Interval(end, closed, HIGH, False)]
    if len(sides) == 3 and _NAME.fullmatch(sides[1]):
        if all(sign in ">≥" for sign in signs):
            sides, signs = sides[::-1], [_TURNED[sign] for sign in signs[::-1]]
        low, high = bound(sides[0]), bound(sides[2])
        if low is None or high is None or not all(sign in "<≤" for sign in signs):
            return None
        names.add(sides[1])
        found = Interval.between(low, signs[0] == "≤", high, signs[1] == "≤")
        return None if found is None else [found]
    return None


def _difference(text: str, bound: Bound) -> list[Interval] | None:
    """An interval without some points of it."""
    whole, *without = parts(text, _WITHOUT)
    found = union(whole, bound)
    if found is None or len(without) != 1 or not (without[0][:1] == SET_OPENS and without[0][-1:] == SET_CLOSES):
        return None
    points = [bound(point) for point in parts(inside(without[0]), _COMMA)]
    sizes = {size(point): point for point in points if point is not None}
    if None in sizes or len(sizes) != len(points):
        return None
    interval = found[0]
    divided: list[Interval] = []
    for value in sorted(cast("dict[float, Hashable]", sizes)):
        low, high = size(interval.low), size(interval.high)
        if low is None or high is None or not low < value < high:
            return None
        divided.append(Interval(interval.low, interval.low_in, sizes[value], False))
        interval = Interval(sizes[value], False, interval.high, interval.high_in)
    return [*divided, interval]
