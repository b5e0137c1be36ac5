"""Tool calls in the text of a model: found, taken out and shaped, the same way for a whole answer and for a stream.

How a model writes its calls is a row of `ponder.engines.tools`; the model's card names it. Where the caller requires a
call, or wants an answer of a given form beside the tools, a grammar constrains the text to calls in that form, or to
the form asked for.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any, cast

from ponder.compute.text import ToolCall
from ponder.engines.tools import FORMATS, MORE, NOT_A_CALL, Called, End, Found, Reader

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

    def read(self, text: str, complete: bool) -> Sequence[ToolCall] | None:
        """The calls in the whole text of an answer, none where it was cut within its only one; None: it calls
        nothing."""
        parser = ToolCallParser(self)
        parser.feed(text)
        parser.end(complete)
        return tuple(parser.calls) if parser.calls or parser.cut else None

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


@dataclass(frozen=True, slots=True)
class Written:
    """New text of the arguments of a call, the first time perhaps none."""

    number: int
    """Of the call in its answer, from 0."""
    id: str
    name: str
    arguments: str
    first: bool
    """The call begins with it."""


@dataclass(slots=True)
class _Begun:
    """A call whose arguments are told while they are written."""

    id: str
    told: int = 0
    """Characters of them."""


@dataclass(slots=True)
class ToolCallParser:
    """Takes the visible text of one answer piece by piece, and returns what of it is text and what are calls.

    What might be the beginning of a call is kept back until it is known; white space before a call is dropped. Text
    that looks like a call and is none (it cannot be read, a tool nobody offered) is text. A call that was cut is not
    shown. With `early`, what was told of a call stands: one that turns out not to be readable is a call all the same,
    as the model wrote it, and of one that was cut the beginning was told.
    """

    offered: Offered
    early: bool = False
    """Arguments are told while they are written, in `written`."""
    calls: list[ToolCall] = field(default_factory=list[ToolCall])
    """Those that are complete."""
    written: list[Written] = field(default_factory=list[Written])
    """With `early`, what is new of the arguments of all calls, for whoever takes it away."""
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
    _reader: Reader | None = None
    """Reads that block while it is written."""
    _begun: dict[int, _Begun] = field(default_factory=dict[int, _Begun])
    """Calls of the block that were told of, by their number in it."""
    _plain: bool = False
    """The answer is a document: there are no calls in it."""
    cut: bool = False
    """The answer ended within a call."""
    broken: bool = False
    """A call that was told of stands, and what the model made of it, or put beside it, could not be read."""

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
                form = FORMATS[self.offered.format].form
                self._end = form.end()
                self._reader = form.reader(self.offered.types) if self.early else None
            end = self._end.find(kept, at)
            if self._reader is not None and end != NOT_A_CALL:
                self._listen(self._reader, kept, at, len(kept) if end == MORE else end)
            if end == MORE:
                break
            self._end = self._reader = None
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
            kept = self._take_open(kept, complete)
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

    def _listen(self, reader: Reader, kept: str, begin: int, stop: int) -> None:
        """Tells what is new of the arguments in a block."""
        names, parallel = self.offered.names, self.offered.parallel
        for piece in reader.go(kept, begin, stop):
            if piece.name not in names or not (parallel or not (self.calls or self._begun.keys() - {piece.number})):
                continue
            begun = self._begun.get(piece.number)
            first = begun is None
            if begun is None:
                begun = self._begun[piece.number] = _Begun("call_" + secrets.token_hex(12))
            begun.told += len(piece.text)
            number = len(self.calls) + sum(1 for earlier in self._begun if earlier < piece.number)
            self.written.append(Written(number, begun.id, piece.name, piece.text, first))

    def _take(self, block: str) -> str:
        """Takes the calls out of a block that has its end; what is to be shown of it."""
        found = self._found(block)
        told = bool(self._begun)
        self.broken = self.broken or (told and found.rest < len(block))
        if not told and (found.rest < len(block) or not any(one.name in self.offered.names for one in found.calls)):
            return self._show(block)
        shown: list[str] = []
        for number, one in enumerate(found.calls):
            if one.name in self.offered.names:
                self._add(one, number)
            else:
                shown.append(self._show(block[one.first : one.last]))
        self._begun.clear()
        if told and "".join(block[found.rest :].split()) not in ("", *FORMATS[self.offered.format].form.closers):
            shown.append(self._show(block[found.rest :]))
        return "".join(shown)

    def _found(self, block: str) -> Found:
        """The calls of a block: up to the first that cannot be read, if nothing of that was told."""
        found = FORMATS[self.offered.format].form.read(block, self.offered.types)
        for number, one in enumerate(found.calls):
            if one.broken and number not in self._begun:
                return Found(found.calls[:number], one.first)
            self.broken = self.broken or one.broken
        return found

    def _take_open(self, block: str, complete: bool) -> str:
        """Takes what is complete of a block without its end; what is left."""
        found = self._found(block)
        calls = [(n, one) for n, one in enumerate(found.calls) if one.name in self.offered.names]
        cut = next((n for n, one in calls if one.broken and not complete), None)
        if cut is not None:
            found, self.broken = Found(found.calls[:cut], found.calls[cut].first), False
            calls = [(n, one) for n, one in calls if n < cut]
        for number, one in calls:
            self._add(one, number)
        self._begun.clear()
        if not calls:
            return block
        rest = "".join(block[found.rest :].split())
        closers = FORMATS[self.offered.format].form.closers
        return "" if any(one.startswith(rest) for one in ("", *closers)) else block[found.rest :]

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

    def _add(self, called: Called, number: int) -> None:
        """A call that is complete, the `number`th of its block. Of several, where one is allowed, the first counts."""
        if self.offered.parallel or not self.calls:
            begun = self._begun.get(number) or _Begun("call_" + secrets.token_hex(12))
            if self.early:
                rest = called.arguments[begun.told :]
                if rest or not begun.told:
                    first = not begun.told
                    self.written.append(Written(len(self.calls), begun.id, called.name, rest, first))
            self.calls.append(ToolCall(begun.id, called.name, called.arguments))
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
