"""Calls as elements: one names the tool, one for each argument has its value as plain text. Qwen3-Coder, GLM, DSML.

`<tool_call><function=get_weather><parameter=city>Paris</parameter></function></tool_call>`. Values have no quotes, so
their types come from the tool's schema, and a value may contain what ends a value: it ends one only where an argument
or the end of the call follows.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import Any
from xml.sax.saxutils import escape
from xml.sax.saxutils import unescape as unescaped

from ponder.engines.tools.ends import HEAD
from ponder.engines.tools.form import (
    DECODER,
    MORE,
    Called,
    Ebnf,
    End,
    Found,
    HeldTool,
    InText,
    Piece,
    Reader,
    Tag,
    Types,
    constant,
    dumped,
    one_of,
    pattern,
    separated,
    sequence,
    tag,
)
from ponder.engines.tools.in_text import behind_openers
from ponder.engines.tools.json_calls import JsonCalls
from ponder.engines.tools.named import KINDS, NAME, arguments, kinds, loose_texts, unquoted
from ponder.engines.tools.values import kind_of, plain, typed

_SPACE = re.compile(r"\s*+")
_CDATA = "<![CDATA[", "]]>"


@dataclass(frozen=True)
class Elements:
    """Calls as elements."""

    around: tuple[str, str]
    """Markers around the calls of a block."""
    call: tuple[str, str]
    """How the element of a call begins, `{name}` in the place of the name, and how it ends."""
    name: str
    """A pattern of how it begins, with a group `name`."""
    argument: tuple[str, str]
    """How the element of an argument begins, `{key}` in the place of its name, and how it ends, white space around the
    value included."""
    key: str
    """A pattern of how it begins, with a group `key`, and perhaps `text`: "true" says that the value is a string."""
    begins: str
    """What every argument begins with."""
    closes: str
    """What ends a value, less the white space."""
    pad: str = ""
    """What stands around a value and is not of it."""
    inner: str = ""
    """What stands behind the opening marker and before the closing one."""
    joined: str = ""
    """What stands between two calls of one block."""
    several: bool = True
    """A block has several calls; else each has a block of its own."""
    between: str = ""
    """What stands between two blocks."""
    bare: tuple[tuple[str, str], ...] = ()
    """(begin, end) of calls without the markers around them."""
    said: bool = False
    """An argument says itself whether it is a string; `{text}` stands in its place in `argument`, or `{kind}` where it
    says what of JSON it is, "string", "number" and so on. What it is called is an attribute, and escaped as one."""
    tails: tuple[str, ...] = ()
    either: str = ""

    @cached_property
    def _json(self) -> JsonCalls:
        """Models fall back to JSON between the same markers."""
        return JsonCalls(also=self._ends)

    @cached_property
    def _name(self) -> re.Pattern[str]:
        return re.compile(self.name)

    @cached_property
    def _key(self) -> re.Pattern[str]:
        return re.compile(self.key, re.DOTALL)

    @cached_property
    def _call_close(self) -> str:
        return self.call[1].strip()

    @cached_property
    def _ends(self) -> tuple[tuple[str, str], ...]:
        return (*((self.around,) if self.around[0] else ()), *self.bare)

    @cached_property
    def _of_a_kind(self) -> bool:
        return "{kind}" in self.argument[0]

    @cached_property
    def _followers(self) -> tuple[str, ...]:
        """What follows the end of a value."""
        return tuple(text for text in (self.begins, self._call_close, self.around[1]) if text)

    @property
    def closers(self) -> tuple[str, ...]:
        parts = (self.closes, self._call_close, self.around[1])
        return tuple(filter(None, dict.fromkeys("".join("".join(parts[n:]).split()) for n in range(3))))

    def openers(self, names: Collection[str]) -> tuple[str, ...]:
        return tuple(open for open, _ in self._ends)

    def end(self) -> End:
        return ElementsEnd(self)

    def json_end(self) -> End:
        return self._json.end()

    def close_of(self, text: str, begin: int) -> tuple[str, str]:
        """(what the block that begins there begins with, what ends it)."""
        return next(((o, c) for o, c in self._ends if text.startswith(o, begin)), ("", self.around[1]))

    def follows(self, text: str, at: int) -> bool | None:
        """Behind the end of a value, white space included, stands what follows one; None where the text is too short
        to tell."""
        if any(text.startswith(one, at) for one in self._followers):
            return True
        rest = text[at : at + max(map(len, self._followers))]
        return None if any(one.startswith(rest) for one in self._followers) else False

    def reader(self, types: Types) -> Reader:
        return ElementsReader(self, types)

    def within(self, block: str) -> int:
        """Where the first call of a block begins, or white space before it."""
        return 0 if self._name.match(block) else len(self.close_of(block, 0)[0])

    def call_at(self, block: str, at: int) -> re.Match[str] | None:
        """How a call begins that stands there, with the group `name`."""
        return self._name.match(block, at)

    def argument_at(self, block: str, at: int) -> re.Match[str] | None:
        """How an argument begins that stands there."""
        return self._key.match(block, at) if block.startswith(self.begins, at) else None

    def argument_of(self, text: str, begin: re.Match[str], schema: Mapping[str, Any]) -> tuple[str, Any]:
        """The argument that begins so and has this text."""
        key = begin["key"].strip()
        return unescape(key) if self._of_a_kind else key, self._value(text, begin, schema)

    @property
    def call_close(self) -> str:
        """What ends a call, less the white space."""
        return self._call_close

    def read(self, block: str, types: Types) -> Found:
        open, close = self.close_of(block, 0)
        if block.startswith("{", _at(block, len(open))):
            return self._json.read(block, types)
        at = self.within(block)
        calls: list[Called] = []
        while True:
            first = _at(block, at)
            if first == len(block):
                return Found(tuple(calls), first)
            if calls and close and block.startswith(close, first):
                return Found(tuple(calls), first + len(close))
            head = self._name.match(block, first)
            if head is None:
                return Found(tuple(calls), first)
            schema = types(head["name"])
            values: dict[str, Any] = {}
            last = self._arguments(block, head.end(), schema, values)
            if not block.startswith(self._call_close or close, last):
                if values:
                    calls.append(Called(head["name"], dumped(values), first, last, broken=True))
                return Found(tuple(calls), last if values else first)
            last += len(self._call_close)
            calls.append(Called(head["name"], dumped(values), first, last))
            at = last

    def _arguments(self, block: str, at: int, schema: Mapping[str, Any], values: dict[str, Any]) -> int:
        """Reads the arguments that stand there; where what follows them begins. Of one that stands there twice, the
        first counts."""
        while True:
            at = _at(block, at)
            begin = self.argument_at(block, at)
            if begin is None:
                return at
            end = begin.end()
            while True:
                end = block.find(self.closes, end)
                if end < 0:
                    return at
                behind = _at(block, end + len(self.closes))
                if behind == len(block) or self.follows(block, behind):
                    break
                end += len(self.closes)
            values.setdefault(*self.argument_of(block[begin.end() : end], begin, schema))
            at = behind

    def _value(self, text: str, begin: re.Match[str], schema: Mapping[str, Any]) -> Any:
        if self.pad:
            text = text.removeprefix(self.pad).removesuffix(self.pad)
        if text.startswith(_CDATA[0]) and text.endswith(_CDATA[1]):
            text = text[len(_CDATA[0]) : -len(_CDATA[1])]
        said = begin.groupdict().get("text") if self.said else None
        if said in ("true", "string"):
            return text
        if said:
            try:
                value, end = DECODER.raw_decode(text.strip())
            except (ValueError, RecursionError):
                return text
            return value if end == len(text.strip()) else text
        return typed(text, begin["key"].strip(), schema)

    # -- writing ------------------------------------------------------------------------------------------------------

    def write(self, calls: Sequence[tuple[str, Mapping[str, Any]]]) -> str:
        made = [self._call(name, values, n) for n, (name, values) in enumerate(calls, 1)]
        blocks = [self.joined.join(made)] if self.several else made
        return self.between.join(f"{self.around[0]}{self.inner}{one}{self.inner}{self.around[1]}" for one in blocks)

    def _call(self, name: str, values: Mapping[str, Any], number: int) -> str:
        written = [self._begin(key, kind_of(value)) + plain(value) + self.argument[1] for key, value in values.items()]
        return self.call[0].replace("{n}", str(number)).replace("{name}", name) + "".join(written) + self.call[1]

    def _begin(self, key: str, kind: str) -> str:
        """How an argument begins whose value is of this kind of JSON."""
        if self._of_a_kind:
            key = escape(key, {'"': "&quot;"})
        text = "true" if kind == "string" else "false"
        return self.argument[0].replace("{text}", text).replace("{kind}", kind).replace("{key}", key)

    def _around_key(self, kind: str) -> tuple[str, str]:
        """What stands before and behind the name of an argument of this kind."""
        before, _, behind = self._begin("{key}", kind).partition("{key}")
        return before, behind

    def held(self, tools: Sequence[HeldTool], several: bool, ebnf: Ebnf) -> Tag:
        anything: Tag = {"type": "any_text", "excludes": [self.closes]}
        calls: list[Tag] = []
        for tool in tools:

            def one(key: str, schema: Any, defs: Mapping[str, Any] = tool.defs) -> Tag:
                if self._of_a_kind:
                    ways = [
                        tag(self._begin(key, kind), unquoted(shape, defs, anything, ebnf), self.argument[1])
                        for kind, shape in kinds(schema, defs)
                    ]
                    return one_of(ways)
                value = unquoted(schema, defs, anything, ebnf)
                text = value is anything or value.get("type") != "grammar"
                return tag(self._begin(key, "string" if text else "object"), value, self.argument[1])

            free = one_of(
                [
                    sequence(constant(before), pattern(NAME), tag(behind, anything, self.argument[1]))
                    for before, behind in dict.fromkeys(map(self._around_key, KINDS))
                ]
            )
            begin, numbered, rest = self.call[0].replace("{name}", tool.name).partition("{n}")
            content = arguments(tool, one, free)
            if numbered:
                content = sequence(pattern("[0-9]{1,3}"), constant(rest), content)
            calls.append(tag(begin, content, self.call[1]))
        if self.several:
            inside = separated(calls, self.joined, several)
            return tag(self.around[0] + self.inner, inside, self.inner + self.around[1])
        blocks = [
            tag(self.around[0] + self.inner + call["begin"], call["content"], call["end"] + self.inner + self.around[1])
            for call in calls
        ]
        return separated(blocks, self.between, several)

    def in_text(self, tools: Sequence[HeldTool], several: bool, ebnf: Ebnf) -> InText:
        return behind_openers(self, tools, several, ebnf)

    def loose(self, tool: HeldTool) -> Sequence[str] | None:
        return loose_texts(tool)


def unescape(text: str) -> str:
    return unescaped(text, {"&quot;": '"'})


def _at(text: str, at: int) -> int:
    """Behind the white space that stands there."""
    found = _SPACE.match(text, at)
    return found.end() if found else at


@cache
def _either(*texts: str) -> re.Pattern[str]:
    return re.compile("|".join(map(re.escape, texts)))


@dataclass(slots=True)
class ElementsEnd:
    """Finds the end of one block."""

    form: Elements
    _read: int = 0
    _close: str | None = None
    _json: End | None = None
    _begun: bool = False
    _inside: bool = False
    """Within an argument."""
    _closed: bool = False
    """What may be the end of its value was read, and the white space behind it."""

    def find(self, text: str, begin: int) -> int:
        """Where the block ends, or `MORE`; see `End`."""
        form = self.form
        if self._close is None:
            open, self._close = form.close_of(text, begin)
            self._read = len(open)
        at = begin + self._read
        if not self._begun:
            at = _at(text, at)
            self._read, self._begun = at - begin, at < len(text)
            if text.startswith("{", at):
                self._json = form.json_end()
        if self._json is not None:
            return self._json.find(text, begin)
        while True:
            if self._closed:
                at = _at(text, at)
                follows = form.follows(text, at)
                if follows is None:
                    self._read = at - begin
                    return MORE
                self._closed, self._inside = False, not follows
            if self._inside:
                end = text.find(form.closes, at)
                if end < 0:
                    self._read = max(at, len(text) - len(form.closes) + 1) - begin
                    return MORE
                at, self._closed = end + len(form.closes), True
                continue
            found = _either(form.begins, self._close).search(text, at)
            if found is None:
                longest = max(len(form.begins), len(self._close))
                self._read = max(at, len(text) - longest + 1) - begin
                return MORE
            if found[0] == self._close:
                return found.end()
            at, self._inside = found.end(), True


@dataclass(slots=True)
class ElementsReader:
    """Reads the calls of one block while they are written, a value at a time; see `Reader`."""

    form: Elements
    types: Types
    _at: int = -1
    """Behind the last that was read, from the begin of the block; before the first call -1."""
    _number: int = 0
    _name: str = ""
    """Of the call whose arguments are read; empty between two."""
    _schema: Mapping[str, Any] = field(default_factory=dict[str, Any])
    _keys: set[str] = field(default_factory=set[str])
    _key: re.Match[str] | None = None
    """The argument whose value is read."""
    _read: int = 0
    """Where an end of the value is looked for."""
    _ended: bool = False
    """What ends the call was read."""
    _lost: bool = False

    def go(self, text: str, begin: int, stop: int) -> Iterator[Piece]:
        """See `Reader`."""
        block = text if begin == 0 and stop == len(text) else text[begin:stop]
        while not self._lost:
            if not self._name and not self._begin(block):
                return
            if self._key is None and not self._argument(block):
                if not self._ended:
                    return
                yield Piece(self._number, self._name, "}" if self._keys else "{}")
                self._number, self._name, self._ended = self._number + 1, "", False
                continue
            if self._key is None or (end := self._end(block, self._key)) < 0:
                return
            key, value = self.form.argument_of(block[self._key.end() : end], self._key, self._schema)
            self._at, self._key = end + len(self.form.closes), None
            if key not in self._keys:
                lead = ", " if self._keys else "{"
                self._keys.add(key)
                yield Piece(self._number, self._name, f"{lead}{dumped(key)}: {dumped(value)}")

    def _begin(self, block: str) -> bool:
        """A call has begun, its name and what follows that."""
        form = self.form
        head = form.call_at(block, _at(block, form.within(block) if self._at < 0 else self._at))
        behind = _at(block, head.end()) if head is not None else 0
        follows = (form.begins, *filter(None, (form.call_close,)))
        if head is None or not block.startswith(follows, behind):
            self._lost = len(block) - max(0, self._at) > HEAD
            return False
        self._name, self._at = head["name"], head.end()
        self._schema, self._keys = self.types(self._name), set()
        return True

    def _argument(self, block: str) -> bool:
        """An argument has begun; else the call may have `_ended`."""
        at, close = _at(block, self._at), self.form.call_close
        self._key = self.form.argument_at(block, at)
        if self._key is not None:
            self._read = self._key.end()
            return True
        if close and block.startswith(close, at):
            self._at, self._ended = at + len(close), True
        else:
            self._lost = len(block) - self._at > HEAD
        return False

    def _end(self, block: str, begin: re.Match[str]) -> int:
        """Where the value ends, or -1 where that is not known yet."""
        closes = self.form.closes
        while True:
            end = block.find(closes, self._read)
            if end < 0:
                self._read = max(begin.end(), len(block) - len(closes) + 1)
                return -1
            follows = self.form.follows(block, _at(block, end + len(closes)))
            if follows is None:
                self._read = end
                self._lost = len(block) - end > HEAD
                return -1
            if follows:
                return end
            self._read = end + len(closes)
