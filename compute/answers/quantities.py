"""Numbers with units, in digits and in words."""

from __future__ import annotations

import re
from collections.abc import Hashable
from fractions import Fraction

from ponder.compute.answers.algebraic import algebraic, expression
from ponder.compute.answers.notation import DOLLAR
from ponder.compute.answers.numerals import SCALES, numeral, worded
from ponder.compute.answers.reading import Reader, Reading, Readings, constant, exact, numeric
from ponder.compute.answers.single import literal
from ponder.compute.answers.units import CURRENCIES, PERCENT, Unit, one_of, symbolic, unit

_FIRST_OF_UNIT = re.compile(r"(?<=[\d\s})!.])(?=[^\W\d_]|[°%％¢€£¥₹₩₽]|" + DOLLAR + ")")
_EACH = re.compile(r"(-?\d[\d.,]*)\s?(?:/|per\s)\s?([^\W\d_].*)")
_SAID_TWICE = re.compile(r"(?<=\d)\s?\(([a-z -]+)\)")
_COMPOUND = re.compile(r"\s*(\d[\d.,]*)\s?([^\W\d_]+)\.?\s*(?:,?\s*and\b|,)?")
_TRIGONOMETRY = re.compile(r"sin|cos|tan|cot|sec|csc")
_OPERATED = re.compile(r"[-+*/^=]\s*$")
_SPAN = re.compile(r"(.{1,30}?)(?:(?<=\d)-(?=\d)|\s?[–—]\s?|\s+(?:to|until|through|bis)\s+|\s?(?:到|至)\s?)(.{1,40})")


def quantity(text: str, reader: Reader) -> Readings:
    """A number, in digits or words, or a constant expression, and a unit."""
    text = _SAID_TWICE.sub(lambda m: "" if worded(m[1]) is not None else m[0], text)
    sign, unsigned = ("-", text[1:].lstrip()) if text[:1] in "-+" and text[:1] == "-" else ("", text)
    currency = next((c for c in CURRENCIES if unsigned.startswith(c)), None)
    if currency is not None:
        rest = unsigned.removeprefix(currency).strip()
        if rest.startswith(CURRENCIES):
            return ()
        found = _of_currency(f"{sign}{rest}", unit(currency), reader)
        if found:
            return found
    for at in _FIRST_OF_UNIT.finditer(text):
        head, rest = text[: at.start()].strip(), text[at.start() :]
        number = numeral(head)
        if number is None:
            continue
        number, rest = _scaled(number, rest)
        if not rest:
            return (Reading(("number", number)),)
        measured = unit(rest) or (one_of(rest) if number == 1 else None)
        if measured is None:
            break
        # 5m may be five metres, and five times a variable.
        close = symbolic(rest) and not text[: at.start()].endswith(" ")
        return _measured(("number", number), measured, close, text)
    return _in_words(text) or _expression_with_unit(text)


def _of_currency(text: str, of: Unit | None, reader: Reader) -> Readings:
    if of is not None and (each := _EACH.fullmatch(text)) and (number := numeral(each[1])) is not None:
        per = unit(each[2])
        return () if per is None else _measured(("number", number), of * per**-1)
    found = literal(text, reader) or quantity(text, reader) or expression(text, reader)
    if of is None or not found or numeric(found[0].core) is None:
        return ()
    beside = dict(found[0].dress).get("unit")
    if isinstance(beside, Unit):
        of = of if beside == of else of * beside
    return _measured(found[0].core, of)


def _scaled(number: Fraction, rest: str) -> tuple[Fraction, str]:
    """5 million, with what is behind it."""
    first, _, behind = rest.partition(" ")
    scale = SCALES.get(first.casefold())
    return (number, rest) if scale is None else _scaled(number * scale, behind.strip())


def _in_words(text: str) -> Readings:
    """Five apples."""
    said = text.split(" ")
    for taken in range(min(len(said) - 1, 8), 0, -1):
        number = worded(" ".join(said[:taken]))
        if number is not None:
            rest = " ".join(said[taken:])
            measured = unit(rest) or (one_of(rest) if number == 1 else None)
            return () if measured is None else _measured(("number", number), measured)
    return ()


def _expression_with_unit(text: str) -> Readings:
    """4π cm^2"""
    for at in _FIRST_OF_UNIT.finditer(text):
        head, rest = text[: at.start()], text[at.start() :]
        spaced = head.endswith(" ") or rest[0] in "°%" or ord(rest[0]) > 0x3000
        if (
            not spaced
            or (rest[0] == "°" and _TRIGONOMETRY.search(head))
            or _OPERATED.search(head)
            or not (measured := unit(rest))
        ):
            continue
        core = algebraic(head.strip())
        if core is not None and (constant(core) or not symbolic(rest)):
            return _measured(core, measured)
    return ()


def _measured(core: Hashable, of: Unit, close: bool = False, text: str = "") -> Readings:
    """So much of a unit. `close`: a letter right behind a number, which may be a variable."""
    number = exact(core)
    if of == PERCENT:
        as_share = () if number is None else (Reading(("number", number / 100), (("unit", "share"),)),)
        return Reading(core, (("unit", of),)), *as_share
    if number is None:
        return Reading(core, (("unit", of),)), Reading(("quantity", core, of))
    whole = Reading(("quantity", ("number", number * of.factor), of.measures))
    if close:
        product = algebraic(text)
        return (whole,) if product is None else (Reading(product), whole)
    return Reading(core, (("unit", of),)), whole


def compound(text: str, _: Reader) -> Readings:
    """1 hour 30 minutes: one quantity, of units that become smaller."""
    at, total, last = 0, Fraction(0), None
    count = 0
    while at < len(text):
        piece = _COMPOUND.match(text, at)
        number = numeral(piece[1].rstrip(",")) if piece else None
        measured = unit(piece[2]) if piece else None
        if piece is None or number is None or measured is None:
            return ()
        if last is not None and (measured.measures != last.measures or measured.factor >= last.factor):
            return ()
        total, last, at, count = total + number * measured.factor, measured, piece.end(), count + 1
    if count < 2 or last is None:
        return ()
    return (Reading(("quantity", ("number", total), last.measures)),)


def span(text: str, reader: Reader) -> Readings:
    """10 to 20, 10-20, and a score of 3-2."""
    found = _SPAN.fullmatch(text)
    if found is None:
        return ()
    first, second = numeral(found[1]), quantity(found[2], reader) or literal(found[2], reader)
    if first is None or not second:
        return ()
    return tuple(Reading(("span", first, end.core), end.dress) for end in second if numeric(end.core) is not None)
