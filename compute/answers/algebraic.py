"""Expressions as answers, read by their values."""

from __future__ import annotations

import re
from collections.abc import Hashable

from ponder.compute.answers.expressions import TooLarge, Unread, needs_algebra, value
from ponder.compute.answers.numerals import numeral
from ponder.compute.answers.reading import Algebra, Reader, Reading, Readings

_PRODUCT_OF_LETTERS = re.compile(r"(?!by$|my$|cy$)[abckmnp]?[xyz]{1,3}")
_WORD = re.compile(r"(?!.{0,3}$(?<=[α-ω])|[α-ω].{0,2}$)[^\W\d_]{2,}")
_HYPHENATED = re.compile(r"[A-Z]+(?:-[A-Z]+)+")
"""Points or choices in an order."""
_GREEK = re.compile("[α-ω]")
MATHEMATICAL = re.compile(r"\b(?:log|ln|sin|cos|tan|sqrt)\b|[\d\\+*/^=_|√π∠°]|\w\s?-|\(|^\S$")
_DIGITS_APART = re.compile(r"(?<=\d) (?=\d{3}(?!\d))")
_PROSE = re.compile(r"[^\W\d_]{3,}")
_COMMAND = re.compile(r"\\[a-zA-Z]+")


def expression(text: str, _: Reader) -> Readings:
    """An expression by itself. Raises `Algebra`."""
    core = _value(text)
    return () if core is None else (Reading(core),)


def algebraic(text: str) -> Hashable | None:
    """The core of a number or of an expression; None of any other text."""
    if (number := numeral(text)) is not None:
        return "number", number
    try:
        return _value(text)
    except Algebra:
        return None


def _value(text: str) -> Hashable | None:
    if _HYPHENATED.fullmatch(text) or (_WORD.fullmatch(text) and not _PRODUCT_OF_LETTERS.fullmatch(text)):
        return None
    if not (MATHEMATICAL.search(text) or _GREEK.search(text) or _PRODUCT_OF_LETTERS.fullmatch(text)):
        return None
    text = _DIGITS_APART.sub("", text)
    try:
        return value(text)
    except TooLarge:
        raise Algebra from None
    except (Unread, ValueError, OverflowError, RecursionError, ZeroDivisionError):
        if needs_algebra(text) and not _PROSE.search(_COMMAND.sub(" ", text)):
            raise Algebra from None
        return None
