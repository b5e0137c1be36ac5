"""What a text finally answers, and which texts answer the same.

Strings first: numbers, letters, words and JSON are compared here, at once. What is left, mathematical expressions that
look different, goes to math-verify in the worker pool, side by side; only the first answer of each group is compared
with, and verdicts are remembered. Where there is no verdict, answers count as different for now.

All of this reads what models wrote, on the event loop: every function takes time linear in its text. So a pattern here
repeats nothing without bound in front of something it may give back.
"""

from __future__ import annotations

import asyncio
import json
import math
import re
import sys
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from hashlib import blake2b
from typing import Any, Literal, cast

from cachetools import LRUCache, cached

from ponder.compute.errors import NoVerdict
from ponder.compute.pool import pool

PATIENCE = 2.0
"""Seconds of processor time one comparison may take."""
TOGETHER = 15.0
"""Seconds all comparisons of one grouping may take, waiting for a worker included."""
HANGS = 3
"""Comparisons that may use up their time in one grouping; after them, strings decide."""
LONGEST = 300
"""Characters of an expression worth handing to computer algebra."""
TAIL = 20_000
"""Characters from the end in which an answer is looked for."""
BOLD = 100
"""Bold expressions from the end that are looked at."""
REMEMBERED = 2**22
"""Bytes of answers that are remembered, under a hash of their text."""


def _digest(text: str) -> bytes:
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


# -- the answer of a text ---------------------------------------------------------------------------------------------

_CALL = re.compile(r"<tool_call>((?:(?!<tool_call>).)*?)</tool_call>", re.DOTALL)
_FENCE = re.compile(r"```([^\n`]*)\n(.*?)```", re.DOTALL)
_BOXED = re.compile(r"\\(?:boxed|fbox)\s*\{")
_BRACE = re.compile(r"(?<!\\)[{}]")
_ANSWER_IS = re.compile(
    r"(?:\banswer\b(?:\s{1,16}+to\s{1,16}+[^.\n]{1,80}?)?[ *_]{0,8}(?::|=|\bis\b|\bwould\s{1,16}be\b)|^####)"
    r"[\s*_:]{0,16}",
    re.IGNORECASE | re.MULTILINE,
)
_END = re.compile(r"\.(?=\s)|\n")
_REASON = re.compile(r"\s(?:because|since|as shown|which)\b", re.IGNORECASE)
_BOLD = re.compile(r"\*\*([^*\n]{1,80})\*\*")
_NONE = re.compile(
    r"(?:i|we|it|sorry|hm+|um+|uh+|ok|okay|well|sure|so|unknown|unsure|unclear|none given|n/a|not|no idea|cannot)\b",
    re.IGNORECASE,
)


_remembered: LRUCache[bytes, str | None] = LRUCache(REMEMBERED, getsizeof=lambda answer: 100 + sys.getsizeof(answer))


@cached(_remembered, key=_digest)
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
        return json.dumps([found]) if _is_call(found) else found
    fence = next(iter(deque(_FENCE.finditer(text), maxlen=1)), None)
    tail = (text[fence.end() :] if fence else text)[-TAIL:]
    answer = _boxed(tail) or _said(tail)
    if answer is not None:
        return answer
    if fence:
        block = fence[2]
        found = _canonical(block)
        return found if found is not None else block.strip("\n") or None
    for bold in reversed(deque(_BOLD.finditer(tail), maxlen=BOLD)):
        if _key(bold[1]).kind in ("number", "letter", "math"):
            return bold[1].strip()
    return _bare(text)


def _is_call(canonical: str) -> bool:
    """Canonical JSON of a call without its tags: an object with a name and arguments, and nothing else."""
    arguments, found, name = canonical.rpartition('},"name":"')
    return bool(found) and arguments.startswith('{"arguments":{') and '"' not in name[:-2] and name.endswith('"}')


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
    boxes = {box.end() for box in _BOXED.finditer(text)}
    opened: list[int] = []
    start = end = 0
    for brace in _BRACE.finditer(text, min(boxes) - 1) if boxes else ():
        if brace[0] == "{":
            opened.append(brace.end())
        elif opened and (inside := opened.pop()) in boxes and inside > start:
            start, end = inside, brace.start()
    return " ".join(text[start:end].split()) or None


def _said(text: str) -> str | None:
    """What follows the last "the answer is"."""
    answer: str | None = None
    at = 0
    while head := _ANSWER_IS.search(text, at):
        at = max(head.end(), _sentence(text, head.end()))
        said = text[head.end() : at]
        if reason := _REASON.search(said):
            said = said[: reason.start()].rstrip().removesuffix(",")
        said = said.strip().strip("*_").strip()
        if said.startswith(("$$", "\\[")):
            said = " ".join(said.split())
        if said and not _NONE.match(said) and not said.startswith("```"):
            answer = said
    return answer


def _sentence(text: str, start: int) -> int:
    """Where the formula, the sentence or the line that begins at `start` ends, its full stop left out."""
    for opening, closing in (("$$", "$$"), ("\\[", "\\]")):
        if text.startswith(opening, start) and (end := text.find(closing, start + 3, start + 504)) >= 0:
            return end + 2
    if text.startswith("\n", start):
        return start
    found = _END.search(text, start + 1)
    end = found.start() if found else len(text)
    if found is None or found[0] == "\n":
        while end > start + 1 and text[end - 1].isspace():
            end -= 1
        if end > start + 1 and text[end - 1] in ".!":
            end -= 1
    return end


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


def _key(answer: str) -> _Key:
    answer = answer.strip()
    return _Key("exact", " ".join(answer.split())) if len(answer) > LONGEST else _short_key(answer)


@lru_cache(maxsize=1024)
def _short_key(answer: str) -> _Key:
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
    return True if a == b else _same(_key(a), _key(b))


def _same(x: _Key, y: _Key) -> bool | None:
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
    if key.kind != "number":
        return None
    try:
        return float(key.number)
    except OverflowError:
        return math.inf if key.number > 0 else -math.inf


def _brackets(text: str) -> tuple[str, str] | None:
    """What a list of several things is wrapped in; None for what is no such list."""
    if "," in text and text[0] in "([{\\" and text[-1] in ")]}":
        return text[: 2 if text[0] == "\\" else 1].strip("\\"), text[-1]
    return None


_verdicts: LRUCache[bytes, bool] = LRUCache(16384)
"""What algebra found, under a hash of the two expressions."""


async def group(texts: Sequence[str], *, tenant: str | None = None, seconds: float = TOGETHER) -> list[int | None]:
    """For each text the number of its group, counted from 0 in order of first appearance; None where it holds no
    answer. Never raises over what a text contains, never holds up the event loop, and takes little more than `seconds`.
    `tenant` is on whose account expressions are compared."""
    answers: list[str | None] = []
    for text in texts:
        answers.append(final_answer(text))
        if len(text) > TAIL // 4:
            await asyncio.sleep(0)
    grouping = _Grouping(list(dict.fromkeys(answer for answer in answers if answer is not None)))
    if not grouping.settled:
        until = asyncio.get_running_loop().time() + seconds
        async with asyncio.TaskGroup() as comparing:
            for _ in range(pool().share):
                comparing.create_task(grouping.compare(tenant, until))
    places = grouping.places()
    return [None if answer is None else places[answer] for answer in answers]


class _Grouping:
    """Answers that differ, each put into the group of the first before it that is the same, in order: as if they were
    compared one after the other, whatever the order in which verdicts come."""

    def __init__(self, answers: Sequence[str]) -> None:
        self._answers = answers
        self._keys = [_key(answer) for answer in answers]
        self._places: list[int] = []
        """The groups of the answers that are settled: the first so many."""
        self._firsts: list[int] = []
        """The first answer of each group."""
        self._strings: dict[tuple[int, int], bool | None] = {}
        self._verdicts: dict[tuple[int, int], bool] = {}
        self._asked: set[tuple[int, int]] = set()
        self._hung = 0
        self._settle()

    @property
    def settled(self) -> bool:
        """Each has its group."""
        return len(self._places) == len(self._answers)

    def places(self) -> dict[str, int]:
        """The group of each answer. Those for which no verdict came are different."""
        self._settle(finally_=True)
        return dict(zip(self._answers, self._places, strict=True))

    async def compare(self, tenant: str | None, until: float) -> None:
        """Has pairs compared that matter, one at a time, until there are no more; several do so side by side."""
        clock = asyncio.get_running_loop().time
        while self._hung < HANGS and clock() < until and (pair := self._next()):
            self._asked.add(pair)
            first, second = self._expressions(*pair)
            equal, lasting = False, True
            try:
                equal = await pool().ask("same", first, second, tenant=tenant, seconds=PATIENCE, until=until)
            except NoVerdict as none:
                self._hung += none.reason == "overran"
                lasting = none.lasting
            if lasting:
                _verdicts[_digest(f"{first}\0{second}")] = equal
            self._verdicts[pair] = equal
            self._settle()

    def _next(self) -> tuple[int, int] | None:
        """The pair whose verdict is wanted soonest and nobody has asked for."""
        settled = len(self._places)
        for new in range(settled, len(self._answers)):
            rivals = [*self._firsts, *range(settled, new)]
            # What strings put beside an answer that has no group yet may need no algebra.
            if new > settled and any(self._quick(rival, new) for rival in rivals):
                continue
            for pair in ((rival, new) for rival in rivals):
                if pair not in self._asked and self._quick(*pair) is None and self._verdict(*pair) is None:
                    return pair
        return None

    def _settle(self, finally_: bool = False) -> None:
        """Groups answers as far as verdicts are known; finally, without those that are not."""
        while not self.settled:
            new = len(self._places)
            quick = [self._quick(first, new) for first in self._firsts]
            place = quick.index(True) if True in quick else None
            for i, first in enumerate(self._firsts):
                if place is None and quick[i] is None:
                    equal = self._verdict(first, new)
                    if equal is None and not finally_:
                        return
                    place = i if equal else None
            if place is None:
                place = len(self._firsts)
                self._firsts.append(new)
            self._places.append(place)

    def _quick(self, first: int, second: int) -> bool | None:
        """What strings say of two answers."""
        pair = first, second
        if pair not in self._strings:
            self._strings[pair] = _same(self._keys[first], self._keys[second])
        return self._strings[pair]

    def _verdict(self, first: int, second: int) -> bool | None:
        """What algebra has said of them, in this grouping or before; None: nothing yet."""
        pair = first, second
        if pair not in self._verdicts:
            known = _verdicts.get(_digest("\0".join(self._expressions(*pair))))
            if known is None:
                return None
            self._verdicts[pair] = known
        return self._verdicts[pair]

    def _expressions(self, first: int, second: int) -> tuple[str, str]:
        a, b = self._keys[first].text, self._keys[second].text
        return (a, b) if a < b else (b, a)
