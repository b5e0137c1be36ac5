"""Calls as Python writes them, `[get_weather(city="Paris")]`, and in braces, as Gemma 4 does."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

from ponder.engines.tools.ends import HEAD, Ending
from ponder.engines.tools.form import (
    Called,
    Ebnf,
    End,
    Found,
    HeldTool,
    InText,
    Tag,
    Types,
    constant,
    dumped,
    grammar,
    one_of,
    pattern,
    separated,
    sequence,
    tag,
)
from ponder.engines.tools.in_text import behind_openers
from ponder.engines.tools.literals import Literals, NoValue, comma, space
from ponder.engines.tools.named import NAME, alternatives, arguments, listed, loose_arguments, loose_texts

_NAME = re.compile(r"(?:print\(\s*)?(?P<name>[^\W\d][\w.-]*+)\s*\(")
_KEYWORD = re.compile(r"([^\s=,()\[\]{}'\"]++)\s*=")
_PYTHON = Literals()
_BETWEEN = re.compile(r"[\s,;]*+")
_WORD = re.compile(r'(?<!\\)"(true|false|null)"')
"""A word of JSON in a grammar, where it is no part of a longer text."""
_NAMED = {"true": "True", "false": "False", "null": "None"}


@dataclass(frozen=True)
class PythonCalls:
    """Calls of Python, in a list or one to a line, between markers or bare."""

    open: str = ""
    close: str = ""
    inner: str = ""
    """White space between marker and calls."""
    listed: bool = True
    also: tuple[tuple[str, str], ...] = ()
    """Other (opening, closing) markers that mean the same."""
    tails: tuple[str, ...] = ()
    either: str = ""

    @cached_property
    def _marks(self) -> tuple[tuple[str, str], ...]:
        return ((self.open, self.close), *self.also) if self.open else self.also

    @cached_property
    def _ending(self) -> Ending:
        return Ending(self._marks, begins="[(", quotes=('"', "'"), head=0 if self.close else HEAD)

    @property
    def closers(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(f"{end}{close}" for _, close in self._marks for end in ("", "]") if end or close))

    def openers(self, names: Collection[str]) -> tuple[str, ...]:
        marks = tuple(open for open, _ in self._marks)
        return marks if self.open else (*marks, *(f"[{name}(" for name in names))

    def end(self) -> End:
        return self._ending()

    def reader(self, types: Types) -> None:
        return None

    def read(self, block: str, types: Types) -> Found:
        open, close = next(((o, c) for o, c in self._marks if block.startswith(o)), ("", ""))
        stop = len(block) - len(close) if close and block.endswith(close) else len(block)
        at = space(block, len(open))
        listed = block.startswith("[", at)
        at += listed
        calls: list[Called] = []
        while True:
            between = _BETWEEN.match(block, at)
            first = between.end() if between else at
            if listed and block.startswith("]", first):
                listed, first = False, space(block, first + 1)
            if first >= stop:
                return Found(tuple(calls), len(block))
            try:
                called = _python_call(block, first)
            except NoValue:
                return Found(tuple(calls), first)
            if called.last > stop:
                return Found(tuple(calls), first)
            calls.append(called)
            at = called.last

    # -- writing ------------------------------------------------------------------------------------------------------

    def write(self, calls: Sequence[tuple[str, Mapping[str, Any]]]) -> str:
        made = [f"{name}({', '.join(f'{k}={_python(v)}' for k, v in values.items())})" for name, values in calls]
        text = "[" + ", ".join(made) + "]" if self.listed else "\n".join(made)
        return f"{self.open}{self.inner}{text}{self.inner}{self.close}"

    def held(self, tools: Sequence[HeldTool], several: bool, ebnf: Ebnf) -> Tag:
        def value(schema: Any) -> Tag:
            # JSON with Python's words; within the values of an `enum` they stay JSON's, which are read as well.
            return grammar(_WORD.sub(lambda found: f'"{_NAMED[found[1]]}"', ebnf(schema, (", ", ": "))))

        def one(key: str, schema: Any) -> Tag:
            return sequence(constant(f"{key}="), value(schema))

        anything = value({})
        calls: list[Tag] = []
        for tool in tools:
            free = sequence(pattern("[A-Za-z_][A-Za-z0-9_]{0,63}"), constant("="), anything)
            calls.append(tag(f"{tool.name}(", arguments(tool, one, free, ", "), ")"))
        begin, end, joined = ("[", "]", ", ") if self.listed else ("", "", "\n")
        inside = separated(calls, joined, several)
        return tag(f"{self.open}{self.inner}{begin}", inside, f"{end}{self.inner}{self.close}")

    def in_text(self, tools: Sequence[HeldTool], several: bool, ebnf: Ebnf) -> InText:
        return behind_openers(self, tools, several, ebnf)

    def loose(self, tool: HeldTool) -> Sequence[str] | None:
        return loose_arguments(tool)


def _python_call(text: str, first: int) -> Called:
    """The call that stands there. Raises `NoValue`."""
    begin = _NAME.match(text, first)
    if begin is None:
        raise NoValue
    values: dict[str, Any] = {}
    at = space(text, begin.end())
    while not text.startswith(")", at):
        keyword = _KEYWORD.match(text, at)
        if keyword is None:
            raise NoValue
        values[keyword[1]], at = _PYTHON.value(text, keyword.end())
        at = comma(text, at, ")")
    at += 1
    if begin[0].startswith("print("):
        at = space(text, at)
        if not text.startswith(")", at):
            raise NoValue
        at += 1
    return Called(begin["name"], dumped(values), first, at)


def _python(value: Any) -> str:
    """A value as Python writes it, its strings as JSON does."""
    match value:
        case bool() | None:
            return str(value)
        case str():
            return json.dumps(value, ensure_ascii=False)
        case dict():
            return (
                "{" + ", ".join(f"{_python(k)}: {_python(v)}" for k, v in cast("dict[str, Any]", value).items()) + "}"
            )
        case list():
            return "[" + ", ".join(map(_python, cast("list[Any]", value))) + "]"
        case _:
            return dumped(value)


@dataclass(frozen=True)
class BracedCalls:
    """Name and arguments in braces, keys without quotes, strings between tokens of their own."""

    open: str
    close: str
    quote: str
    tails: tuple[str, ...] = ()
    either: str = ""

    @cached_property
    def _ending(self) -> Ending:
        return Ending(((self.open, self.close),), begins="{", quotes=(self.quote,))

    @cached_property
    def _literals(self) -> Literals:
        return Literals(self.quote, loose=True)

    @cached_property
    def _head(self) -> re.Pattern[str]:
        return re.compile(re.escape(self.open) + r"\s*call:(?P<name>[^\s{}]++)\s*(?={)")

    @property
    def closers(self) -> tuple[str, ...]:
        return (self.close,)

    def openers(self, names: Collection[str]) -> tuple[str, ...]:
        return (self.open,)

    def end(self) -> End:
        return self._ending()

    def reader(self, types: Types) -> None:
        return None

    def read(self, block: str, types: Types) -> Found:
        begin = self._head.match(block)
        if begin is None:
            return Found()
        try:
            values, last = self._literals.value(block, begin.end())
        except NoValue:
            return Found()
        end = space(block, last)
        end += len(self.close) if block.startswith(self.close, end) else 0
        return Found((Called(begin["name"], dumped(values), 0, end),), end)

    # -- writing ------------------------------------------------------------------------------------------------------

    def write(self, calls: Sequence[tuple[str, Mapping[str, Any]]]) -> str:
        return "".join(f"{self.open}call:{name}{self._written(dict(values))}{self.close}" for name, values in calls)

    def _written(self, value: Any) -> str:
        match value:
            case str():
                return f"{self.quote}{value}{self.quote}"
            case dict():
                inside = (f"{k}:{self._written(v)}" for k, v in cast("dict[str, Any]", value).items())
                return "{" + ",".join(inside) + "}"
            case list():
                return "[" + ",".join(map(self._written, cast("list[Any]", value))) + "]"
            case _:
                return dumped(value)

    def held(self, tools: Sequence[HeldTool], several: bool, ebnf: Ebnf) -> Tag:
        calls = [
            tag(f"{self.open}call:{tool.name}{{", self._members(tool, ebnf, _HELD), f"}}{self.close}") for tool in tools
        ]
        return separated(calls, "", several)

    def in_text(self, tools: Sequence[HeldTool], several: bool, ebnf: Ebnf) -> InText:
        return behind_openers(self, tools, several, ebnf)

    def loose(self, tool: HeldTool) -> Sequence[str] | None:
        return loose_texts(tool, deep=_HELD)

    @cached_property
    def _string(self) -> Tag:
        return tag(self.quote, {"type": "any_text", "excludes": [self.quote]}, self.quote)

    @cached_property
    def _anything(self) -> Tag:
        """Any list or object."""
        return grammar(_BRACED.replace("QUOTE", json.dumps(self.quote)))

    def _members(self, tool: HeldTool, ebnf: Ebnf, deep: int) -> Tag:
        """What stands between the braces of an object, whose values are held so deep."""

        def one(key: str, schema: Any) -> Tag:
            return sequence(constant(f"{key}:"), self._value(schema, tool.defs, ebnf, deep))

        free = sequence(pattern(NAME), constant(":"), one_of([self._string, self._anything]))
        return arguments(tool, one, free, ",")

    def _value(self, schema: Any, defs: Mapping[str, Any], ebnf: Ebnf, deep: int) -> Tag:
        """A value of the schema; what is deeper may be any list or object."""
        string, anything = self._string, self._anything
        if deep < 1:
            return one_of([string, anything, grammar(ebnf({"type": ["number", "boolean", "null"]}, _COMMAS))])
        parts: list[Tag] = []
        for kind in alternatives(schema, defs):
            types = kind.get("type", ["string", "number", "boolean", "null", "array"])
            types = cast("list[str]", types) if isinstance(types, list) else [types]
            if "enum" in kind:
                parts += [constant(self._written(value)) for value in kind["enum"]]
                continue
            parts += [string] if "string" in types else []
            if "array" in types and "items" in kind:
                item = self._value(kind["items"], defs, ebnf, deep - 1)
                items = listed(item, kind.get("minItems", 0), kind.get("maxItems"), ",")
                parts.append(tag("[", items, "]"))
            elif "object" in types and "properties" in kind:
                parts.append(tag("{", self._members(HeldTool("", kind, defs), ebnf, deep - 1), "}"))
            elif "array" in types or "object" in types:
                parts.append(anything)
            plain = [word for word in types if word not in ("string", "array", "object")]
            parts += [
                grammar(ebnf({**kind, "type": word} if "type" in kind else {"type": word}, _COMMAS)) for word in plain
            ]
        return one_of(parts)


_HELD = 6
"""Lists and objects within one another that are held."""

_COMMAS = ", ", ": "

_BRACED = r"""
root ::= object | list
value ::= string | number | object | list | "true" | "false" | "null"
string ::= QUOTE [^<]* QUOTE
number ::= "-"? [0-9]{1,15} ("." [0-9]{1,15})?
object ::= "{" (key ":" value ("," key ":" value)*)? "}"
list ::= "[" (value ("," value)*)? "]"
key ::= [A-Za-z_] [A-Za-z0-9_]{0,63}
"""
