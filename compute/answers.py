"""What a text finally answers, and which texts answer the same.

Strings first: numbers, letters, words and JSON are compared here, at once. What is left, mathematical expressions that
look different, goes to math-verify in a process apart, both ways round, as its verdict depends on the order; only the
first answer of each group is compared with, and a verdict is remembered. What hangs there counts as different.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Any, Literal, cast

from compute.apart import apart

PATIENCE = 3.0
"""Seconds one comparison may take."""
HANGS = 3
"""Comparisons that may hang in one grouping; after them, strings decide."""
LONGEST = 300
"""Characters of an expression worth handing to computer algebra."""
TAIL = 20_000
"""Characters from the end in which an answer is looked for."""

# -- the answer of a text ---------------------------------------------------------------------------------------------

_CALL = re.compile(r"<tool_call>((?:(?!<tool_call>).)*?)</tool_call>", re.DOTALL)
_FENCE = re.compile(r"```([^\n`]*)\n(.*?)```", re.DOTALL)
_BOXED = re.compile(r"\\(?:boxed|fbox)\s*\{")
_PHRASE = re.compile(
    r"(?:\banswer\b(?:\s+to\s+[^.\n]{1,80}?)?[ *_]{0,8}(?::|=|\bis\b|\bwould\s+be\b)|^####)"
    r"[\s*_:]{0,16}(\$\$(?s:.{1,500}?)\$\$|\\\[(?s:.{1,500}?)\\\]|.+?(?=[.!]?\s*$|\.\s|\n))",
    re.IGNORECASE | re.MULTILINE,
)
_REASON = re.compile(r",?\s+(?:because|since|as shown|which)\b.*$", re.IGNORECASE | re.DOTALL)
_BOLD = re.compile(r"\*\*([^*\n]{1,80})\*\*")
_NONE = re.compile(
    r"(?:i|we|it|sorry|hm+|um+|uh+|ok|okay|well|sure|so|unknown|unsure|unclear|none given|n/a|not|no idea|cannot)\b",
    re.IGNORECASE,
)


@lru_cache(maxsize=512)
def final_answer(text: str) -> str | None:
    """The answer a text comes to; None when it comes to none.

    In this order: tool calls and JSON (as canonical JSON; the value of its field "answer", where it has one), the last
    \\boxed{...}, the last "the answer is ...", the last code block, the last bold expression, and a text that is
    nothing but a number, an expression, a letter or up to three words.
    """
    text = text.strip()
    if not text:
        return None
    if calls := _CALL.findall(text):
        return json.dumps([_canonical(call) or call.strip() for call in calls])
    if (found := _canonical(text)) is not None:
        return found
    fences = list(_FENCE.finditer(text))
    tail = (text[fences[-1].end() :] if fences else text)[-TAIL:]
    answer = _boxed(tail) or _said(tail)
    if answer is not None:
        return answer
    if fences:
        block = fences[-1][2]
        found = _canonical(block)
        return found if found is not None else block.strip("\n") or None
    bold = [b[1] for b in _BOLD.finditer(tail) if _key(b[1]).kind in ("number", "letter", "math")]
    if bold:
        return bold[-1].strip()
    return _bare(text)


def _canonical(text: str) -> str | None:
    """Canonical JSON of a text that is a JSON object, or a list of more than numbers; None for any other."""
    text = text.strip()
    if text[:1] not in ("{", "["):
        return None
    try:
        value: Any = json.loads(text)
        if isinstance(value, dict):
            fields = cast("dict[str, Any]", value)
            for name in ("final_answer", "answer"):
                if isinstance(fields.get(name), str):
                    return fields[name].strip() or None
                if isinstance(fields.get(name), int | float):
                    return json.dumps(fields[name])
        elif not any(isinstance(item, dict | str) for item in value):
            return None
        return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    except (ValueError, RecursionError):
        return None


def _boxed(text: str) -> str | None:
    """The inside of the last box whose braces close."""
    for box in reversed(list(_BOXED.finditer(text))[-8:]):
        depth = 1
        for place in range(box.end(), len(text)):
            char = text[place]
            depth += (char == "{") - (char == "}") if text[place - 1] != "\\" else 0
            if not depth:
                return " ".join(text[box.end() : place].split()) or None
    return None


def _said(text: str) -> str | None:
    """What follows the last "the answer is"."""
    for found in reversed(list(_PHRASE.finditer(text))):
        said = _REASON.sub("", found[1]).strip().strip("*_").strip()
        if said.startswith(("$$", "\\[")):
            said = " ".join(said.split())
        if said and not _NONE.match(said) and not said.startswith("```"):
            return said
    return None


def _bare(text: str) -> str | None:
    """A text that is nothing but its answer."""
    if len(text) > 80 or "\n" in text or _BOXED.search(text):
        return None
    kind = _key(text).kind
    words = len(text.split())
    if kind in ("number", "letter", "math") or (words <= 3 and not text.endswith("?") and not _NONE.match(text)):
        return text
    return None


# -- when two answers are the same ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Key:
    """What an answer is compared by."""

    kind: Literal["number", "letter", "math", "words", "exact"]
    text: str
    number: Fraction = Fraction(0)
    unit: str = ""
    written: bool = True
    """A decimal as written, not a fraction: nothing was rounded away."""


_LATEX = (
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
    r"(?:\s+([A-Za-z]{2,}(?:[ /^.\-\w]{0,40})|[mgshlLNJWVAK](?:[/^][\w^]{1,4})?)\.?)?"
)
_LETTER = re.compile(r"(?:option |choice )?\(?([A-Z])\)?[.:)]?|\(?([A-J])[.:)]\s+\S.*")
_PROSE = re.compile(r"[^\W\d_]{3,}")
_NAMES = re.compile(r"\\[a-zA-Z]+|\b(?:sin|cos|tan|cot|sec|log|ln|exp|max|min|mod|gcd|lcm)\b")
_FORMULA = re.compile(r"[\d\\]|\w\s*[-+*/^=<>]|^\w$")
_CODE = re.compile(r"[(){}\[\]_=<>;]")
_DATE = re.compile(r"\d{4}-\d\d?-\d\d?|\d\d?:\d\d(?::\d\d)?|\d\d?/\d\d?/\d{4}")


@lru_cache(maxsize=8192)
def _key(answer: str) -> _Key:
    answer = answer.strip()
    if len(answer) > LONGEST:
        return _Key("exact", " ".join(answer.split()))
    if "\n" in answer or (answer[:1] in ("{", "[") and '"' in answer):
        return _Key("exact", "\n".join(line.rstrip() for line in answer.split("\n")))
    text = answer
    if wrapped := _WRAPPED.fullmatch(text):
        text = next(part for part in wrapped.groups() if part is not None)
    for pattern, into in _LATEX:
        text = pattern.sub(into, text)
    text = text.strip().rstrip(".;,").strip().strip("\"'“”‘’").strip()
    if _DATE.fullmatch(text):
        return _Key("words", text)
    if letter := _LETTER.fullmatch(text):
        return _Key("letter", letter[1] or letter[2])
    text = _THOUSANDS.sub(lambda m: m[0].replace(",", ""), _EQUALS.sub("", text, count=1))
    if number := _NUMBER.fullmatch(_FRACTION.sub(r"\1\2/\3", text)):
        top, below = Fraction(number[1].replace(" ", "")), int(number[2] or 1)
        if below:
            unit = " ".join(w.removesuffix("s") if len(w) > 2 else w for w in (number[3] or "").casefold().split())
            return _Key("number", text, top / below, unit, number[2] is None)
    if _PROSE.search(_NAMES.sub(" ", text)) or not _FORMULA.search(text):
        return _Key("exact", text) if _CODE.search(text) else _Key("words", text.casefold().rstrip(".!"))
    return _Key("math", text.replace(" ", ""))


def same(a: str, b: str) -> bool | None:
    """Whether two answers are the same as far as strings can tell; None where it takes algebra."""
    if a == b:
        return True
    x, y = _key(a), _key(b)
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
    key = _key(answer)
    return float(key.number) if key.kind == "number" else None


def _brackets(text: str) -> tuple[str, str] | None:
    """What a list of several things is wrapped in; None for what is no such list."""
    if "," in text and text[0] in "([{\\" and text[-1] in ")]}":
        return text[: 2 if text[0] == "\\" else 1].strip("\\"), text[-1]
    return None


_verdicts: dict[tuple[str, str], bool] = {}


async def group(texts: Sequence[str]) -> list[int | None]:
    """For each text the number of its group, counted from 0 in order of first appearance; None where it holds no
    answer. Never raises over what a text contains, and never holds up the event loop."""
    groups: list[int | None] = []
    firsts: list[str] = []
    known: dict[str, int] = {}
    hangs = 0
    for text in texts:
        answer = final_answer(text)
        if answer is None:
            groups.append(None)
            continue
        place = known.get(answer)
        if place is None:
            quick = [same(first, answer) for first in firsts]
            place = quick.index(True) if True in quick else None
            for i, verdict in enumerate(quick):
                if place is None and verdict is None:
                    equal, hung = await _equal(firsts[i], answer, hangs < HANGS)
                    hangs += hung
                    place = i if equal else None
            if place is None:
                place = len(firsts)
                firsts.append(answer)
            known[answer] = place
        groups.append(place)
    return groups


async def _equal(a: str, b: str, ask: bool) -> tuple[bool, bool]:
    """Whether algebra finds two answers equal, and whether it hung over them."""
    x, y = _key(a).text, _key(b).text
    pair = (x, y) if x < y else (y, x)
    if pair in _verdicts:
        return _verdicts[pair], False
    if not ask:
        return False, False
    hung = verdict = False
    try:
        verdict = await apart("same", *pair, PATIENCE)
    except TimeoutError:
        hung = True
    except (ValueError, BrokenPipeError):
        pass
    if len(_verdicts) >= 16384:
        del _verdicts[next(iter(_verdicts))]
    _verdicts[pair] = verdict
    return verdict, hung
