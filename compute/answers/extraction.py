"""What a text finally answers.

All of this reads what models wrote, on the event loop: every function takes time linear in its text. So a pattern here
repeats nothing without bound in front of something it may give back.
"""

from __future__ import annotations

import json
import re
import sys
from collections import deque
from collections.abc import Iterator
from itertools import zip_longest
from typing import Any, cast

from cachetools import LRUCache, cached

from ponder.compute.answers.documents import canonical
from ponder.compute.answers.keys import digest, key
from ponder.compute.answers.phrases import ANSWER_IS, CHOSEN, CONCLUDES, ENDS, NO_ANSWER, REASON

TAIL = 20_000
"""Characters from the end in which an answer is looked for."""
BOLD = 100
"""Bold expressions from the end that are looked at."""
REMEMBERED = 2**22
"""Bytes of answers that are remembered, under a hash of their text."""
SENTENCE = 300
"""Characters of a last sentence that may come to a number."""

_CALL = re.compile(r"<tool_call>((?:(?!<tool_call>).)*?)</tool_call>", re.DOTALL)
_FENCE = re.compile(r"```([^\n`]*)\n(.*?)```", re.DOTALL)
_TAGGED = re.compile(r"<(answer|final_answer|solution)>((?:(?!<(?:answer|final_answer|solution)>).)*?)</\1>", re.DOTALL)
_BOXED = re.compile(r"\\(?:boxed|fbox|framebox)\s*(?:\{|([0-9A-Za-z])(?![0-9A-Za-z]))")
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)
_FIELD = re.compile(r'\{\s{0,8}"(?:final_)?answer"')
_TAG = re.compile(r"<[^<>]*>")
_BETWEEN = re.compile(
    r"[\s$.,;:*()]{0,12}(?:(?:and|or|und|oder|et|ou|y|o|和|或|与|、)[\s$:*]{0,6})?(?:\\[()\[\]][\s,;]{0,4}){0,2}"
)
_END = re.compile(r"[.](?=\s)|\n|。")
_BOLD = re.compile(r"\*\*([^*\n]{1,80})\*\*")
_SENTENCES = re.compile(r"(?<=[.!?])\s+|\n+|(?<=[。！？])")
_NUMBER = re.compile(r"(?<![A-Za-z0-9_.])[-−]?[$€£¥₹]?\d[\d,]*(?:\.\d+)?(?:\s?/\s?\d+)?%?(?![\w]*_)")
_IT_IS = re.compile(
    r"(?:it|that|this)(?:\s(?:is|makes|would be)|'s)\s(\S{1,40}(?:\s\S{1,20}){0,2}?)[.!]?", re.IGNORECASE
)
_YES_OR_NO = re.compile(r"(?:yes|no)\s?,", re.IGNORECASE)
_THING = re.compile(r"\s?([^\W\d_]{1,20}(?:\s[^\W\d_]{2,20})?)?")
_EQUALS = re.compile(
    r"(?:\$|\\\(|\\\[)?\s{0,4}(?:[A-Za-z]\w{0,3}\s{0,4})?=\s{0,4}(?=[^=\s])|\S{1,20}\s(?:equals|is equal to)\s(?=\S)"
)


_remembered: LRUCache[bytes, str | None] = LRUCache(REMEMBERED, getsizeof=lambda answer: 100 + sys.getsizeof(answer))


def _remembering(text: str, numeric: bool | None = None) -> bytes:
    return digest(text) if numeric is None else digest(f"{numeric}\0{text}")


@cached(_remembered, key=_remembering)
def final_answer(text: str, numeric: bool | None = None) -> str | None:
    """The answer a text comes to; None when it comes to none.

    In this order: tool calls, in any order, and JSON (as canonical JSON; the value of its field "answer", where it has
    one), the last \\boxed{...} (several side by side are a list), the last <answer>, the last "the answer is ..." of
    some language, the last code block, "B is the correct answer", the last bold expression, a text that is nothing but
    a number, an expression, a letter or up to three words, and a last sentence that draws a conclusion and has one
    number in it.
    `numeric` says whether the question asks for a number, where that is known: if it does, any last sentence with one
    number will do, and if it does not, none will.
    """
    text = text.strip()
    if not text:
        return None
    if calls := _CALL.findall(text):
        return json.dumps(sorted(_canonical(call) or call.strip() for call in calls))
    if (found := _canonical(text) or _heading_json(text)) is not None:
        return json.dumps([found]) if _is_call(found) else found
    fence = next(iter(deque(_FENCE.finditer(text), maxlen=1)), None)
    tail = (text[fence.end() :] if fence else text)[-TAIL:]
    answer = _boxed(tail) or _tagged(tail) or _inline_json(tail) or _said(tail)
    if answer is not None:
        return answer
    if fence:
        block = fence[2]
        found = _canonical(block)
        return found if found is not None else block.strip("\n") or None
    if chosen := next(iter(deque(CHOSEN.finditer(tail), maxlen=1)), None):
        word = (chosen[1] or chosen[2]).strip("*_")
        if key(word).kind in ("number", "letter", "math") or word.istitle():
            return word
    for bold in reversed(deque(_BOLD.finditer(tail), maxlen=BOLD)):
        if key(bold[1]).kind in ("number", "letter", "math"):
            return bold[1].strip()
    return _bare(text) or _concluded(tail, numeric)


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
        return _value(json.loads(text))
    except (ValueError, RecursionError):
        return None


def _value(value: Any) -> str | None:
    if isinstance(value, dict):
        fields = cast("dict[str, Any]", value)
        for name in ("final_answer", "answer"):
            if isinstance(fields.get(name), str):
                return fields[name].strip() or None
            if isinstance(fields.get(name), int | float):
                return json.dumps(fields[name])
    elif not any(isinstance(item, dict | str) for item in value):
        return None
    return canonical(value)


def _heading_json(text: str) -> str | None:
    """An object with an answer that a text begins with, and goes on in prose."""
    if not text.startswith("{"):
        return None
    try:
        value, end = json.JSONDecoder().raw_decode(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(value, dict) or not {"final_answer", "answer"} & cast("dict[str, Any]", value).keys():
        return None
    return _value(value) if text[end : end + 1] == "\n" else None


def _inline_json(text: str) -> str | None:
    """The answer of the last object in a text that has one."""
    last = next(iter(deque(_FIELD.finditer(text), maxlen=1)), None)
    if last is None:
        return None
    try:
        value, _ = json.JSONDecoder().raw_decode(text, last.start())
    except (ValueError, RecursionError):
        return None
    return _value(value)


def _boxed(text: str) -> str | None:
    """The inside of the last box whose braces close; with those side by side before it, where there are such."""
    boxes = list(_boxes(text))
    if not boxes:
        return None
    *before, (start, _, last) = boxes
    answers = [last]
    for begun, ended, answer in reversed(before):
        if ended <= start and _BETWEEN.fullmatch(text, ended, start):
            answers.append(answer)
            start = begun
        else:
            break
    different = list(dict.fromkeys(reversed(answers)))
    if len(different) > 1 and all(key(one).kind in ("number", "letter", "math") for one in different):
        return ", ".join(different)
    return last


def _boxes(text: str) -> Iterator[tuple[int, int, str]]:
    """(start, end, inside) of the boxes that close and have no other box in them, by where they start."""
    found: list[tuple[int, int, str]] = []
    boxes = {box.end(): box for box in _BOXED.finditer(text)}
    opened: list[int] = []
    for box in boxes.values():
        if box[1]:
            found.append((box.start(), box.end(), box[1]))
    braced = [end for end, box in boxes.items() if not box[1]]
    for brace in _BRACE.finditer(text, braced[0] - 1) if braced else ():
        if brace[0] == "{":
            opened.append(brace.end())
        elif brace[0] == "}" and opened and (inside := opened.pop()) in boxes:
            answer = " ".join(text[inside : brace.start()].split())
            if answer:
                found.append((boxes[inside].start(), brace.end(), answer))
    found.sort()
    for i, (start, end, answer) in enumerate(found):
        if i + 1 == len(found) or found[i + 1][0] >= end:
            yield start, end, answer


def _tagged(text: str) -> str | None:
    """What stands in the last <answer>."""
    tagged = next(iter(deque(_TAGGED.finditer(text), maxlen=1)), None)
    if tagged is None or not (inside := tagged[2].strip()):
        return None
    return _canonical(inside) or inside


def _said(text: str) -> str | None:
    """What follows the last "the answer is"."""
    answer: str | None = None
    at = end = 0
    heads = list(ANSWER_IS.finditer(text))
    for head, following in zip_longest(heads, heads[1:]):
        if head.start() < at:
            continue
        ends = _display(text, head.end())
        if ends is None:
            if head.end() >= end:
                end = _sentence(text, head.end())
            ends = end
        if following is not None and following.start() < ends:
            between = text[head.end() : following.start()]
            if len(between) < 40 and between.count(" ") < 4:
                # Final answer: the answer is 7.
                continue
        at = max(head.end(), ends)
        said = text[head.end() : at]
        if reason := REASON.search(said):
            said = said[: reason.start()].rstrip().removesuffix(",")
        said = ENDS.sub("", said.strip().strip("*_").strip()).strip()
        said = _formula(said)
        if said and not NO_ANSWER.match(said) and not said.startswith("```") and "?" not in said:
            answer = said
    return answer


def _formula(said: str) -> str:
    """The inside of what is nothing but one formula in a line; a displayed one in one line."""
    if said.startswith(("$$", "\\[")):
        return " ".join(said.split())
    for opening, closing in (("\\(", "\\)"), ("$", "$")):
        if said.startswith(opening) and said.endswith(closing) and len(said) > len(opening) + len(closing):
            inside = said[len(opening) : -len(closing)]
            return said if opening in inside else " ".join(inside.split())
    return said


def _display(text: str, start: int) -> int | None:
    """Where the displayed formula ends that begins at `start`, or the empty line; None where neither does."""
    for opening, closing in (("$$", "$$"), ("\\[", "\\]")):
        if text.startswith(opening, start) and (end := text.find(closing, start + 3, start + 504)) >= 0:
            return end + 2
    return start if text.startswith("\n", start) else None


def _sentence(text: str, start: int) -> int:
    """Where the sentence or the line that begins at `start` ends, its full stop left out."""
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
    text = text.removeprefix("= ")
    if (said := _IT_IS.fullmatch(text)) and key(said[1]).kind in ("number", "letter", "math"):
        return said[1]
    if len(text) > 80 or "\n" in text or _BOXED.search(text) or ANSWER_IS.search(text):
        return None
    kind = key(text).kind
    words = len(text.split())
    if CONCLUDES.match(text) or _YES_OR_NO.match(text) or _TAG.match(text):
        return None
    if kind in ("number", "letter") or (kind == "math" and words <= 12):
        return text
    return text if words <= 3 and not text.endswith("?") and not NO_ANSWER.match(text) else None


def _concluded(text: str, numeric: bool | None) -> str | None:
    """The number that a last sentence comes to."""
    sentences = [part for part in _SENTENCES.split(text[-2 * SENTENCE :]) if part.strip()]
    if not sentences or numeric is False:
        return None
    last = sentences[-1].strip().strip("*_").rstrip(".!。")
    concludes = CONCLUDES.match(last)
    if not (concludes or numeric) or len(last) > SENTENCE or last.endswith("?"):
        return None
    rest = last[concludes.end() :] if concludes else last
    if (equals := _EQUALS.match(rest)) and key(rest[equals.end() :].strip("$ ")).kind in ("number", "math"):
        return rest[equals.end() :].strip("$ ").removesuffix("\\)").removesuffix("\\]").strip()
    numbers = list(_NUMBER.finditer(rest))
    if len(numbers) != 1:
        return None
    number = numbers[0]
    thing = _THING.match(rest, number.end())
    with_thing = rest[number.start() : thing.end()].strip() if thing else number[0]
    for words in (with_thing, with_thing.rpartition(" ")[0]):
        if words and key(words).kind == "number":
            return words
    return number[0]
