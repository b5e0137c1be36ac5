"""What an answer is compared by, and what strings can tell of two.

Numbers, letters, words and JSON are compared here, at once. Whether two mathematical expressions that look different
are the same takes algebra.

All of this reads what models wrote, on the event loop: every function takes time linear in its text. So a pattern here
repeats nothing without bound in front of something it may give back.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from hashlib import blake2b
from typing import Literal

LONGEST = 300
"""Characters of an expression worth handing to computer algebra."""


@dataclass(frozen=True, slots=True)
class Key:
    """What an answer is compared by."""

    kind: Literal["number", "letter", "math", "words", "exact"]
    text: str
    number: Fraction = Fraction(0)
    unit: str = ""
    written: bool = True
    """A decimal as written, not a fraction: nothing was rounded away."""


_LATEX = (
    (re.compile(r"\s+"), " "),
    (re.compile(r"\\(?:left|right|displaystyle|limits)(?![a-zA-Z])|\\\$|\$|\\[()\[\]]"), ""),
    (re.compile(r"\\[,;:! ]|~|\\quad|\\qquad"), " "),
    (re.compile(r"\\[dt]frac(?![a-zA-Z])"), r"\\frac"),
    (re.compile(r"\\frac\s*(\d)\s*(\d)"), r"\\frac{\1}{\2}"),
    (re.compile(r"\\(?:text|textbf|textit|mathrm|mathbf|mbox|operatorname)\s*\{([^{}]*)\}"), r" \1 "),
    (re.compile(r"\\%"), "%"),
    (re.compile(r"\^\s*\{?\s*\\circ\s*\}?|°"), " degrees"),
    (re.compile(r"\{,\}"), ","),
    (re.compile(r"[\u2212\u2013]"), "-"),
    (re.compile(r"\*\*(?=\w)"), "^"),
    (re.compile(r"(?<!\\)\bsqrt\s*\(([^()]*)\)"), r"\\sqrt{\1}"),
    (re.compile(r"π"), r"\\pi "),
    (re.compile(r"\s+"), " "),
)
_WRAPPED = re.compile(r"\*\*(.*)\*\*|__(.*)__|`(.*)`", re.DOTALL)
_EQUALS = re.compile(r"[A-Za-z](?:\([a-z]\))?\s*=\s*(?=[^=]+$)")
_THOUSANDS = re.compile(r"(?<![\d.])\d{1,3}(?:,\d{3})+(?!\d)")
_FRACTION = re.compile(r"([-+]?)\s*\\frac\s*\{\s*(-?\d+)\s*\}\s*\{\s*(\d+)\s*\}")
_NUMBER = re.compile(
    r"([-+]?\s?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d{1,3})?)(?:\s*/\s*(\d+))?"
    r"(?:\s+([A-Za-z]{2,}+(?:[ /^.\-\w]{0,40})|[mgshlLNJWVAK](?:[/^][\w^]{1,4})?)\.?)?"
)
_LETTER = re.compile(r"(?:option |choice )?\(?([A-Z])\)?[.:)]?|\(?([A-J])[.:)]\s+\S.*")
_PROSE = re.compile(r"[^\W\d_]{3,}")
_NAMES = re.compile(r"\\[a-zA-Z]+|\b(?:sin|cos|tan|cot|sec|log|ln|exp|max|min|mod|gcd|lcm)\b")
_FORMULA = re.compile(r"[\d\\]|\w\s*[-+*/^=<>]|^\w$")
_CODE = re.compile(r"[(){}\[\]_=<>;]")
_DATE = re.compile(r"\d{4}-\d\d?-\d\d?|\d\d?:\d\d(?::\d\d)?|\d\d?/\d\d?/\d{4}")


def key(answer: str) -> Key:
    """What an answer is compared by."""
    answer = answer.strip()
    return Key("exact", " ".join(answer.split())) if len(answer) > LONGEST else _short_key(answer)


@lru_cache(maxsize=1024)
def _short_key(answer: str) -> Key:
    if "\n" in answer or (answer[:1] in ("{", "[") and '"' in answer):
        return Key("exact", "\n".join(line.rstrip() for line in answer.split("\n")))
    text = answer
    if wrapped := _WRAPPED.fullmatch(text):
        text = next(part for part in wrapped.groups() if part is not None)
    for pattern, into in _LATEX:
        text = pattern.sub(into, text)
    text = text.strip().rstrip(".;,").strip().strip("\"'“”‘’").strip()
    if _DATE.fullmatch(text):
        return Key("words", text)
    if letter := _LETTER.fullmatch(text):
        return Key("letter", letter[1] or letter[2])
    text = _THOUSANDS.sub(lambda m: m[0].replace(",", ""), _EQUALS.sub("", text, count=1))
    if number := _NUMBER.fullmatch(_FRACTION.sub(r"\1\2/\3", text)):
        top, below = Fraction(number[1].replace(" ", "")), int(number[2] or 1)
        if below:
            unit = " ".join(w.removesuffix("s") if len(w) > 2 else w for w in (number[3] or "").casefold().split())
            return Key("number", text, top / below, unit, number[2] is None)
    if _PROSE.search(_NAMES.sub(" ", text)) or not _FORMULA.search(text):
        return Key("exact", text) if _CODE.search(text) else Key("words", text.casefold().rstrip(".!"))
    return Key("math", text.replace(" ", ""))


def same(a: str, b: str) -> bool | None:
    """Whether two answers are the same as far as strings can tell; None where it takes algebra."""
    return True if a == b else equal(key(a), key(b))


def equal(x: Key, y: Key) -> bool | None:
    """The same of what two answers are compared by."""
    if x.kind == y.kind == "number":
        close = x.number == y.number
        if not close and not (x.written and y.written):
            close = abs(x.number - y.number) <= Fraction(1, 10**6) * max(1, abs(x.number))
        return close and (x.unit == y.unit or not x.unit or not y.unit)
    if x.kind == y.kind and x.text == y.text:
        return True
    if {x.kind, y.kind} <= {"number", "math"}:
        # math-verify is generous between points, intervals and sets; what they are wrapped in says which is meant.
        a_in, b_in = _brackets(x.text), _brackets(y.text)
        return None if a_in is None or b_in is None or a_in == b_in else False
    # A lone capital is a choice beside other choices and a name beside expressions.
    if {x.kind, y.kind} == {"letter", "math"}:
        return None
    return False


def number(answer: str) -> float | None:
    """The value of an answer that is a number (a fraction, a number with a unit); None for any other."""
    found = key(answer)
    if found.kind != "number":
        return None
    try:
        return float(found.number)
    except OverflowError:
        return math.inf if found.number > 0 else -math.inf


def _brackets(text: str) -> tuple[str, str] | None:
    """What a list of several things is wrapped in; None for what is no such list."""
    if "," in text and text[0] in "([{\\" and text[-1] in ")]}":
        return text[: 2 if text[0] == "\\" else 1].strip("\\"), text[-1]
    return None


def digest(text: str) -> bytes:
    """The hash under which something about a text is remembered, so that the text itself need not be kept."""
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
