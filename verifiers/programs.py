"""Which part of an answer is the program that a caller asked for."""

from __future__ import annotations

import re

_LANGUAGE = re.compile(r"[ \t]*([\w+-]*)")


def program(text: str) -> str:
    """The last Python code block of a text; else the last block that names no language; else, without any block, all
    of it. Linear in the length of the text."""
    named, nameless, blocks = None, None, False
    at, line_end = 0, -1
    while (start := text.find("```", at)) >= 0:
        if line_end < start + 3:
            line_end = text.find("\n", start + 3)
        if line_end < 0:
            break
        if text.find("`", start + 3, line_end) >= 0:  # no fence: code within a line, or more than three backticks
            at = start + 1
            continue
        end = text.find("```", line_end + 1)
        if end < 0:
            break
        language = _LANGUAGE.match(text, start + 3, line_end)
        name = "" if language is None else language[1].casefold()
        if name in ("python", "py", "python3"):
            named = (line_end + 1, end)
        elif not name:
            nameless = (line_end + 1, end)
        blocks, at = True, end + 3
    if not blocks:
        return text
    chosen = named or nameless
    return "" if chosen is None else text[chosen[0] : chosen[1]]
