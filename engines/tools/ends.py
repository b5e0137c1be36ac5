"""Finds where a block of calls ends, in text that grows: what stands within strings ends nothing."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import cache

from ponder.engines.tools.form import MORE, NOT_A_CALL

HEAD = 512
"""Characters in which the arguments of a call begin at the latest, where no marker ends it."""

_ESCAPED = {quote: re.compile(f"(?:[^{quote}\\\\]++|\\\\.)*+", re.DOTALL) for quote in "\"'"}


@dataclass(frozen=True, slots=True)
class Ending:
    """How blocks end: with a marker, or where the brackets of their arguments are closed."""

    closers: tuple[tuple[str, str], ...] = ()
    """(what the block begins with, what it ends with): the first that fits. None: it ends with its brackets."""
    begins: str = "{["
    """What the arguments begin with; strings are looked for from there on."""
    quotes: tuple[str, ...] = ('"',)
    """What strings stand in. Where it is one character, a backslash escapes the next."""
    head: int = 0
    """Characters at most before the arguments begin; 0 for no limit."""

    def __call__(self) -> StringsEnd:
        return StringsEnd(self)


@cache
def _marks(*texts: str) -> re.Pattern[str]:
    return re.compile("|".join(re.escape(text) for text in texts if text))


@dataclass(slots=True)
class StringsEnd:
    """One block."""

    ending: Ending
    _read: int = 0
    _closer: str | None = None
    _inside: bool = False
    """The arguments have begun."""
    _quote: str = ""
    """What was read ends within a string."""
    _depth: int = 0
    _marks: re.Pattern[str] | None = field(default=None)
    _longest: int = 1

    def find(self, text: str, begin: int) -> int:
        """Where the block ends, or `MORE`, or `NOT_A_CALL`; see `End`."""
        if self._closer is None:
            opener, self._closer = next(((o, c) for o, c in self.ending.closers if text.startswith(o, begin)), ("", ""))
            self._read = len(opener)
            self._longest = max(map(len, (*self.ending.quotes, self._closer, " ")))
        at = begin + self._read
        if not self._inside:
            at = self._head(text, at, begin)
            if at < 0 or not self._inside:
                return at
        marks = self._marks or self._marked()
        while True:
            if self._quote:
                at = self._behind_string(text, at, begin)
                if at < 0:
                    return at
            found = marks.search(text, at)
            if found is None:
                self._read = max(at, len(text) - self._longest + 1) - begin
                return MORE
            at, mark = found.end(), found[0]
            if mark == self._closer:
                return at
            if mark in self.ending.quotes:
                self._quote = mark
            elif mark in "{[(":
                self._depth += 1
            else:
                self._depth -= 1
                if self._depth <= 0:
                    return at

    def _head(self, text: str, at: int, begin: int) -> int:
        """Goes on to where the arguments begin; the end of a block that has none."""
        limit = begin + self.ending.head if self.ending.head else len(text)
        found = _marks(*self.ending.begins, self._closer or "").search(text, at, limit)
        if found is not None and found[0] != self._closer:
            self._inside = True
            return found.start()
        if found is not None:
            return found.end()
        if self.ending.head and len(text) >= limit:
            return NOT_A_CALL
        self._read = max(at, len(text) - self._longest + 1) - begin
        return MORE

    def _marked(self) -> re.Pattern[str]:
        brackets = () if self._closer else tuple("{}[]()")
        self._marks = _marks(*((self._closer,) if self._closer else ()), *self.ending.quotes, *brackets)
        return self._marks

    def _behind_string(self, text: str, at: int, begin: int) -> int:
        if self._quote in _ESCAPED:
            skipped = _ESCAPED[self._quote].match(text, at)
            at = skipped.end() if skipped else at
            if not text.startswith(self._quote, at):
                self._read = at - begin
                return MORE
        else:
            end = text.find(self._quote, at)
            if end < 0:
                self._read = max(at, len(text) - len(self._quote) + 1) - begin
                return MORE
            at = end
        at += len(self._quote)
        self._quote = ""
        self._read = at - begin
        return at
