"""Which format of tool calls a model writes, read off its own files: the chat template first, its name last."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection

from ponder.compute.errors import EngineError
from ponder.engines.tools.formats import FORMATS, Format

DEFAULT = "hermes"
"""Of models whose template knows nothing of tools: the form that most models have seen."""

_TOOLS = re.compile(r"{[%{][^}]*\btools\b")


def knows_tools(template: str) -> bool:
    """The chat template shows a model the tools a request offers."""
    return _TOOLS.search(template) is not None


def detect(template: str, added_tokens: Collection[str] = (), name: str = "") -> str:
    """The name of the format, or "" where the template shows a model its tools in no form that is known here: what is
    offered would be called, and the calls would be read as text. `name` may be a path, a hub id or a type."""
    shown = _first(lambda row: any(all(text in template for text in group) for group in row.shown))
    named = _first(lambda row: any(word in name.lower() for word in row.names))
    if shown is not None:
        return named.name if named is not None and shown.tuned else shown.name
    # The tokens of one family are often those of another that it was tuned from: what a template says counts more.
    found = _first(lambda row: any(token in added_tokens for token in row.tokens)) or named
    if found is not None:
        return found.name
    return "" if knows_tools(template) else DEFAULT


def _first(fits: Callable[[Format], bool]) -> Format | None:
    return next((row for row in FORMATS.values() if fits(row)), None)


def format_of(named: str, template: str, added_tokens: Collection[str], name: str) -> str:
    """The format a profile names, or where it names none, the one that is found. Raises `EngineError` for a name that
    is not known."""
    if named in ("", "none"):
        return detect(template, added_tokens, name)
    named = _OLDER.get(named, named)
    if named not in FORMATS:
        raise EngineError(f"tools = {named!r} is no format of tool calls; those known are {', '.join(FORMATS)}")
    return named


_OLDER = {"deepseek": "deepseek_v3"}
