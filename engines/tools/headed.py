"""Calls as a header that names the tool, and behind it the arguments as JSON: DeepSeek, Kimi, Mistral, harmony.

`<｜tool▁call▁begin｜>get_weather<｜tool▁sep｜>{...}<｜tool▁call▁end｜>`, `[TOOL_CALLS]get_weather[ARGS]{...}`,
`<|start|>assistant to=functions.get_weather<|channel|>commentary json<|message|>{...}<|call|>`.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ponder.engines.tools.arguments import Head, HeadsReader, closed, unclosed
from ponder.engines.tools.ends import HEAD, Ending
from ponder.engines.tools.form import (
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
    constant,
    dumped,
    grammar,
    one_of,
    pattern,
    readable,
    separated,
    sequence,
    tag,
)
from ponder.engines.tools.in_text import behind_openers


@dataclass(frozen=True)
class HeadedCalls:
    """Header and JSON, each call with markers of its own, and all of them within markers or not."""

    opens: tuple[str, ...]
    """What a call begins with; the first is how it is written."""
    head: str
    """A pattern of what stands between that and the arguments, with a group `name`."""
    close: str
    """What ends a call; empty where its JSON does."""
    begin: str
    """How all that stands before the arguments is written, `{name}` in the place of the name and `{n}` in that of the
    number of the call."""
    finish: str = ""
    """How all that stands behind them is written."""
    around: tuple[str, str] = ("", "")
    """Markers around the calls of one answer."""
    between: str = ""
    ends_turn: bool = False
    """What stands behind a call is a token that ends the turn: there is one call to a turn, and a grammar ends before
    the token."""
    heading: str = ""
    """With `ends_turn`, a pattern of what may stand between name and arguments."""
    certain: tuple[str, ...] | None = None
    """Those of `opens` that begin a call wherever they stand; None is all of them."""
    tails: tuple[str, ...] = ()
    either: str = ""

    @cached_property
    def _ending(self) -> Ending:
        if not self.close:
            return Ending(begins="{", head=HEAD)
        around = (self.around,) if self.around[0] else ()
        return Ending((*around, *((open, self.close) for open in self.opens)), begins="{")

    @cached_property
    def _head(self) -> re.Pattern[str]:
        opens = "|".join(map(re.escape, self.opens))
        return re.compile(rf"\s*(?:{opens})\s*{self.head}\s*(?={{)")

    @cached_property
    def _close(self) -> re.Pattern[str]:
        """The end of a call, a fence around its JSON included."""
        return re.compile(r"\s*+(?:```)?+\s*+" + re.escape(self.close))

    @property
    def closers(self) -> tuple[str, ...]:
        whole = "".join(f"{self.finish}{self.around[1]}".split())
        parts = (whole, self.close + self.around[1], self.around[1])
        return tuple(part for part in parts if part) if self.close else ()

    def openers(self, names: Collection[str]) -> tuple[str, ...]:
        own = self.opens if names or self.certain is None else self.certain
        return (*((self.around[0],) if self.around[0] else ()), *own)

    def end(self) -> End:
        return self._ending()

    def reader(self, types: Types) -> Reader:
        return HeadsReader(self)

    @property
    def nested(self) -> int:
        return 0

    def next(self, block: str, at: int) -> int:
        return len(self.around[0]) if at == 0 and self.around[0] and block.startswith(self.around[0]) else at

    def head_at(self, block: str, at: int) -> Head | None:
        found = self._head.match(block, at)
        return None if found is None else Head(found["name"], at, found.end())

    def behind(self, block: str, at: int) -> int:
        close = self._close.match(block, at)
        return MORE if close is None else close.end()

    def read(self, block: str, types: Types) -> Found:
        at = self.next(block, 0)
        calls: list[Called] = []
        while True:
            first = at
            head = self.head_at(block, at)
            if head is None:
                if self.around[1] and block.endswith(self.around[1]) and not block[at : -len(self.around[1])].strip():
                    at = len(block)
                return Found(tuple(calls), at if calls or at == len(block) else first)
            last = closed(block, head.arguments, len(block))
            if last == MORE:
                arguments = unclosed(block, head.arguments, self._stop(block))
                calls.append(Called(head.name, arguments, first, len(block), broken=True))
                return Found(tuple(calls), len(block))
            behind = self.behind(block, last)
            at = last if behind == MORE else behind
            arguments = block[head.arguments : last]
            calls.append(Called(head.name, arguments, first, at, broken=not readable(arguments)))
            if not block[at:].strip():
                return Found(tuple(calls), len(block))
            if behind == MORE:
                return Found(tuple(calls), at)

    def _stop(self, block: str) -> int:
        """Where what ends a block begins, if that is there."""
        for end in (self.around[1], self.close):
            if end and block.endswith(end):
                return len(block) - len(end)
        return len(block)

    # -- writing ------------------------------------------------------------------------------------------------------

    def write(self, calls: Sequence[tuple[str, Mapping[str, Any]]]) -> str:
        made = [
            self.begin.replace("{name}", name).replace("{n}", str(n)) + dumped(arguments) + self.finish
            for n, (name, arguments) in enumerate(calls)
        ]
        return self.around[0] + self.between.join(made) + self.around[1]

    def held(self, tools: Sequence[HeldTool], several: bool, ebnf: Ebnf) -> Tag:
        tags: list[Tag] = []
        for tool in tools:
            begin, numbered, rest = self.begin.replace("{name}", tool.name).partition("{n}")
            content = grammar(ebnf(tool.arguments, (", ", ": ")))
            if numbered:
                content = sequence({"type": "regex", "pattern": "[0-9]{1,3}"}, constant(rest), content)
            tags.append(tag(begin, content, "" if self.ends_turn else self.finish))
        calls = separated(tags, self.between, several and not self.ends_turn)
        return tag(self.around[0], calls, self.around[1]) if self.around[0] else calls

    def in_text(self, tools: Sequence[HeldTool], several: bool, ebnf: Ebnf) -> InText:
        if not self.ends_turn:
            return behind_openers(self, tools, several, ebnf)
        # However the head of its message begins, the last of them stands in it; what follows the name differs, too.
        calls = [
            sequence(constant(tool.name), pattern(self.heading), grammar(ebnf(tool.arguments, (", ", ": "))))
            for tool in tools
        ]
        return InText([(self.opens[-1], one_of(calls))])

    def loose(self, tool: HeldTool) -> None:
        return None
