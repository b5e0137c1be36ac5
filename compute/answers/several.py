"""Answers of several parts: lists, named values, equations, points, sets, intervals."""

from __future__ import annotations

import re
from collections.abc import Hashable, Sequence
from typing import Any, cast

from ponder.compute.answers.algebraic import MATHEMATICAL, algebraic
from ponder.compute.answers.brackets import inside, matching, parts
from ponder.compute.answers.expressions import Unread, equation
from ponder.compute.answers.intervals import HIGH, LOW, Interval, of_bounds, of_relation
from ponder.compute.answers.notation import SET_OPENS
from ponder.compute.answers.numerals import numeral
from ponder.compute.answers.quantities import quantity
from ponder.compute.answers.reading import Dress, Reader, Reading, Readings, bare, constant, exact
from ponder.compute.answers.single import extremes, literal

_CONNECTIVE = re.compile(
    r"\s*(?:;|,?\s+(?:and|or|und|oder|et|ou|или|и)\s+|,?\s*(?:或者|以及|或|和|与|及|、|또는|그리고|または)\s*|,\s+&\s+|\s+&\s+)\s*",
    re.IGNORECASE,
)
_COMMA = re.compile(r"\s*,\s*")
_EQUALS = re.compile(r"\s*(?:==?|≡|≈)\s*")
_NAMED = re.compile(
    r"(?:[^\W\d_]+(?: [^\W\d_]+){0,3}|[∠△]\s?[A-Z]{1,3}|\|[A-Z]{2}\||\[[A-Z]{3,4}\]|\\overline\s?\{[A-Z]{2}\}|"
    r"\\frac\s?\{\s?d\s?[a-z]?\s?\}\s?\{\s?d\s?[a-z]\s?\}|\\(?:sin|cos|tan)\s?[A-Za-zα-ω]|m\s?∠\s?[A-Z]{1,3})"
    r"(?:\s?_\s?(?:\{[^{}]{1,8}\}|\w))?'{0,2}(?:\s?\([^()=]{1,12}\))?"
)
_ASKED_FOR = re.compile(
    r"[a-w](?:\s?[+*]\s?[a-w]){1,4}|[A-Z]{1,3}(?:\^\s?\{?\s?\d\s?\}?)?(?:\s?[+*]\s?[A-Z]{1,3}(?:\^\s?\{?\s?\d\s?\}?)?){0,4}|"
    r"\|[A-Za-z](?:_\{?[^{}|]{1,4}\}?)?\|"
)
"""What a question may ask for, and an answer say again: m+n, AB^2+CD^2. An equation to be solved is none of them."""
_PART_LABEL = re.compile(
    r"\(?(i{1,3}|iv|v|vi{0,3}|[a-h]|\d)\)\s*(?=\S)|(?:part|问题)\s?\(?(\w{1,3})\)?\s?[:.]\s*", re.IGNORECASE
)
_COLONED = re.compile(r"([^\W\d_]\w{0,20})\s?:\s*(?=\S)")


def relations(text: str, reader: Reader) -> Readings:
    """Inequalities, unions of intervals, what is left without some, membership."""
    if "∈" in text:
        name, _, whole = text.partition("∈")
        found = reader.inside(whole.strip()) if _NAMED.fullmatch(name.strip()) else ()
        return tuple(one.dressed("name", name.strip()) for one in found)
    if text[:1] == SET_OPENS and matching(text):
        return ()
    if not any(sign in text for sign in "<>≤≥≠∪∖"):
        return ()
    found = of_relation(text, lambda bound: _bound(bound, reader))
    if found is None:
        return (Reading(("text", text.replace(" ", ""))),)
    name, core = found
    return (Reading(core) if not name else Reading(core, (("name", name),)),)


def _bound(text: str, reader: Reader) -> Hashable | None:
    """The core of a bound of an interval."""
    if (found := extremes(text, reader)) and found[0].core in (LOW, HIGH):
        return found[0].core
    found = literal(text, reader)
    return found[0].core if found else algebraic(text)


def listed(text: str, reader: Reader) -> Readings:
    """Several answers: separated by commas, semicolons, "and", "or"."""
    divided = [
        p for part in parts(text, _CONNECTIVE) for p in (parts(part, _COMMA) if numeral(part) is None else [part])
    ]
    divided = _spread([part for part in divided if part])
    if len(divided) < 2 or any(len(part.split()) > 5 and not MATHEMATICAL.search(part) for part in divided):
        return ()
    named = [_name_of(part) for part in divided]
    names = [name for name, _ in named]
    values = [reader.item(whole) for _, whole in named]
    cores = tuple(one.core for one in values)
    dress: Dress = tuple(("items", _sorted(v.dress for v in values)) for _ in range(1) if any(v.dress for v in values))
    if all(names) and len(set(names)) == len(names):
        by_name = Reading(("named", _sorted(zip(names, cores, strict=True))), dress)
        return by_name, Reading(("tuple", cores), (("names", tuple(names)), *dress))
    if any(names) and not (len(set(names)) == 1 or (names[0] and not any(names[1:]))):
        return (Reading(("list", _sorted((one.core, name) for one, name in zip(values, names, strict=True)))),)
    if names[0]:
        dress = (*dress, ("name", names[0]))
    return _several(cores, dress)


def _spread(divided: Sequence[str]) -> list[str]:
    """Parts, of which each with a ± is two."""
    if len(divided) < 2 or not any("±" in part for part in divided):
        return list(divided)
    return [
        p for part in divided for p in ((part.replace("±", "+"), part.replace("±", "-")) if "±" in part else (part,))
    ]


def _several(cores: tuple[Hashable, ...], dress: Dress) -> Readings:
    """A list without brackets: in any order, or the set, or in this order."""
    distinct = _sorted(set(cores))
    as_set = (Reading(("set", distinct), dress),) if len(distinct) == len(cores) else ()
    return Reading(("list", _sorted(cores)), dress), *as_set, Reading(("tuple", cores), dress)


def _sorted(cores: Any) -> tuple[Any, ...]:
    return tuple(sorted(cores, key=repr))


def _name_of(part: str) -> tuple[str, str]:
    """(name or "", value) of a part of a list."""
    for pattern in (_PART_LABEL, _COLONED):
        if (label := pattern.match(part)) and label.end() < len(part):
            return (label[1] or label[2] if pattern is _PART_LABEL else label[1]), part[label.end() :]
    sides = parts(part, _EQUALS)
    if len(sides) == 2 and _NAMED.fullmatch(sides[0]):
        return _squeezed(sides[0]), sides[1]
    return "", part


def _squeezed(name: str) -> str:
    return name.replace(" ", "").replace("{", "").replace("}", "")


def equations(text: str, reader: Reader) -> Readings:
    """A name and what it is, or an equation."""
    sides = parts(text, _EQUALS)
    if len(sides) < 2 or not all(sides):
        return ()
    first, last = sides[0], sides[-1]
    if len(sides) == 2 and not _NAMED.fullmatch(first) and _NAMED.fullmatch(last) and algebraic(first) is not None:
        first, last = last, first
    if _NAMED.fullmatch(first) or _ASKED_FOR.fullmatch(first.replace("{,}", "")):
        found = reader.inside(bare(last))
        named = tuple(one.dressed("name", _squeezed(first)) for one in found)
        return (*named, *_balanced(sides))
    if matching(first) and matching(last):
        names, values = parts(inside(first), _COMMA), parts(inside(last), _COMMA)
        if len(names) == len(values) and all(_NAMED.fullmatch(name) for name in names):
            cores = tuple(reader.core(one) for one in values)
            names = [_squeezed(name) for name in names]
            by_name = Reading(("named", _sorted(zip(names, cores, strict=True))))
            return by_name, Reading(("tuple", cores), (("names", tuple(names)),))
    cores = [algebraic(side) for side in sides]
    if cores[0] is not None and constant(cores[0]) and cores[-1] is not None and constant(cores[-1]):
        if "≈" in text or cores[-1] == cores[0]:
            return (Reading(cores[0]),)
        # Wherever it comes from, the last side is what it is said to come to.
        return (Reading(cores[-1], (("name", _squeezed(first)),)),)
    return _balanced(sides) or (Reading(("text", text.replace(" ", ""))),)


def _balanced(sides: Sequence[str]) -> Readings:
    if len(sides) != 2:
        return ()
    try:
        return (Reading(equation(*sides)),)
    except (Unread, ValueError, OverflowError, RecursionError):
        return ()


def bracketed(text: str, reader: Reader) -> Readings:
    """A point, a set, an interval, a list of a programming language."""
    if not matching(text):
        return ()
    opening, closing = text[0], text[-1]
    content = inside(text).strip()
    if opening == SET_OPENS and (bar := re.search(r"\s[|:]\s|\|", content)):
        return relations(content[bar.end() :].strip(), reader) or (Reading(("text", text.replace(" ", ""))),)
    items = [part for piece in parts(content, re.compile(r"\s*;\s*")) for part in parts(piece, _COMMA)]
    if opening == SET_OPENS:
        items = _spread(items)
    if len(items) == 1:
        if opening in ("(", SET_OPENS):
            return reader.inside(content)
        return (Reading(("bracketed", (reader.core(content),))),) if opening == "[" and content else ()
    if not all(items):
        return ()
    cores = tuple(reader.core(one) for one in items)
    interval = _interval(opening, closing, items, reader)
    if opening == SET_OPENS:
        if len(items) > 1 and all("," not in one for one in items):
            items_of = [reader.inside(one) for one in items]
            cores = tuple(one[0].core for one in items_of)
        return (Reading(("set", _sorted(set(cores)))),)
    if (opening, closing) == ("(", ")"):
        return Reading(("tuple", cores)), *interval
    if (opening, closing) == ("[", "]"):
        return Reading(("bracketed", cores)), *interval
    if (opening, closing) == ("⟨", "⟩"):
        return (Reading(("vector", cores)),)
    return interval


def _interval(opening: str, closing: str, items: Sequence[str], reader: Reader) -> Readings:
    if len(items) != 2 or opening not in "([" or closing not in ")]":
        return ()
    low, high = (_bound(item, reader) for item in items)
    if low is None or high is None:
        return ()
    found = Interval.between(low, opening == "[", high, closing == "]")
    return () if found is None else (Reading(of_bounds(found)),)


def either_sign(text: str, reader: Reader) -> Readings:
    """±2 is 2 and -2."""
    if text.count("±") != 1:
        return ()
    head, tail = text.split("±")
    plus, minus = (algebraic(f"{head}{sign}{tail}") for sign in "+-")
    if plus is None or minus is None:
        tailed = quantity(tail.strip(), reader)
        if head.strip() or not tailed or (number := exact(tailed[0].core)) is None:
            return ()
        both = cast("tuple[Hashable, ...]", (("number", number), ("number", -number)))
        return _several(both, tailed[0].dress)
    return _several((plus, minus), ())
