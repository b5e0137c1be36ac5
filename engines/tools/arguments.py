"""The arguments of calls while they are written, for families that write them as JSON: where they begin and end, and
what of them may be told already.

What is told is never taken back: a call whose tool is named and whose arguments have begun is one, whatever the model
makes of it. So its arguments are told as they are written, and need be no JSON.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

from ponder.engines.tools.ends import HEAD
from ponder.engines.tools.form import MORE, Piece

_MARK = re.compile(r'["{}\[\]]')
_STRING = re.compile(r'(?:[^"\\]++|\\.)*+', re.DOTALL)


@dataclass(slots=True)
class Brackets:
    """Finds where the brackets of a JSON object are closed, in text that grows, so that no character is read twice."""

    depth: int = 0
    read: int = 0
    """Characters that were read; what follows may be part of something that is none of the object's."""
    quoted: bool = False
    """What was read ends within a string."""

    def find(self, text: str, begin: int, stop: int) -> int:
        """Where the object that begins at `begin` ends, or `MORE`; nothing behind `stop` is looked at."""
        at = begin + self.read
        while True:
            if self.quoted:
                inside = _STRING.match(text, at, stop)
                at = inside.end() if inside else at
                if at >= stop or text[at] != '"':
                    self.read = at - begin
                    return MORE
                at, self.quoted = at + 1, False
                self.read = at - begin
            found = _MARK.search(text, at, stop)
            if found is None:
                return MORE
            at = found.end()
            self.read = at - begin
            match found[0]:
                case '"':
                    self.quoted = True
                case "{" | "[":
                    self.depth += 1
                case _:
                    self.depth -= 1
                    if self.depth <= 0:
                        return at


def closed(text: str, begin: int, stop: int) -> int:
    """Where the object that begins at `begin` ends, or `MORE` where it does not before `stop`."""
    return Brackets().find(text, begin, stop)


def unclosed(text: str, begin: int, stop: int) -> str:
    """What there is of an object that is not closed: up to `stop`, or where a string is open, to the end of the text,
    as what stands in a string ends nothing."""
    brackets = Brackets()
    brackets.find(text, begin, len(text))
    return text[begin:] if brackets.quoted else text[begin:stop]


@dataclass(frozen=True, slots=True)
class Head:
    """All of a call that stands before its arguments."""

    name: str
    first: int
    """Where the call begins."""
    arguments: int
    """Where the arguments do."""


class Heads(Protocol):
    """A form whose calls have a head, and arguments behind it that are a JSON object."""

    @property
    def nested(self) -> int:
        """Brackets of the call that are open around its arguments."""
        ...

    def next(self, block: str, at: int) -> int:
        """Where the first call begins (`at` is 0), or the one behind a call that ends there."""
        ...

    def head_at(self, block: str, at: int) -> Head | None:
        """That of the call which begins at `at`; None: there is none, or not yet."""
        ...

    def behind(self, block: str, at: int) -> int:
        """Where a call ends whose last bracket is closed at `at`, or `MORE`."""
        ...


@dataclass(slots=True)
class HeadsReader:
    """Reads the calls of one block whose arguments are JSON while they are written; see `Reader`."""

    form: Heads
    _at: int = 0
    """Where the call before has ended, behind the begin of the block."""
    _number: int = 0
    _head: Head | None = None
    _arguments: Brackets | None = None
    """Of the call that is being written; None behind their end."""
    _rest: Brackets = field(default_factory=Brackets)
    _end: int = 0
    """Where the arguments have ended."""
    _lost: bool = False
    """What stands there is not read as it comes."""

    def go(self, text: str, begin: int, stop: int) -> Iterator[Piece]:
        """See `Reader`."""
        block, size = (text, stop) if begin == 0 else (text[begin:stop], stop - begin)
        while not self._lost:
            if self._head is None and not self._begin(block, size):
                return
            if self._head is not None and self._arguments is not None:
                head, told = self._head, self._arguments.read
                self._end = self._arguments.find(block, head.arguments, size)
                new = block[head.arguments + told : head.arguments + self._arguments.read]
                if new:
                    yield Piece(self._number, head.name, new)
                if self._end == MORE:
                    return
                self._arguments, self._rest = None, Brackets(self.form.nested)
            last = self._end if not self.form.nested else self._rest.find(block, self._end, size)
            if last == MORE:
                return
            behind = self.form.behind(block[:size] if len(block) > size else block, last)
            if behind == MORE:
                self._lost = size - last > HEAD
                return
            self._at, self._head = behind, None
            self._number += 1

    def _begin(self, block: str, size: int) -> bool:
        """The next call's arguments have begun."""
        head = self.form.head_at(block, self.form.next(block, self._at))
        if head is None or head.arguments >= size:
            self._lost = size - self._at > HEAD
            return False
        self._head, self._arguments = head, Brackets()
        return True
