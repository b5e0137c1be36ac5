"""Earlier calls and their results, as a family of models wants to see them: ids in its form, one call to a turn.

What callers hold are ids of ours, the same for every model. Ids of a model follow from the place of their calls in the
conversation, so the prompt of a turn is a prefix of the next turn's.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace

from ponder.compute.text import Message, ToolCall
from ponder.engines.tools.formats import FORMATS

_NUMBERED = re.compile(r"functions\.(.+):\d+", re.DOTALL)


def as_turns(messages: Sequence[Message], tools: str, *, one_call: bool) -> Sequence[Message]:
    """The messages as a model expects them that writes calls so; `tools` is a name of `FORMATS`, or any other word.
    `one_call`: its template knows one call to a turn."""
    if not any(message.tool_calls for message in messages):
        return messages
    if tools in FORMATS and FORMATS[tools].numbered:
        messages = list(_numbered(messages))
    return list(_one_at_a_time(messages)) if one_call else messages


def _numbered(messages: Sequence[Message]) -> Iterator[Message]:
    """With ids that name the function and count the calls; those that do so already stay."""
    names: dict[str, str] = {}
    count = 0
    for message in messages:
        calls: list[ToolCall] = []
        for call in message.tool_calls:
            own = _NUMBERED.fullmatch(call.id)
            names[call.id] = call.id if own and own[1] == call.name else f"functions.{call.name}:{count}"
            calls.append(replace(call, id=names[call.id]))
            count += 1
        known = message.tool_call_id
        yield replace(message, tool_calls=tuple(calls), tool_call_id=names.get(known, known) if known else known)


def _one_at_a_time(messages: Sequence[Message]) -> Iterator[Message]:
    """Several calls of one turn become turns of their own, each before its result."""
    at = 0
    while at < len(messages):
        message = messages[at]
        at += 1
        if len(message.tool_calls) < 2:
            yield message
            continue
        results: list[Message] = []
        while at < len(messages) and messages[at].role == "tool":
            results.append(messages[at])
            at += 1
        for n, call in enumerate(message.tool_calls):
            yield replace(message, tool_calls=(call,)) if n == 0 else Message("assistant", "", tool_calls=(call,))
            mine = [result for result in results if result.tool_call_id == call.id]
            results = [result for result in results if result.tool_call_id != call.id]
            yield from mine
        yield from results
