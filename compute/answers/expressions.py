"""Expressions compared by their values: two are the same where they have the same values at a few points.

Points are drawn by hashes of the variables' names, negative ones as well, so that an expression has the same values
wherever it stands (the test of Schwartz and Zippel). What the grammar does not know, or what grows too large, has no
value here.
"""

from __future__ import annotations

import cmath
import re
from collections.abc import Hashable
from fractions import Fraction
from typing import Final

from ponder.compute.answers.grammar import Parser, Values
from ponder.compute.answers.reckoning import Number, TooLarge, Unread, minus

POINTS = 6
DIGITS = 9
"""Significant digits by which values that are not exact are compared."""

_NEEDS_ALGEBRA: Final = frozenset(
    ("\\int", "\\iint", "\\sum", "\\prod", "\\lim", "\\det", "\\sup", "\\inf", "\\partial")
)


def value(expression: str) -> Hashable:
    """What an expression is compared by: ("number", exact value), ("real", digits) or ("values", ...) of an expression
    with variables. Raises `Unread`."""
    return _identity(Parser(expression).whole())


def equation(left: str, right: str) -> Hashable:
    """What an equation between two expressions is compared by: the values of the difference, up to a factor. Raises
    `Unread`, also where there is no variable in it."""
    first, second = Parser(left), Parser(right)
    a, b = first.whole(), second.whole()
    if not first.variables | second.variables:
        raise Unread
    found = [_at(lambda i: minus(a(i), b(i)), i) for i in range(POINTS)]
    numbers = [complex(v) for v in found if v is not None]
    if len(numbers) < 3 or not abs(numbers[0]) > 1e-9:
        raise Unread
    return "equation", tuple(None if v is None else _rounded(complex(v) / numbers[0]) for v in found)


def variables(expression: str) -> frozenset[str]:
    """The variables of an expression. Raises `Unread`."""
    parser = Parser(expression)
    parser.whole()
    return frozenset(parser.variables)


def needs_algebra(expression: str) -> bool:
    """It is one that only computer algebra may know."""
    return any(word in expression for word in _NEEDS_ALGEBRA) or bool(re.search(r"\d\s*(?:\^|\*\*|!)", expression))


def _at(values: Values, point: int) -> Number | None:
    try:
        found = values(point)
        return None if isinstance(found, float | complex) and not cmath.isfinite(found) else found
    except (ZeroDivisionError, ValueError, OverflowError):
        return None


def _identity(values: Values) -> Hashable:
    found = [_at(values, i) for i in range(POINTS)]
    known = [v for v in found if v is not None]
    if len(known) < 3:
        raise TooLarge if found[0] is None and found[1] is None else Unread
    if all(isinstance(v, Fraction) and v == known[0] for v in known):
        return "number", known[0]
    first = complex(known[0])
    if all(abs(complex(v) - first) <= 1e-11 * max(1.0, abs(first)) for v in known):
        return constant(first)
    return "values", tuple(None if v is None else _rounded(complex(v)) for v in found)


def constant(number: complex) -> Hashable:
    """What a constant is compared by that came out of floating point."""
    if not abs(number) < 1e12:
        raise TooLarge
    if abs(number.imag) <= 1e-11 * max(1.0, abs(number)):
        near = Fraction(number.real).limit_denominator(2000)
        if abs(float(near) - number.real) <= 1e-13 * max(1.0, abs(number.real)):
            return "number", near
        return "real", f"{number.real:.{DIGITS}e}"
    return "complex", _rounded(number)


def _rounded(number: complex) -> tuple[str, str]:
    size = abs(number)

    def part(x: float) -> str:
        return "0" if abs(x) <= 1e-10 * max(size, 1e-3) else f"{x:.{DIGITS - 2}e}"

    return part(number.real), part(number.imag)
