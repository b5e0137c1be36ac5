"""Answers that are one thing: a number, a choice, a date, a formula, a matrix."""

from __future__ import annotations

import re
from fractions import Fraction
from typing import cast

from ponder.compute.answers import dates, words
from ponder.compute.answers.algebraic import algebraic
from ponder.compute.answers.intervals import Interval, of_bounds
from ponder.compute.answers.notation import SET_CLOSES, SET_OPENS
from ponder.compute.answers.numerals import numeral, worded
from ponder.compute.answers.reading import Reader, Reading, Readings

_ORDINAL = re.compile(r"(?:the\s+)?(\d+)(?:st|nd|rd|th)", re.IGNORECASE)
_NEGATIVE = re.compile(r"(?:negative|minus) (\d.*)", re.IGNORECASE)
_AND_A_HALF = re.compile(r"(\d{1,9}) and ([a-z]+(?: [a-z]+)?)", re.IGNORECASE)
_TWICE = re.compile(r"(\d[\d ,.]*)\(\s?([a-z -]+)\s?\)")
_PREFIXED = re.compile(r"0[xX][0-9a-fA-F]+|0[bB][01]+")
_BASED = re.compile(r"\(?\s?([0-9A-F]+)\s?\)?\s?(?:_\s?\{?\s?(\d{1,2})\s?\}?|\s(?:in\s)?base\s(\d{1,2}))")
_MODULO = re.compile(r"(\d+)\s?\(?\s?mod\s?(\d+)\s?\)?")
_ORDER = re.compile(r"([OΘΩ])\s?\((.+)\)")
_MATRIX = re.compile(
    r"[(\[]?\s*\\begin\s?\{(p|b|B|v|V|small|)(matrix|array)\}(?:\{[lcr| ]*\})?(.*?)\\end\s?\{\1\2\}\s*[)\]]?", re.DOTALL
)
_RATIO = re.compile(r"[^:]{1,30}(?::[^:]{1,30})+")


def extremes(text: str, _: Reader) -> Readings:
    """Nothing, everything, infinity."""
    if text in ("∅", SET_OPENS + SET_CLOSES, f"{SET_OPENS} {SET_CLOSES}") or words.nothing(text):
        return (Reading(("nothing",)),)
    if words.everything(text) or text == "ℝ":
        return (Reading(of_bounds(Interval.EVERYTHING)),)
    infinite = text.replace(" ", "").removeprefix("+")
    return (Reading(("infinite", infinite)),) if infinite in ("∞", "-∞") else ()


def moment(text: str, _: Reader) -> Readings:
    found = dates.moment(text)
    return () if found is None else (Reading(found),)


def choice(text: str, _: Reader) -> Readings:
    if (number := words.numbered(text)) is not None:
        return (Reading(("number", Fraction(number)), (("choice", True),)),)
    found = words.choice(text)
    if found is None:
        return ()
    letter, label = found
    chosen = Reading(("choice", letter))
    if label is None:
        return (chosen,)
    number = worded(label) or numeral(label)
    return (chosen.dressed("label", ("number", number) if number is not None else words.worded(label)),)


def formula(text: str, _: Reader) -> Readings:
    found = words.formula(text)
    return () if found is None else (Reading(("formula", found)),)


def order(text: str, reader: Reader) -> Readings:
    """O(n log n)"""
    found = _ORDER.fullmatch(text)
    return () if found is None else (Reading(("order", found[1], reader.core(found[2]))),)


def matrix(text: str, reader: Reader) -> Readings:
    found = _MATRIX.fullmatch(text)
    if found is None:
        return ()
    rows = [row for row in found[3].replace("\\cr", "\\\\").split("\\\\") if row.strip()]
    cells = tuple(tuple(reader.core(cell.strip()) for cell in row.split("&")) for row in rows)
    return (Reading(("determinant" if found[1] in ("v", "V") else "matrix", cells)),)


def literal(text: str, _: Reader) -> Readings:
    found = numeral(text)
    if found is None:
        found = worded(text)
    if found is None and (twice := _TWICE.fullmatch(text)) is not None and worded(twice[2]) == numeral(twice[1]):
        found = numeral(twice[1])
    if found is None and (negative := _NEGATIVE.fullmatch(text)) is not None:
        absolute = numeral(negative[1])
        found = -absolute if absolute is not None and absolute >= 0 else None
    if found is None and (half := _AND_A_HALF.fullmatch(text)) is not None:
        part = worded(half[2])
        found = Fraction(half[1]) + part if part is not None and part < 1 else None
    return () if found is None else (Reading(("number", found)),)


def ordinal(text: str, _: Reader) -> Readings:
    found = _ORDINAL.fullmatch(text)
    return () if found is None else (Reading(("ordinal", int(found[1]))),)


def based(text: str, _: Reader) -> Readings:
    if (found := _MODULO.fullmatch(text)) is not None and int(found[1]) < int(found[2]):
        return (Reading(("number", Fraction(found[1])), (("modulus", int(found[2])),)),)
    if (found := _PREFIXED.fullmatch(text)) is not None:
        return (Reading(("number", Fraction(int(text, 0)))),)
    found = _BASED.fullmatch(text)
    if found is None:
        return ()
    digits, base = found[1], int(found[2] or found[3])
    if not digits.isdigit():
        return (Reading(("digits", digits, base)),) if len(digits) > 1 and any(map(str.isdigit, digits)) else ()
    number = Reading(("number", Fraction(digits)))
    return (number.dressed("base", base),)


def ratio(text: str, reader: Reader) -> Readings:
    if not _RATIO.fullmatch(text):
        return ()
    terms = [numeral(term) for term in text.split(":")]
    if any(term is None for term in terms):
        cores = tuple(algebraic(term.strip()) for term in text.split(":"))
        return () if None in cores else (Reading(("ratio", cores)),)
    numbers = cast("list[Fraction]", terms)
    if not all(number > 0 for number in numbers):
        return (Reading(("ratio", tuple(numbers))),)
    first = Reading(("ratio", tuple(number / numbers[-1] for number in numbers)))
    quotient = numbers[0] / numbers[1]
    if len(numbers) > 2 or quotient.denominator == 1:
        return (first,)
    return first, Reading(("number", quotient))
