"""`reasoning_details`, the list in which OpenRouter's API has what may be told of a thought: the thought sealed, for
the client to send back with its turn, and a summary of it.

OpenAI's Chat Completions have no field for either; this one is known to the clients that have any.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ponder.server.answers import End
from ponder.server.sealed_thoughts import SEVERAL
from ponder.server.validation import mistyped

ENCRYPTED, SUMMARY = "reasoning.encrypted", "reasoning.summary"
"""Types of entries."""
FORMAT = "unknown"
"""Whose format an entry has, in the only word of OpenRouter's for somebody it does not know. Clients drop others."""


def sealed(details: Sequence[Mapping[str, Any]] | None, param: str) -> str | None:
    """What a turn has of sealed thoughts. Those that another server has made are left out, as far as they say so.
    Raises `RequestError`."""
    found: list[str] = []
    for i, entry in enumerate(details or ()):
        if entry.get("type") == ENCRYPTED and entry.get("format") in (None, FORMAT):
            data = entry.get("data")
            if not isinstance(data, str) or not data:
                raise mistyped(f"{param}.{i}.data", "a text that is not empty")
            found.append(data)
    return SEVERAL.join(found) or None


def told(end: End) -> list[dict[str, Any]]:
    """The list of an answer; empty where there is nothing to tell."""
    entries: list[dict[str, Any]] = []
    if end.summary is not None:
        entries.append({"type": SUMMARY, "summary": end.summary})
    if end.sealed is not None:
        entries.append({"type": ENCRYPTED, "data": end.sealed})
    return [entry | {"format": FORMAT, "index": i} for i, entry in enumerate(entries)]


def shown(end: End) -> str | None:
    """What clients show as the reasoning: the thought, where that is revealed, else its summary."""
    return end.summary if end.thought is None else end.thought
