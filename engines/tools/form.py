"""What every format of tool calls can do: say how calls begin, find their end, read them, write them, hold them.

A block is one call, or several that the family writes between common markers. A form reads blocks and has no state;
what looks for the end of a block in text that still grows is made anew for each.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from sys import float_info
from typing import Any, Protocol

MORE, NOT_A_CALL = -1, -2
"""Of `End`: the end has not come yet · what begins so is no call."""

Types = Callable[[str], Mapping[str, Any]]
"""The JSON schema of a tool's arguments by the tool's name; an empty one where it is not known."""

Ebnf = Callable[[Any, tuple[str, str]], str]
"""A grammar of JSON documents of a schema that was rewritten to be held, written with (comma, colon)."""

Tag = dict[str, Any]
"""A part of a structural tag of xgrammar."""


@dataclass(frozen=True, slots=True)
class Called:
    """A call as a model wrote it."""

    name: str
    arguments: str
    """JSON text."""
    first: int
    last: int
    """Its characters in the block: from `first` to `last`, exclusive."""
    broken: bool = False
    """It cannot be read: it is none, where nobody was told that it has begun; else its arguments are as they stand."""


@dataclass(frozen=True, slots=True)
class Found:
    """The calls of a block, in order, and where reading it stopped: behind the last of them, at the latest."""

    calls: tuple[Called, ...] = ()
    rest: int = 0


@dataclass(frozen=True, slots=True)
class HeldTool:
    """A tool as a grammar holds it: its name, and the schema of its arguments, rewritten so that it can be held."""

    name: str
    arguments: Any
    defs: Mapping[str, Any]
    """What `$ref` within it points at, by the last part of the pointer."""


@dataclass(frozen=True, slots=True)
class InText:
    """How calls stand in a text."""

    rules: Sequence[tuple[str, Tag]]
    """(what begins a call, what has to follow it)."""
    excluded: Sequence[str] = ()
    """What the text may not have."""

    def tag(self, several: bool) -> Tag:
        """The text, with any number of calls in it, or with one at most, which ends it."""
        triggers = [trigger for trigger, _ in self.rules]
        # What contains a trigger is never come to, and what a trigger contains has to be allowed.
        excluded = [one for one in self.excluded if not any(one in begin or begin in one for begin in triggers)]
        return {
            "type": "dispatch",
            "rules": [[trigger, rest] for trigger, rest in self.rules],
            "loop": several,
            "excludes": excluded,
        }


class End(Protocol):
    """Looks for the end of one block in text that grows, so that no character is read twice."""

    def find(self, text: str, begin: int) -> int:
        """Where the block that begins at `begin` ends, or `MORE`, or `NOT_A_CALL`. Each time it is asked, the block has
        the same characters as before and may have more."""
        ...


@dataclass(frozen=True, slots=True)
class Piece:
    """New text of the arguments of a call that is being written."""

    number: int
    """Of the call in its block, from 0, as `Form.read` will list it."""
    name: str
    text: str
    """Behind the pieces before it, part of what `Form.read` will say of the arguments."""


class Reader(Protocol):
    """Reads the calls of one block that grows, so that no character is read twice."""

    def go(self, text: str, begin: int, stop: int) -> Iterator[Piece]:
        """What is new of the arguments of calls in the block that begins at `begin`, as far as it is certain; nothing
        behind `stop` is part of the block. Each time it is asked, the block has the same characters as before and may
        have more. What it does not tell, at the end of a call or of them all, is read with the whole block."""
        ...


class Form(Protocol):
    """One way to write calls."""

    @property
    def closers(self) -> tuple[str, ...]:
        """What may stand behind the last argument of a block, without white space; for blocks that were cut."""
        ...

    @property
    def tails(self) -> tuple[str, ...]:
        """What may follow a block and means nothing."""
        ...

    @property
    def either(self) -> str:
        """What calls have to begin with where a document may stand in their place; empty where no document begins as
        they do."""
        ...

    def openers(self, names: Collection[str]) -> tuple[str, ...]:
        """What a block begins with where tools of these names are offered; without names, what begins one for
        certain."""
        ...

    def end(self) -> End:
        """What finds the end of one block."""
        ...

    def reader(self, types: Types) -> Reader | None:
        """What reads one block while it is written; None where arguments are read as a whole."""
        ...

    def read(self, block: str, types: Types) -> Found:
        """The calls of a block, which may lack its end or its beginning."""
        ...

    def write(self, calls: Sequence[tuple[str, Mapping[str, Any]]]) -> str:
        """Calls, (name, arguments), as a model of the family writes them."""
        ...

    def held(self, tools: Sequence[HeldTool], several: bool, ebnf: Ebnf) -> Tag:
        """What an answer has to be that is calls of these tools: one, or with `several` one at least."""
        ...

    def in_text(self, tools: Sequence[HeldTool], several: bool, ebnf: Ebnf) -> InText:
        """The same of calls that may begin anywhere in a text."""
        ...

    def loose(self, tool: HeldTool) -> Sequence[str] | None:
        """Where in the tool's schema something is said that the form cannot hold; None: it holds all."""
        ...


STRINGS = ("pattern", "format", "minLength", "maxLength")
"""What a schema says of a text beside its type."""


def _refuse(word: str) -> Any:
    raise ValueError(f"{word} is not JSON")


def finite(text: str) -> float:
    """A number; one that is too large becomes the largest, as JSON has no infinity."""
    return max(-float_info.max, min(float_info.max, float(text)))


DECODER = json.JSONDecoder(parse_constant=_refuse, parse_float=finite)
"""Of JSON, which has neither `NaN` nor `Infinity`."""


def readable(text: str) -> bool:
    """It is a JSON value."""
    try:
        _, end = DECODER.raw_decode(text)
    except (ValueError, RecursionError):
        return False
    return end == len(text)


def dumped(value: Any) -> str:
    """JSON as chat templates write it."""
    return json.dumps(value, ensure_ascii=False)


def grammar(text: str) -> Tag:
    return {"type": "grammar", "grammar": text}


def constant(text: str) -> Tag:
    return {"type": "const_string", "value": text}


def sequence(*parts: Tag) -> Tag:
    return parts[0] if len(parts) == 1 else {"type": "sequence", "elements": list(parts)}


def one_of(parts: Sequence[Tag]) -> Tag:
    return parts[0] if len(parts) == 1 else {"type": "or", "elements": list(parts)}


def separated(tags: Sequence[Tag], separator: str, several: bool) -> Tag:
    """One of these tags, or with `several` any number from one on."""
    return {
        "type": "tags_with_separator",
        "tags": list(tags),
        "separator": separator,
        "at_least_one": True,
        "stop_after_first": not several,
    }


def optional(part: Tag) -> Tag:
    return {"type": "optional", "content": part}


def any_number(part: Tag) -> Tag:
    return {"type": "star", "content": part}


def pattern(text: str) -> Tag:
    return {"type": "regex", "pattern": text}


def tag(begin: str, content: Tag, end: str) -> Tag:
    return {"type": "tag", "begin": begin, "content": content, "end": end}
