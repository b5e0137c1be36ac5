"""Reckoning: exactly as far as numbers are rational, else in floating point, and never with what grows too large."""

from __future__ import annotations

import cmath
import math
from collections.abc import Sequence
from fractions import Fraction
from hashlib import blake2b

LARGEST = 4096
"""Bits of an exact number."""

Number = Fraction | float | complex


class Unread(Exception):
    """The grammar does not know this."""


class TooLarge(Unread):
    """It is an expression, but nothing to reckon with here."""


def plus(a: Number, b: Number) -> Number:
    return bounded(a + b) if isinstance(a, Fraction) and isinstance(b, Fraction) else inexact(a) + inexact(b)


def minus(a: Number, b: Number) -> Number:
    return plus(a, -b)


def times(a: Number, b: Number) -> Number:
    return bounded(a * b) if isinstance(a, Fraction) and isinstance(b, Fraction) else inexact(a) * inexact(b)


def over(a: Number, b: Number) -> Number:
    if isinstance(a, Fraction) and isinstance(b, Fraction):
        return bounded(a / b)
    return inexact(a) / inexact(b)


def bounded(number: Fraction) -> Fraction:
    if number.numerator.bit_length() + number.denominator.bit_length() > LARGEST:
        raise TooLarge
    return number


def inexact(number: Number) -> complex | float:
    return float(number) if isinstance(number, Fraction) else number


def raised(a: Number, b: Number) -> Number:
    if isinstance(a, Fraction) and isinstance(b, Fraction):
        if b.denominator == 1:
            bits = max(a.numerator.bit_length(), a.denominator.bit_length()) * abs(b.numerator)
            if bits > LARGEST:
                raise TooLarge
            return a**b.numerator
        if a >= 0 and b.denominator < 100 and (root := _exact_root(a, b.denominator)) is not None:
            return raised(root, Fraction(b.numerator))
    x, y = inexact(a), inexact(b)
    if not isinstance(x, complex) and not isinstance(y, complex) and x > 0:
        return math.pow(x, y)
    return complex(x) ** complex(y)


def _exact_root(number: Fraction, degree: int) -> Fraction | None:
    above, below = (_whole_root(n, degree) for n in (number.numerator, number.denominator))
    return None if above is None or below is None else Fraction(above, below)


def _whole_root(number: int, degree: int) -> int | None:
    if number < 2:
        return number
    if number.bit_length() > 900:
        return None
    root = math.isqrt(number) if degree == 2 else round(number ** (1 / degree))
    return root if root**degree == number else None


def rooted(number: Number, degree: Number) -> Number:
    if not isinstance(degree, Fraction) or degree.denominator != 1 or not 2 <= degree <= 100:
        raise Unread
    negative = degree % 2 == 1 and not isinstance(number, complex) and number < 0
    root = raised(-number if negative else number, 1 / degree)
    return -root if negative else root


def factorial(number: Number) -> Number:
    if not isinstance(number, Fraction) or number.denominator != 1 or number < 0:
        # Of a variable: the gamma function stands for it.
        x = inexact(number)
        if isinstance(x, complex):
            raise Unread
        return math.gamma(x + 1)
    if number > 400:
        raise TooLarge
    return Fraction(math.factorial(int(number)))


def choose(n: Number, k: Number) -> Number:
    if isinstance(n, Fraction) and isinstance(k, Fraction) and n.denominator == k.denominator == 1 and n >= k >= 0:
        if n > 2000:
            raise TooLarge
        return bounded(Fraction(math.comb(int(n), int(k))))
    return over(factorial(n), times(factorial(k), factorial(minus(n, k))))


def whole(number: Number, up: bool) -> Number:
    if isinstance(number, complex):
        raise Unread
    return Fraction(math.ceil(number) if up else math.floor(number))


def several(name: str, numbers: Sequence[Number]) -> Number:
    if name in ("gcd", "lcm"):
        if not all(isinstance(n, Fraction) and n.denominator == 1 for n in numbers):
            raise Unread
        return Fraction(getattr(math, name)(*(int(_real(n)) for n in numbers)))
    return (max if name == "max" else min)(map(_real, numbers))


def _real(number: Number) -> Fraction | float:
    if isinstance(number, complex):
        raise Unread
    return number


def point(name: str, point: int) -> float:
    """The value of a variable at a point, between 0.4 and 2.4 and of either sign."""
    drawn = int.from_bytes(blake2b(f"{name}\0{point}".encode(), digest_size=6).digest())
    return (0.4 + (drawn >> 1) / 2**46) * (1 if drawn & 1 else -1)


def absolute(number: Number) -> Number:
    return abs(number)


def logarithm(number: Number, base: Number) -> Number:
    return cmath.log(inexact(number)) / cmath.log(inexact(base))
