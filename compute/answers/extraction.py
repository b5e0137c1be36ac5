"""What a text finally answers.

All of this reads what models wrote, on the event loop: every function takes time linear in its text. So a pattern here
repeats nothing without bound in front of something it may give back.
"""

from __future__ import annotations

import json
import re
import sys
from collections import deque
from typing import Any, cast

from cachetools import LRUCache, cached

from ponder.compute.answers.keys import digest, key

TAIL = 20_000
"""Characters from the end in which an answer is looked for."""
BOLD = 100
"""Bold expressions from the end that are looked at."""
REMEMBERED = 2**22
"""Bytes of answers that are remembered, under a hash of their text."""

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


@cached(_remembered, key=digest)
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
        if key(bold[1]).kind in ("number", "letter", "math"):
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
    kind = key(text).kind
    words = len(text.split())
    if kind in ("number", "letter", "math") or (words <= 3 and not text.endswith("?") and not _NONE.match(text)):
        return text
    return None
