"""Reads values as Python, JSON or Gemma 4 write them, from a text that goes on behind them.

`ast.literal_eval` would want the whole text to be Python, and models mix `true` with `True`. Linear in the text.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from ponder.engines.tools.form import finite

_SPACE = re.compile(r"\s*+")
_NUMBER = re.compile(r"-?(?:\d++(?:_\d++)*+)(\.\d*+)?([eE][+-]?\d++)?|-?\.\d++")
_WORD = re.compile(r"[^\W\d][\w.]*+")
_KEY = re.compile(r"[^\s:{}\[\](),=<>]++")
_STRING = {quote: re.compile(f"{quote}((?:[^{quote}\\\\]++|\\\\.)*+){quote}", re.DOTALL) for quote in "\"'"}
_ESCAPE = re.compile(r"\\(?:u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|x([0-9a-fA-F]{2})|([0-7]{1,3})|(\r?\n)|(.))", re.DOTALL)
_LETTERS = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", "v": "\v", "a": "\a"}
_WORDS: dict[str, Any] = {"True": True, "False": False, "None": None, "true": True, "false": False, "null": None}
_DEEP = 100
"""Levels of lists and objects at most."""


class NoValue(ValueError):
    """What stands there is no value."""


@dataclass(frozen=True, slots=True)
class Literals:
    """How values are written."""

    quote: str = ""
    """What strings stand in, nothing in them escaped; empty for the strings of Python and JSON."""
    loose: bool = False
    """Keys need no quotes."""

    def value(self, text: str, at: int, deep: int = _DEEP) -> tuple[Any, int]:
        """(the value that stands there, where it ends). Raises `NoValue`."""
        at = space(text, at)
        if deep == 0:
            raise NoValue
        begin = text[at : at + 1]
        if self.quote and text.startswith(self.quote, at):
            end = text.find(self.quote, at + len(self.quote))
            if end < 0:
                raise NoValue
            return text[at + len(self.quote) : end], end + len(self.quote)
        if begin in _STRING and begin:
            return self._string(text, at)
        if begin == "{":
            return self._object(text, at + 1, deep)
        if begin in ("[", "("):
            return self._list(text, at + 1, "]" if begin == "[" else ")", deep)
        if number := _NUMBER.match(text, at):
            return _number(number), number.end()
        if (word := _WORD.match(text, at)) and word[0] in _WORDS:
            return _WORDS[word[0]], word.end()
        raise NoValue

    def _string(self, text: str, at: int) -> tuple[str, int]:
        """Neighbouring strings are one, as in Python."""
        parts: list[str] = []
        end = at
        while at < len(text) and text[at] in _STRING:
            found = _STRING[text[at]].match(text, at)
            if found is None:
                raise NoValue
            parts.append(_unescaped(found[1]))
            end = found.end()
            at = space(text, end)
        return "".join(parts), end

    def _list(self, text: str, at: int, close: str, deep: int) -> tuple[list[Any], int]:
        values: list[Any] = []
        at = space(text, at)
        while not text.startswith(close, at):
            value, at = self.value(text, at, deep - 1)
            values.append(value)
            at = comma(text, at, close)
        return values, at + 1

    def _object(self, text: str, at: int, deep: int) -> tuple[dict[str, Any], int]:
        values: dict[str, Any] = {}
        at = space(text, at)
        while not text.startswith("}", at):
            key, at = self.key(text, at, deep)
            at = space(text, at)
            if not text.startswith(":", at):
                raise NoValue
            values[key], at = self.value(text, at + 1, deep - 1)
            at = comma(text, at, "}")
        return values, at + 1

    def key(self, text: str, at: int, deep: int = _DEEP) -> tuple[str, int]:
        """(the name of a property, where it ends)."""
        quoted = text[at : at + 1] in _STRING or (self.quote and text.startswith(self.quote, at))
        if self.loose and not quoted and (bare := _KEY.match(text, at)):
            return bare[0], bare.end()
        key, at = self.value(text, at, deep - 1)
        if not isinstance(key, str):
            raise NoValue
        return key, at


def space(text: str, at: int) -> int:
    """Behind the white space that stands there."""
    found = _SPACE.match(text, at)
    return found.end() if found else at


def comma(text: str, at: int, close: str) -> int:
    """Behind a comma and the white space around it, or before what closes the list. Raises `NoValue`."""
    at = space(text, at)
    if text.startswith(",", at):
        return space(text, at + 1)
    if not text.startswith(close, at):
        raise NoValue
    return at


def _number(found: re.Match[str]) -> int | float:
    text = found[0].replace("_", "")
    try:
        return finite(text) if found[1] is not None or found[2] is not None or "." in text else int(text)
    except ValueError:
        raise NoValue from None


def _unescaped(text: str) -> str:
    if "\\" not in text:
        return text
    text = _ESCAPE.sub(_meant, text)
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _meant(found: re.Match[str]) -> str:
    four, eight, two, octal, line, letter = found.groups()
    if code := four or eight or two:
        number = int(code, 16)
        return chr(number) if number < 0x110000 else "\ufffd"
    if octal:
        return chr(int(octal, 8))
    if line:
        return ""
    if letter in "\\'\"/":
        return letter
    return _LETTERS.get(letter, found[0])
