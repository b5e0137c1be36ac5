"""Tool calls in the text of a model: found, taken out and shaped, the same way for a whole answer and for a stream.

Models that know tools write `<tool_call>{"name": ..., "arguments": {...}}</tool_call>` (the Hermes form, which the chat
templates of the Qwen family teach). Where the caller requires a call, or wants an answer of a given form beside
the tools, a grammar constrains the text to calls in that form, or to the form asked for.
"""

from __future__ import annotations

import json
import re
import secrets
from dataclasses import dataclass, field
from typing import Any, Literal, cast

from ponder.compute.text import ToolCall

OPEN, CLOSE = "<tool_call>", "</tool_call>"
CUT = "<tool"
"""A text that was cut and ends in something that begins so had begun a call."""
_MARK, _TEXT = re.compile(f'"|{CLOSE}'), re.compile(r'(?:[^"\\]++|\\.)*+', re.DOTALL)
_SPACE = re.compile(r"\s*+")


@dataclass(frozen=True, slots=True)
class Offered:
    """The tools a request offers, and how they may be used."""

    names: frozenset[str] = frozenset()
    required: bool = False
    """The whole answer is calls."""
    parallel: bool = True
    held: bool = False
    """A grammar constrains the answer: it is calls from its first character on, or a document without calls."""

    @property
    def any(self) -> bool:
        return bool(self.names)


@dataclass(slots=True)
class ToolCallParser:
    """Takes the visible text of one answer piece by piece, and returns what of it is text and what are calls.

    What might be the beginning of a call is kept back until it is known; white space before a call is dropped. Text
    that looks like a call and is none (no JSON, a tool nobody offered) is text. A call that was cut is not shown.
    """

    offered: Offered
    calls: list[ToolCall] = field(default_factory=list[ToolCall])
    _kept: str = ""
    """Perhaps the beginning of a call."""
    _space: list[str] = field(default_factory=list[str])
    """White space that may turn out to stand before a call."""
    _fresh: bool = False
    """Nothing was shown since the last call."""
    _read: int = 0
    """Characters of what is kept in which the beginning of a call, or its end, was looked for."""
    _body: Literal["", "object", "other"] = ""
    """What the call that is kept begins with, when it is known."""
    _in_text: bool = False
    """What was read ends within a text of its arguments."""
    _plain: bool = False
    """The answer is a document: there are no calls in it."""
    cut: bool = False
    """The answer ended within a call."""

    def feed(self, text: str) -> tuple[str, list[ToolCall]]:
        """New text to show and calls that are complete now."""
        if not self.offered.any or self._plain:
            return text, []
        # Nothing else refers to it meanwhile, so it grows in place.
        kept, self._kept = self._kept, ""
        kept += text
        if self.offered.held and not self.offered.required and not self.calls and not kept.startswith(OPEN):
            begun = kept.lstrip()[: len(OPEN)]
            if not OPEN.startswith(begun):
                self._plain = True
                return "".join([*self._space, kept]), []
        before = len(self.calls)
        shown: list[str] = []
        at = 0  # What stands before it was shown, or is a call.
        while True:
            if not kept.startswith(OPEN, at):
                found = kept.find(OPEN, max(at, self._read))
                if found < 0 and self.offered.required:
                    self._read = max(self._read, len(kept) - len(OPEN) + 1)
                    break
                begin = found if found >= 0 else len(kept) - _overlap(kept[max(at, len(kept) - len(OPEN)) :], OPEN)
                shown.append(self._show(kept[at:begin]))
                at = begin
                if found < 0:
                    break
            end = self._closing(kept, at)
            if end < 0:
                break
            body, whole = kept[at + len(OPEN) : end], (at, end + len(CLOSE))
            at = self._read = end + len(CLOSE)
            self._body, self._in_text = "", False
            if not self._call(body):
                shown.append(self._show(kept[slice(*whole)]))
        self._kept, self._read = kept[at:], max(0, self._read - at)
        return "".join(shown), self.calls[before:]

    def _closing(self, kept: str, at: int) -> int:
        """Where the call that begins there is closed, or -1: what stands in the texts of its arguments closes none."""
        if not self._body:
            space = _SPACE.match(kept, max(self._read, at + len(OPEN)))
            self._read = space.end() if space else len(kept)
            if self._read == len(kept):
                return -1
            self._body = "object" if kept[self._read] == "{" else "other"
        if self._body == "other":
            end = kept.find(CLOSE, self._read)
            self._read = max(self._read, len(kept) - len(CLOSE) + 1)
            return end
        while True:
            if self._in_text:
                text = _TEXT.match(kept, self._read)
                self._read = text.end() if text else self._read
                if kept[self._read : self._read + 1] != '"':
                    return -1
                self._read += 1
                self._in_text = False
            found = _MARK.search(kept, self._read)
            if found is None:
                self._read = max(self._read, len(kept) - len(CLOSE) + 1)
                return -1
            if found[0] == CLOSE:
                return found.start()
            self._read, self._in_text = found.end(), True

    def end(self, complete: bool = True) -> tuple[str, list[ToolCall]]:
        """The text is over: what is still to be shown, and a call that was not closed. `complete`: as the model wanted
        it; else what may have been the beginning of a call is none."""
        before = len(self.calls)
        kept, self._kept = self._kept, ""
        body = kept.removeprefix(OPEN)
        if (self.offered.required or kept.startswith(OPEN)) and self._call(body[: len(body) - _overlap(body, CLOSE)]):
            return "", self.calls[before:]
        if not complete and kept.strip() and (self.offered.required or kept.startswith(CUT)):
            self.cut = True
            return "", []
        shown = self._show(kept)
        return shown if self.calls or self._plain else shown + "".join(self._space), []

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
        self._space, self._fresh = [], True
        return True


def _overlap(text: str, tag: str) -> int:
    """Length of the longest end of `text` that `tag` begins with."""
    return next((n for n in range(min(len(text), len(tag) - 1), 0, -1) if tag.startswith(text[-n:])), 0)
