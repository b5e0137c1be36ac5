"""Regular expressions as the grammar reads them; those it would leave parts of out are refused.

A pattern is read by Python's own parser, so that what the grammar is told of it is what it means.
"""

from __future__ import annotations

import importlib
import re
from typing import Any

from ponder.engines.schemas.parts import Part, refuse

LONGEST = 1 << 15
"""Characters of a pattern; longer ones take seconds to be read."""
STATES, TIMES = 1000, 128
"""Characters of the longest text a pattern spells out: the grammar needs a state for each. And how often it may repeat
one thing by {...}: with more, xgrammar 0.2.8 fails when it compiles."""


def held_pattern(part: Part, pattern: str) -> str:
    """The pattern as the grammar reads it: of the whole text, unless one end alone is anchored."""
    if len(pattern) > LONGEST:
        refuse(part, "pattern", f"it has more than {LONGEST} characters")
    parser: Any = importlib.import_module("re._parser")
    try:
        tree: Any = parser.parse(pattern)
    except (re.error, RecursionError, OverflowError):
        refuse(part, "pattern", "this kind of regular expression is not understood")
    if tree.state.flags & ~re.UNICODE:
        refuse(part, "pattern", "flags within a pattern are not supported")
    branches = _branches(tree)
    ends: set[tuple[bool, bool]] = set()
    size = 0
    for branch in branches:
        first = bool(branch) and _anchor(branch[0]) == "AT_BEGINNING"
        last = bool(branch) and _anchor(branch[-1]) == "AT_END"
        ends.add((first, last))
        size += _size(part, branch[first : len(branch) - last])
    if size > STATES:
        refuse(part, "pattern", f"it counts beyond {STATES} characters")
    if len(branches) == 1 and ends == {(True, False)}:
        return f"{pattern}.*$"
    if len(branches) == 1 and ends == {(False, True)}:
        return f"^.*{pattern}"
    return pattern


def pattern_size(pattern: str) -> int:
    """Characters up to which a pattern counts that `held_pattern` gave."""
    parser: Any = importlib.import_module("re._parser")
    branches = _branches(parser.parse(pattern))
    return sum(_size(Part(True, None, ()), [node for node in branch if not _anchor(node)]) for branch in branches)


def _branches(tree: Any) -> list[list[Any]]:
    """The ways a text may fulfil the pattern, its anchors still in them."""
    nodes: list[Any] = list(tree)
    if nodes and str(nodes[-1][0]) == "BRANCH":
        # What all of them begin with, an anchor perhaps, stands before them.
        return [[*nodes[:-1], *branch] for branch in nodes[-1][1][1]]
    return [nodes]


def _size(part: Part, nodes: Any) -> int:
    """Characters it counts up to. Refuses what the grammar leaves out, and what no text in JSON can be."""
    size = 0
    for op, value in nodes:
        match str(op):
            case "LITERAL":
                if value < 0x20 or chr(value) in '"\\':
                    refuse(part, "pattern", "control characters, quotes and backslashes cannot be asked for")
                size += 1
            case "NOT_LITERAL" | "ANY" | "CATEGORY":
                size += 1
            case "IN":
                negated = str(value[0][0]) == "NEGATE"
                usable = negated
                for kind, what in value[negated:]:
                    low = what[0] if str(kind) == "RANGE" else what if str(kind) == "LITERAL" else 0x7F
                    if low < 0x20 and not negated:
                        refuse(part, "pattern", "control characters cannot be asked for")
                    usable = usable or str(kind) != "LITERAL" or chr(what) not in '"\\'
                if not usable:
                    refuse(part, "pattern", "quotes and backslashes cannot be asked for")
                size += 1
            case "MAX_REPEAT" | "MIN_REPEAT":
                least, most, inner = value
                bounded = int(most) < 2**31
                if least > TIMES or (bounded and int(most) > TIMES):
                    refuse(part, "pattern", f"it repeats more than {TIMES} times: use minLength or maxLength")
                size += _size(part, inner) * max(1, int(most) if bounded else least)
            case "SUBPATTERN":
                if value[1] or value[2]:
                    refuse(part, "pattern", "flags within a pattern are not supported")
                size += _size(part, value[3])
            case "BRANCH":
                size += sum(_size(part, branch) for branch in value[1])
            case "AT":
                refuse(part, "pattern", "anchors are understood at its two ends only")
            case "ASSERT" | "ASSERT_NOT":
                refuse(part, "pattern", "it looks ahead or behind, which the grammar cannot")
            case _:
                refuse(part, "pattern", "this kind of regular expression is not understood")
    return size


def _anchor(node: Any) -> str:
    return str(node[1]) if str(node[0]) == "AT" else ""
