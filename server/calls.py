"""Tool calls in the text of a model: found, taken out and shaped, the same way for a whole answer and for a stream.

Models that know tools write `<tool_call>{"name": ..., "arguments": {...}}</tool_call>` (the Hermes form, which the chat
templates of the Qwen family teach). Where the caller requires a call, the text is held to JSON of that shape by the
grammar, and is the call itself.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from compute.text import Tool, ToolCall

OPEN, CLOSE = "<tool_call>", "</tool_call>"


@dataclass(frozen=True, slots=True)
class Offered:
    """The tools a request offers, and how they may be used."""

    names: frozenset[str] = frozenset()
    required: bool = False
    """The whole answer is a call."""
    parallel: bool = True

    @property
    def any(self) -> bool:
        return bool(self.names)


def call_schema(tools: Sequence[Tool]) -> str:
    """JSON schema of a call of one of these tools."""
    shapes = [
        {
            "type": "object",
            "properties": {"name": {"const": tool.name}, "arguments": json.loads(tool.parameters)},
            "required": ["name", "arguments"],
            "additionalProperties": False,
        }
        for tool in tools
    ]
    return json.dumps(shapes[0] if len(shapes) == 1 else {"anyOf": shapes})


@dataclass(slots=True)
class Listener:
    """Hears the visible text of one choice piece by piece and tells what of it is text and what are calls.

    What might be the beginning of a call is kept back until it is known; white space before a call is dropped. Text
    that looks like a call and is none (no JSON, a tool nobody offered) is text.
    """

    offered: Offered
    calls: list[ToolCall] = field(default_factory=list[ToolCall])
    _kept: str = ""
    """Perhaps the beginning of a call."""
    _space: str = ""
    """White space that may turn out to stand before a call."""
    _fresh: bool = False
    """Nothing was shown since the last call."""

    def hear(self, text: str) -> tuple[str, list[ToolCall]]:
        """New text to show and calls that are complete now."""
        if not self.offered.any:
            return text, []
        self._kept += text
        before = len(self.calls)
        shown: list[str] = []
        while not self.offered.required:
            at = self._kept.find(OPEN)
            if at < 0:
                at = len(self._kept) - _overlap(self._kept, OPEN)
                shown.append(self._show(self._kept[:at]))
                self._kept = self._kept[at:]
                break
            shown.append(self._show(self._kept[:at]))
            self._kept = self._kept[at:]
            end = self._kept.find(CLOSE)
            if end < 0:
                break
            whole, self._kept = self._kept[: end + len(CLOSE)], self._kept[end + len(CLOSE) :]
            if not self._call(whole[len(OPEN) : -len(CLOSE)]):
                shown.append(self._show(whole))
        return "".join(shown), self.calls[before:]

    def end(self) -> tuple[str, list[ToolCall]]:
        """The text is over: what is still to be shown, and a call that was not closed."""
        before = len(self.calls)
        kept, self._kept = self._kept, ""
        if (self.offered.required or kept.startswith(OPEN)) and self._call(kept.removeprefix(OPEN)):
            return "", self.calls[before:]
        shown = self._show(kept)
        return shown if self.calls else shown + self._space, []

    def _show(self, text: str) -> str:
        """The text less the white space at its end, which is shown when more text follows and never beside a call."""
        if self._fresh:
            text = text.lstrip()
            self._fresh = not text
        text = self._space + text
        shown = text.rstrip()
        self._space = text[len(shown) :]
        return shown

    def _call(self, text: str) -> bool:
        """The text is a call of an offered tool. Of several, where one is allowed, the first counts."""
        try:
            value: Any = json.loads(text)
        except (ValueError, RecursionError):
            return False
        if not isinstance(value, dict):
            return False
        value = cast("dict[str, Any]", value)
        name, arguments = value.get("name"), value.get("arguments", value.get("parameters", {}))
        if not isinstance(name, str) or name not in self.offered.names:
            return False
        if not isinstance(arguments, str):
            arguments = json.dumps(arguments, ensure_ascii=False)
        if self.offered.parallel or not self.calls:
            self.calls.append(ToolCall("call_" + secrets.token_hex(12), name, arguments))
        self._space, self._fresh = "", True
        return True


def _overlap(text: str, tag: str) -> int:
    """Length of the longest end of `text` that `tag` begins with."""
    return next((n for n in range(min(len(text), len(tag) - 1), 0, -1) if tag.startswith(text[-n:])), 0)
