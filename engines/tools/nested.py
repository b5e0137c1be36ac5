"""Calls as elements named after the arguments, which nest as the values do, a mark before each of them: MiniMax-M3.

`]<]minimax[>[<invoke name="get_weather">]<]minimax[>[<city>Paris]<]minimax[>[</city>]<]minimax[>[</invoke>`. An object
has an element for each of its values, a list an element `item` for each; what has no elements is text, whose type comes
from the tool's schema.
"""

from __future__ import annotations

import re
import string
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

from ponder.engines.tools.ends import Ending
from ponder.engines.tools.form import (
    Called,
    Ebnf,
    End,
    Found,
    HeldTool,
    InText,
    Tag,
    Types,
    any_number,
    constant,
    dumped,
    one_of,
    pattern,
    separated,
    sequence,
    tag,
)
from ponder.engines.tools.in_text import behind_openers
from ponder.engines.tools.named import NAME, alternatives, arguments, listed, loose_texts, unquoted
from ponder.engines.tools.values import plain, shapes, typed

_SPACE = re.compile(r"\s*+")
_DEEP = 64
"""Elements within one another that are read."""
_HELD = 6
"""The same of a grammar; what is deeper may be any text."""
_FREE = 3
"""The same of elements of which the schema says nothing."""
_ANY: dict[str, Any] = {}


@dataclass(frozen=True)
class NestedCalls:
    """Calls as elements that nest."""

    mark: str
    """What stands before each element's begin and its end."""
    around: str = "tool_call"
    """The element around the calls of one answer."""
    item: str = "item"
    """The element of a value in a list."""
    tails: tuple[str, ...] = ()
    either: str = ""

    @cached_property
    def _open(self) -> str:
        return f"{self.mark}<{self.around}>"

    @cached_property
    def _close(self) -> str:
        return f"{self.mark}</{self.around}>"

    @cached_property
    def _behind(self) -> str:
        """What ends a call."""
        return f"{self.mark}</invoke>"

    @cached_property
    def _name(self) -> re.Pattern[str]:
        return re.compile(re.escape(self.mark) + r"<invoke\s+name=[\"']?(?P<name>[^\"'>]+)[\"']?\s*>")

    @cached_property
    def _begin(self) -> re.Pattern[str]:
        return re.compile(re.escape(self.mark) + r"<(?P<key>[^/>][^>]*)>")

    @cached_property
    def _end(self) -> re.Pattern[str]:
        """What ends an element. Its name is not looked at: a grammar cannot hold it to that of the begin."""
        return re.compile(rf"{re.escape(self.mark)}</(?!(?:invoke|{re.escape(self.around)})>)[^>]*>")

    @cached_property
    def _ending(self) -> Ending:
        return Ending(((self._open, self._close),), begins="", quotes=())

    @property
    def closers(self) -> tuple[str, ...]:
        return f"{self._behind}{self._close}", self._close

    def openers(self, names: Collection[str]) -> tuple[str, ...]:
        return (self._open,)

    def end(self) -> End:
        return self._ending()

    def reader(self, types: Types) -> None:
        return None

    def read(self, block: str, types: Types) -> Found:
        at = len(self._open) if block.startswith(self._open) else 0
        calls: list[Called] = []
        while True:
            first = _at(block, at)
            if first == len(block) or (calls and block.startswith(self._close, first)):
                return Found(tuple(calls), min(len(block), first + len(self._close)) if first < len(block) else first)
            head = self._name.match(block, first)
            if head is None:
                return Found(tuple(calls), first)
            schema = types(head["name"])
            values: dict[str, Any] = {}
            last = self._elements(block, head.end(), schema, schema, values)
            if not block.startswith(self._behind, last):
                return Found(tuple(calls), first)
            last += len(self._behind)
            calls.append(Called(head["name"], dumped(values), first, last))
            at = last

    def _elements(
        self, block: str, at: int, schema: Mapping[str, Any], root: Mapping[str, Any], values: dict[str, Any]
    ) -> int:
        """Reads the elements that stand there into `values`; where what follows them begins. One that comes again makes
        a list."""
        several: set[str] = set()
        while True:
            begin = self._begin.match(block, _at(block, at))
            read = self._value(block, begin, _of(schema, begin["key"], root), root, 1) if begin is not None else None
            if begin is None or read is None:
                return _at(block, at)
            key, (value, at) = begin["key"], read
            if key in several:
                values[key].append(value)
            elif key in values:
                values[key] = [values[key], value]
                several.add(key)
            else:
                values[key] = value

    def _value(
        self, block: str, begin: re.Match[str], schema: Any, root: Mapping[str, Any], deep: int
    ) -> tuple[Any, int] | None:
        """(the value of the element, where it ends); None where it has no end."""
        end = block.find(self.mark, begin.end())
        if end < 0 or deep > _DEEP:
            return None
        if (close := self._end.match(block, end)) is not None:
            return _text(block[begin.end() : end], schema, root), close.end()
        listed = next((one for one in shapes(schema, root) if _kind(one) == "array"), None)
        children: list[tuple[str, Any]] = []
        at = begin.end()
        while (child := self._begin.match(block, _at(block, at))) is not None:
            inner = listed.get("items") if listed is not None else _of(schema, child["key"], root)
            read = self._value(block, child, inner, root, deep + 1)
            if read is None:
                return None
            children.append((child["key"], read[0]))
            at = read[1]
        close = self._end.match(block, _at(block, at))
        if close is None:
            return None
        value: Any = dict(children)
        if listed is not None or len(value) < len(children):
            value = [one for _, one in children]
        return value, close.end()

    # -- writing ------------------------------------------------------------------------------------------------------

    def write(self, calls: Sequence[tuple[str, Mapping[str, Any]]]) -> str:
        made = [f"{self._begin_of(name)}{self._written(values)}{self._behind}\n" for name, values in calls]
        return f"{self._open}\n{''.join(made)}{self._close}"

    def _begin_of(self, name: str) -> str:
        return f'{self.mark}<invoke name="{name}">'

    def _written(self, value: Any) -> str:
        if isinstance(value, Mapping):
            parts = list(cast("Mapping[str, Any]", value).items())
        elif isinstance(value, list):
            parts = [(self.item, one) for one in cast("list[Any]", value)]
        else:
            return plain(value)
        return "".join(f"{self.mark}<{key}>{self._written(one)}{self.mark}</{key}>" for key, one in parts)

    def held(self, tools: Sequence[HeldTool], several: bool, ebnf: Ebnf) -> Tag:
        calls = [tag(self._begin_of(tool.name), self._held(tool, ebnf, _HELD), f"{self._behind}\n") for tool in tools]
        return tag(f"{self._open}\n", separated(calls, "", several), self._close)

    def in_text(self, tools: Sequence[HeldTool], several: bool, ebnf: Ebnf) -> InText:
        return behind_openers(self, tools, several, ebnf)

    def loose(self, tool: HeldTool) -> Sequence[str] | None:
        return loose_texts(tool, deep=_HELD)

    def _held(self, tool: HeldTool, ebnf: Ebnf, deep: int) -> Tag:
        """The elements of an object."""

        def one(key: str, schema: Any) -> Tag:
            return tag(
                f"{self.mark}<{key}>", self._held_value(schema, tool.defs, ebnf, deep - 1), f"{self.mark}</{key}>"
            )

        return arguments(tool, one, self._free(min(deep, _FREE)))

    def _free(self, deep: int) -> Tag:
        """An element of which the schema says nothing, and those within it."""
        value: Tag = {"type": "any_text", "excludes": [self.mark]}
        if deep > 1:
            value = one_of([value, any_number(self._free(deep - 1))])
        return sequence(
            constant(f"{self.mark}<"),
            pattern(NAME),
            tag(">", value, f"{self.mark}</"),
            pattern(_names_but("invoke", self.around)),
            constant(">"),
        )

    def _held_value(self, schema: Any, defs: Mapping[str, Any], ebnf: Ebnf, deep: int) -> Tag:
        anything: Tag = {"type": "any_text", "excludes": [self.mark]}
        if deep <= 0:
            return anything
        ways: list[Tag] = []
        for shape in alternatives(schema, defs):
            kind = _kind(shape)
            if kind == "object" and "enum" not in shape:
                ways.append(self._held(HeldTool("", {"type": "object", "properties": {}} | shape, defs), ebnf, deep))
            elif kind == "array" and "enum" not in shape:
                value = self._held_value(shape.get("items", _ANY), defs, ebnf, deep - 1)
                item = tag(f"{self.mark}<{self.item}>", value, f"{self.mark}</{self.item}>")
                ways.append(listed(item, shape.get("minItems", 0), shape.get("maxItems")))
            else:
                ways.append(unquoted(shape, defs, anything, ebnf))
        return one_of(ways) if ways else anything


def _names_but(*words: str) -> str:
    """A pattern of names that are none of these words, which begin with different letters."""
    letters = string.ascii_letters + "_"
    rest = "[A-Za-z0-9_.-]{0,63}"
    ways = [f"[{''.join(one for one in letters if one not in {word[0] for word in words})}]{rest}"]
    for word in words:
        for at in range(1, len(word)):
            others = "".join(one for one in letters + string.digits + "." if one != word[at])
            ways.append(f"{word[:at]}(?:[{others}-]{rest})?")
        ways.append(f"{word}[A-Za-z0-9_.-]{rest}")
    return "|".join(ways)


def _at(text: str, at: int) -> int:
    """Behind the white space that stands there."""
    found = _SPACE.match(text, at)
    return found.end() if found else at


def _kind(shape: Mapping[str, Any]) -> str:
    """What a value of this shape is, as far as that counts here."""
    kind = shape.get("type")
    kinds: list[Any] = cast("list[Any]", kind) if isinstance(kind, list) else [kind]
    if "array" in kinds or (kind is None and "items" in shape):
        return "array"
    return "object" if "object" in kinds or (kind is None and "properties" in shape) else ""


def _of(schema: Any, key: str, root: Mapping[str, Any]) -> Any:
    """The schema of one value of an object."""
    for shape in shapes(schema, root):
        properties = shape.get("properties")
        if isinstance(properties, dict) and key in properties:
            return cast("dict[str, Any]", properties)[key]
    more = next((one.get("additionalProperties") for one in shapes(schema, root)), None)
    return cast("Any", more) if isinstance(more, dict) else _ANY


def _text(text: str, schema: Any, root: Mapping[str, Any]) -> Any:
    """The value of an element without elements; an empty one is an empty list or object where its schema wants one."""
    found = list(shapes(schema, root))
    if not text.strip() and not any(shape.get("type") == "string" for shape in found):
        for shape in found:
            if kind := _kind(shape):
                return [] if kind == "array" else {}
    return typed(text, "value", {**root, "properties": {"value": schema}})
