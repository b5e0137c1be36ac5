"""Calls as JSON objects or lists of them, between markers or bare: Hermes and its kin.

`<tool_call>{"name": ..., "arguments": {...}}</tool_call>`, `<TOOLCALL>[{...}, {...}]</TOOLCALL>`, `functools[{...}]`,
and for Llama 3 the bare object, whose arguments it calls parameters.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

from ponder.engines.tools.arguments import Head, HeadsReader, closed, unclosed
from ponder.engines.tools.ends import HEAD, Ending
from ponder.engines.tools.form import (
    DECODER,
    MORE,
    Called,
    Ebnf,
    End,
    Found,
    HeldTool,
    InText,
    Reader,
    Tag,
    Types,
    any_number,
    constant,
    dumped,
    grammar,
    one_of,
    pattern,
    separated,
    sequence,
    tag,
)

_BETWEEN = re.compile(r"[\s,;]*+")
_SPACE = re.compile(r"\s*+")
_KEYS = ("arguments", "parameters")
_NONE: dict[str, Any] = {}


@dataclass(frozen=True)
class JsonCalls:
    """JSON between two markers, or without a closing one, or bare."""

    open: str = ""
    close: str = ""
    inner: str = ""
    """White space between marker and JSON, as the family writes it."""
    listed: bool = False
    """The calls of a block are the items of one list."""
    tight: bool = False
    """Only with the list's bracket right behind it is the marker one."""
    joined: str = ""
    """Where a block has several calls and is no list: what stands between two."""
    between: str = "\n"
    """What stands between two blocks."""
    arguments: str = "arguments"
    """What the object calls the arguments."""
    named: str = "name"
    """What the object calls the tool."""
    first: str = ""
    """A field the object has before the name: the number of the call, from 0, as text."""
    keyed: bool = False
    """The name of the tool is the key and the arguments are the value: `{"get_weather": {...}}`."""
    extra: str = ""
    """A field the object has behind the arguments, a text that may be anything."""
    also: tuple[tuple[str, str], ...] = ()
    """Other (opening, closing) markers that mean the same."""
    either: str = ""
    """What a bare call has to begin with where a document may stand in its place."""
    bare: bool = False
    """It is also written without the markers."""
    tails: tuple[str, ...] = ()

    @cached_property
    def _marks(self) -> tuple[tuple[str, str], ...]:
        return ((self.open, self.close), *self.also) if self.open else self.also

    @cached_property
    def _ending(self) -> Ending:
        return Ending(self._marks, head=0 if self.close else HEAD)

    @property
    def closers(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(f"{end}{close}" for _, close in self._marks for end in ("", "]") if end or close))

    def openers(self, names: Collection[str]) -> tuple[str, ...]:
        marks = tuple(f"{open}[" if self.tight else open for open, _ in self._marks)
        if not names or not (self.bare or not self.open):
            return marks
        if self.listed and not self.open:
            return (*marks, *(f"[{space}{one}" for space in _SPACES for one in _BARE))
        return (*marks, *_BARE)

    def end(self) -> End:
        return self._ending()

    @cached_property
    def _head(self) -> re.Pattern[str]:
        """A call in the order in which models write its fields, as far as to its arguments."""
        if self.keyed:
            return re.compile(r'\{\s*+"(?P<name>(?!function")[^"\\]++)"\s*+:\s*+(?=\{)')
        field = r'"{}"\s*+:\s*+"[^"\\]*+"\s*+,\s*+'
        before = "".join(f"(?:{field.format(re.escape(name))})?" for name in ("type", self.first) if name)
        named, keys = re.escape(self.named), "|".join(map(re.escape, dict.fromkeys((self.arguments, *_KEYS))))
        name = rf'"{named}"\s*+:\s*+"(?P<name>[^"\\]++)"\s*+,\s*+"(?:{keys})"\s*+:\s*+(?=\{{)'
        return re.compile(rf"\{{\s*+{before}{name}")

    def reader(self, types: Types) -> Reader:
        return HeadsReader(self)

    @property
    def nested(self) -> int:
        return 1

    def next(self, block: str, at: int) -> int:
        if at == 0:
            at = _at(_SPACE, block, len(self._begun(block)[0]))
            at += block.startswith("[", at)
        return _at(_BETWEEN, block, at)

    def head_at(self, block: str, at: int) -> Head | None:
        found = self._head.match(block, at)
        return None if found is None else Head(found["name"], at, found.end())

    def behind(self, block: str, at: int) -> int:
        return at

    def _begun(self, block: str) -> tuple[str, str]:
        """What the block begins with, and what ends it."""
        return next(((o, c) for o, c in self._marks if block.startswith(o)), ("", ""))

    def read(self, block: str, types: Types) -> Found:
        open, close = self._begun(block)
        stop = len(block) - len(close) if close and block.endswith(close) else len(block)
        at = _at(_SPACE, block, len(open))
        if block.startswith("[", at):
            at += 1
        calls: list[Called] = []
        while True:
            first = _at(_BETWEEN, block, at)
            if block.startswith("]", first) and at > len(open):
                first = _at(_SPACE, block, first + 1)
                at = first
            if first >= stop:
                return Found(tuple(calls), len(block))
            try:
                value, at = DECODER.raw_decode(block, first)
            except (ValueError, RecursionError):
                at = len(block) + 1
                value = None
            head = self.head_at(block, first)
            if head is not None and at <= stop:
                calls.append(Called(head.name, block[head.arguments : closed(block, head.arguments, at)], first, at))
                continue
            if head is not None:
                called, at = self._broken(block, head, stop)
                calls.append(called)
                continue
            if at > stop or (made := list(self._calls(value, first, at))) == []:
                return Found(tuple(calls), first)
            calls.extend(made)

    def _broken(self, block: str, head: Head, stop: int) -> tuple[Called, int]:
        """A call that has begun and cannot be read, and where the next may begin."""
        end = closed(block, head.arguments, stop)
        if end == MORE:
            arguments = unclosed(block, head.arguments, stop)
            return Called(head.name, arguments, head.first, len(block), broken=True), len(block)
        last = max(end, closed(block, head.first, stop))
        return Called(head.name, block[head.arguments : end], head.first, last, broken=True), last

    def _calls(self, value: Any, first: int, last: int) -> Iterator[Called]:
        if isinstance(value, list):
            for item in cast("list[Any]", value):
                yield from self._calls(item, first, last)
            return
        if not isinstance(value, dict):
            return
        value = cast("dict[str, Any]", value)
        if isinstance(value.get("function"), dict):
            value = cast("dict[str, Any]", value["function"])
        if self.keyed and len(value) == 1 and isinstance(next(iter(value.values())), dict):
            name, arguments = next(iter(value.items()))
        else:
            name = value.get(self.named)
            arguments = next((value[key] for key in (self.arguments, *_KEYS) if key in value), _NONE)
        if isinstance(name, str):
            yield Called(name, arguments if isinstance(arguments, str) else dumped(arguments), first, last)

    # -- writing ------------------------------------------------------------------------------------------------------

    def write(self, calls: Sequence[tuple[str, Mapping[str, Any]]]) -> str:
        objects = [
            dumped(
                {name: arguments}
                if self.keyed
                else ({self.first: str(n)} if self.first else {})
                | {self.named: name, self.arguments: arguments}
                | ({self.extra: f"{n:09}"} if self.extra else {})
            )
            for n, (name, arguments) in enumerate(calls)
        ]
        if self.listed:
            objects = ["[" + ", ".join(objects) + "]"]
        elif self.joined:
            objects = [self.joined.join(objects)]
        return self.between.join(f"{self.open}{self.inner}{one}{self.inner}{self.close}" for one in objects)

    def _shape(self, tool: HeldTool) -> dict[str, Any]:
        """A call as JSON."""
        if self.keyed:
            return _object({tool.name: tool.arguments})
        return _object(
            ({self.first: {"type": "string", "pattern": "^[0-9]{1,3}$"}} if self.first else {})
            | {self.named: {"const": tool.name}, self.arguments: tool.arguments}
            | ({self.extra: {"type": "string", "pattern": "^[A-Za-z0-9]{9}$"}} if self.extra else {})
        )

    def held(self, tools: Sequence[HeldTool], several: bool, ebnf: Ebnf) -> Tag:
        content = self._content({"anyOf": [self._shape(tool) for tool in tools]}, several, ebnf)
        if self.joined:
            inside = separated([tag("", content, "")], self.joined, several)
            return tag(self.open + self.inner, inside, self.inner + self.close)
        one = tag(self.open + self.inner, content, self.inner + self.close)
        return separated([one], self.between, several and not self.listed)

    def _content(self, shape: dict[str, Any], several: bool, ebnf: Ebnf) -> Tag:
        """A call of this shape, as what stands for it in a block: in a list, where the form has lists."""
        if self.listed:
            most = {} if several else {"maxItems": 1}
            shape = {"type": "array", "items": shape, "minItems": 1, **most}
        return grammar(ebnf(shape, (", ", ": ")))

    def in_text(self, tools: Sequence[HeldTool], several: bool, ebnf: Ebnf) -> InText:
        shape = {"anyOf": [self._shape(tool) for tool in tools]}
        one = grammar(ebnf(shape, (", ", ": ")))
        block = self._content(shape, several, ebnf) if self.listed else one
        if self.joined and not self.listed:
            block = separated([tag("", one, "")], self.joined, several)
        rules: list[tuple[str, Tag]] = []
        for open, close in self._marks:
            if self.tight:
                rest = sequence(one, any_number(sequence(constant(", "), one))) if several else one
                rules.append((f"{open}[", sequence(rest, constant(f"]{close}"))))
            else:
                rules.append((open, sequence(constant(self.inner), block, constant(self.inner + close))))
        names = [tool.name for tool in tools]
        bare = [opener for opener in self.openers(names) if opener.endswith('"')]
        begun = [opener for opener in bare if opener.lstrip("[ \n").removeprefix("{").lstrip() == '"name"']
        if begun:
            calls = [
                sequence(
                    constant(f': "{tool.name}", "{self.arguments}": '),
                    grammar(ebnf(tool.arguments, (", ", ": "))),
                    constant("}"),
                )
                for tool in tools
            ]
            rest = one_of(calls)
            if self.listed and not self.open:
                more = [any_number(sequence(constant(", "), one))] if several else []
                rest = sequence(rest, *more, constant("]"))
            # What has another name, or none, is no call.
            other = pattern(rf'\s{{0,4}}:\s{{0,4}}("{_other_than(names)}|[^"\s])')
            rules += [(opener, one_of([rest, other])) for opener in begun]
        return InText(rules, [opener for opener in bare if opener not in begun])

    def loose(self, tool: HeldTool) -> None:
        return None


def _other_than(words: Sequence[str]) -> str:
    """A pattern of the rest of a JSON string, without escapes, that is none of these words."""
    firsts: dict[str, list[str]] = {}
    for word in words:
        firsts.setdefault(word[:1], []).append(word[1:])
    ends = "" if "" in firsts else '"|'
    firsts.pop("", None)
    others = "".join(re.escape(first) if first in "-]^" else first for first in firsts)
    ways = [f'[^{others}"\\\\][^"\\\\]*"']
    ways += [f"{re.escape(first)}{_other_than(rests)}" for first, rests in firsts.items()]
    return f"({ends}{'|'.join(ways)})"


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def _at(pattern: re.Pattern[str], text: str, at: int) -> int:
    found = pattern.match(text, at)
    return found.end() if found else at


_SPACES = ("", " ", "\n", "\n  ", "\n    ")
_BARE = tuple(
    f"{{{space}{kind}{key}"
    for space in _SPACES
    for kind, key in (
        ("", '"name"'),
        ("", '"function"'),
        ('"type": "function",' + (space or " "), '"name"'),
        ('"type": "function",' + (space or " "), '"function"'),
    )
)
"""What a bare call begins with."""
