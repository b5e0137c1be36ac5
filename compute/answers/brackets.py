"""Splitting a text where it is not inside brackets."""

from __future__ import annotations

import re

from ponder.compute.answers.notation import SET_CLOSES, SET_OPENS

OPENING, CLOSING = "([{⟨" + SET_OPENS, ")]}⟩" + SET_CLOSES
_BRACKET = re.compile("[" + re.escape(OPENING + CLOSING) + "]")

_THOUSANDS = re.compile(r"(?<![\d.,])\d{1,3}(?:,\d{3})+(?!\d|,\d)")


def parts(text: str, separator: re.Pattern[str]) -> list[str]:
    """The parts between separators that stand outside of all brackets."""
    found: list[str] = []
    depth = start = 0
    brackets = _BRACKET.finditer(text)
    bracket = next(brackets, None)
    for cut in separator.finditer(text):
        while bracket is not None and bracket.start() < cut.start():
            depth += 1 if bracket[0] in OPENING else -1
            bracket = next(brackets, None)
        if depth == 0 and cut.end() > cut.start():
            found.append(text[start : cut.start()].strip())
            start = cut.end()
    return [*found, text[start:].strip()]


def without_commas(text: str) -> str:
    """Numbers outside of brackets without the commas between their thousands. Inside, commas separate."""
    if not _THOUSANDS.search(text):
        return text
    found: list[str] = []
    depth = at = 0
    brackets = (bracket for bracket in _BRACKET.finditer(text) if bracket[0] not in "{}")
    bracket = next(brackets, None)
    for number in _THOUSANDS.finditer(text):
        while bracket is not None and bracket.start() < number.start():
            depth += 1 if bracket[0] in OPENING else -1
            bracket = next(brackets, None)
        found += text[at : number.start()], number[0] if depth else number[0].replace(",", "")
        at = number.end()
    return "".join((*found, text[at:]))


def matching(text: str) -> bool:
    """Its first character opens a bracket that its last one closes; of which kinds does not matter."""
    if len(text) < 2 or text[0] not in OPENING.replace("{", "") or text[-1] not in CLOSING.replace("}", ""):
        return False
    depth = 0
    for bracket in _BRACKET.finditer(text):
        depth += 1 if bracket[0] in OPENING else -1
        if depth == 0:
            return bracket.end() == len(text)
    return False


def inside(text: str) -> str:
    """Without its first and last character."""
    return text[1:-1]
