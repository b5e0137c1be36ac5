"""Tool calls in the text of a model: found, taken out and shaped, the same way for a whole answer and for a stream.

How a model writes its calls is a row of `ponder.engines.tools`; the model's card names it. Where the caller requires a
call, or wants an answer of a given form beside the tools, a grammar constrains the text to calls in that form, or to
the form asked for.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any, cast

from ponder.compute.text import ToolCall
from ponder.engines.tools import FORMATS, MORE, NOT_A_CALL, End

CUT = 5
"""A text that was cut and ends in as many characters of what begins a call had begun one."""

_SPACE = re.compile(r"\s*+")


@dataclass(frozen=True)
class Offered:
    """The tools a request offers, and how they may be used."""

    names: frozenset[str] = frozenset()
    required: bool = False
    """The whole answer is calls."""
    parallel: bool = True
    held: bool = False
    """A grammar constrains the answer: it is calls from its first character on, or a document without calls."""
    format: str = "hermes"
    """How the model writes calls."""
    parameters: Mapping[str, str] = field(default_factory=dict[str, str])
    """The JSON schema of each tool's arguments, as text."""

    @property
    def any(self) -> bool:
        return bool(self.names)

    @cached_property
    def marks(self) -> Marks:
        """What their calls begin with."""
        row = FORMATS[self.format]
        openers = row.form.openers(self.names)
        either = row.form.either
        beside_document = (either,) if either else tuple(one for one in openers if not one.startswith("{"))
        return _marks(openers, beside_document, row.lead, row.form.tails)

    def types(self, name: str) -> Mapping[str, Any]:
        """The schema of a tool's arguments."""
        try:
            schema: Any = json.loads(self.parameters.get(name) or "{}")
        except ValueError:
            return {}
        return cast("dict[str, Any]", schema) if isinstance(schema, dict) else {}


@dataclass(frozen=True, slots=True)
class Marks:
    """What calls begin with, ready to be looked for."""

    openers: tuple[str, ...]
    beside_document: tuple[str, ...]
    """What they begin with where a document may stand in their place."""
    lead: tuple[str, ...]
    tails: tuple[str, ...]
    find: re.Pattern[str]
    firsts: frozenset[str]
    longest: int

    def overlap(self, text: str) -> int:
        """Length of the longest end of `text` that a call may begin with; it is shorter than any opener."""
        for at in range(max(0, len(text) - self.longest + 1), len(text)):
            if text[at] in self.firsts and any(one.startswith(text[at:]) for one in self.openers):
                return len(text) - at
        return 0


@lru_cache(maxsize=256)
def _marks(
    openers: tuple[str, ...], beside_document: tuple[str, ...], lead: tuple[str, ...], tails: tuple[str, ...]
) -> Marks:
    openers = tuple(sorted(set(openers) | {word + one for word in lead for one in openers}, key=len, reverse=True))
    return Marks(
        openers,
        beside_document,
        lead,
        tails,
        re.compile("|".join(map(re.escape, openers))),
        frozenset(one[0] for one in openers),
        max(map(len, openers)),
    )


@dataclass(slots=True)
class ToolCallParser:
    """Takes the visible text of one answer piece by piece, and returns what of it is text and what are calls.

    What might be the beginning of a call is kept back until it is known; white space before a call is dropped. Text
    that looks like a call and is none (it cannot be read, a tool nobody offered) is text. A call that was cut is not
    shown.
    """

    offered: Offered
    calls: list[ToolCall] = field(default_factory=list[ToolCall])
    _kept: str = ""
    """Perhaps the beginning of a call."""
    _space: list[str] = field(default_factory=list[str])
    """White space that may turn out to stand before a call."""
    _fresh: bool = False
    """Nothing was shown since the last call."""
    _read: int = 0
    """Characters of what is kept in which the beginning of a call was looked for."""
    _end: End | None = None
    """Looks for the end of the block of calls that is kept."""
    _plain: bool = False
    """The answer is a document: there are no calls in it."""
    cut: bool = False
    """The answer ended within a call."""

    def feed(self, text: str) -> tuple[str, list[ToolCall]]:
        """New text to show and calls that are complete now."""
        if not self.offered.any or self._plain:
            return text, []
        # Nothing else refers to it meanwhile, so it grows in place.
        kept, self._kept = self._kept, ""
        kept += text
        marks = self.offered.marks
        if self._begins_document(kept, marks):
            self._plain = True
            return "".join([*self._space, kept]), []
        before = len(self.calls)
        shown: list[str] = []
        at = 0  # What stands before it was shown, or is a call.
        while True:
            if self._end is None:
                if self._fresh and marks.tails:
                    at, more = _behind_tails(kept, at, marks.tails)
                    if more:
                        break
                found = marks.find.search(kept, max(at, self._read))
                if found is None and self.offered.required:
                    self._read = max(self._read, len(kept) - marks.longest + 1)
                    break
                if found is None:
                    begin = len(kept) - marks.overlap(kept[max(at, len(kept) - marks.longest) :])
                    shown.append(self._show(kept[at:begin]))
                    at = begin
                    break
                shown.append(self._show(kept[at : found.start()]))
                at = found.start() + len(next((one for one in marks.lead if found[0].startswith(one)), ""))
                self._end = FORMATS[self.offered.format].form.end()
            end = self._end.find(kept, at)
            if end == MORE:
                break
            self._end = None
            if end == NOT_A_CALL:
                end = at + 1
                shown.append(self._show(kept[at:end]))
            else:
                shown.append(self._take(kept[at:end]))
            at = self._read = end
        self._kept, self._read = kept[at:], max(0, self._read - at)
        return "".join(shown), self.calls[before:]

    def end(self, complete: bool = True) -> tuple[str, list[ToolCall]]:
        """The text is over: what is still to be shown, and calls of a block that was not closed. `complete`: as the
        model wanted it; else what may have been the beginning of a call is none."""
        before = len(self.calls)
        kept, self._kept = self._kept, ""
        begun = self._end is not None
        self._end = None
        if begun or self.offered.required:
            kept = self._take_open(kept)
            if not kept:
                return "", self.calls[before:]
            if len(self.calls) > before and self.offered.required:
                self.cut = not complete
                return "", self.calls[before:]
        if not complete and self._fresh and any(one.startswith(kept.strip()) for one in self.offered.marks.tails):
            return "", self.calls[before:]
        begun = begun or (len(kept) >= CUT and any(one.startswith(kept) for one in self.offered.marks.openers if kept))
        if not complete and kept.strip() and (self.offered.required or begun):
            self.cut = True
            return "", self.calls[before:]
        shown = self._show(kept)
        return shown if self.calls or self._plain else shown + "".join(self._space), self.calls[before:]

    def _begins_document(self, kept: str, marks: Marks) -> bool:
        """Where calls or a document may stand, what has come shows that it is the document."""
        offered = self.offered
        if not offered.held or offered.required or self.calls or self._end is not None:
            return False
        begun = kept.lstrip()
        return not any(one.startswith(begun[: len(one)]) for one in marks.beside_document)

    def _take(self, block: str) -> str:
        """Takes the calls out of a block that has its end; what is to be shown of it."""
        form = FORMATS[self.offered.format].form
        found = form.read(block, self.offered.types)
        if found.rest < len(block) or not any(one.name in self.offered.names for one in found.calls):
            return self._show(block)
        shown: list[str] = []
        for one in found.calls:
            if one.name in self.offered.names:
                self._add(one.name, one.arguments)
            else:
                shown.append(self._show(block[one.first : one.last]))
        return "".join(shown)

    def _take_open(self, block: str) -> str:
        """Takes what is complete of a block without its end; what is left."""
        form = FORMATS[self.offered.format].form
        found = form.read(block, self.offered.types)
        calls = [one for one in found.calls if one.name in self.offered.names]
        if not calls:
            return block
        for one in calls:
            self._add(one.name, one.arguments)
        rest = "".join(block[found.rest :].split())
        return "" if any(one.startswith(rest) for one in ("", *form.closers)) else block[found.rest :]

    def _show(self, text: str) -> str:
        """The text less the white space at its end, which is shown when more text follows and never beside a call."""
        if self._fresh:
            text = text.lstrip()
            self._fresh = not text
        said = text.rstrip()
        space = text[len(said) :]
        if not said:
            self._space.append(space)
            return ""
        shown = "".join([*self._space, said])
        self._space = [space]
        return shown

    def _add(self, name: str, arguments: str) -> None:
        """Of several, where one is allowed, the first counts."""
        if self.offered.parallel or not self.calls:
            self.calls.append(ToolCall("call_" + secrets.token_hex(12), name, arguments))
        self._space, self._fresh = [], True


def _behind_tails(text: str, at: int, tails: tuple[str, ...]) -> tuple[int, bool]:
    """(behind what may follow a call and means nothing, more of it may come)."""
    while True:
        space = _SPACE.match(text, at)
        begin = space.end() if space else at
        tail = next((one for one in tails if text.startswith(one, begin)), "")
        if not tail:
            return begin, any(one.startswith(text[begin : begin + len(one)]) for one in tails)
        at = begin + len(tail)
