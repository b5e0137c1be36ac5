"""Messages and tools as chat templates expect them, each text a caller typed passed through a function first."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

from ponder.compute.text import Hidden, Message, Prompt
from ponder.engines.images import TEXT, Shape, has, together
from ponder.engines.profiles import Profile
from ponder.engines.tools import as_turns


def conversation(
    prompt: Prompt,
    profile: Profile,
    thinking: bool,
    put: Callable[[str], str],
    *,
    as_text: bool = False,
    short_ids: bool = False,
    one_call: bool = False,
    one_text: bool = False,
    shape: Shape = TEXT,
) -> list[dict[str, Any]]:
    """The messages as templates expect them, each text through `put`. `as_text`: the template wants the arguments of a
    call as JSON text; most want an object. `short_ids`: it takes ids of calls of nine letters and digits only.
    `one_call`: of the calls of one turn it shows one. `one_text`: a turn with calls has a text or a thought. `shape`:
    how it takes the content of a message, and images in it."""

    def numbered(text: str) -> str:
        return put(_short(text) if short_ids else text)

    turns: list[dict[str, Any]] = []
    seen = 0
    for message in as_turns(prompt.messages, profile.tools, one_call=one_call):
        content = message.content if isinstance(message.content, str) else message.content.unseal()
        role = "system" if message.role == "developer" else message.role
        turn: dict[str, Any] = {"role": role, "content": shape.content(message, put, seen)}
        seen += len(message.images)
        if message.name:
            turn["name"] = put(message.name)
        if message.thought is not None and profile.shows_thoughts and (thought := _as_field(message.thought, profile)):
            if profile.thoughts_field == "content":
                turn["content"] = [
                    {"type": "thinking", "thinking": put(thought)},
                    {"type": "text", "text": put(content)},
                ]
            elif one_text and content and message.tool_calls:
                turn |= {
                    "content": shape.content(replace(message, content=""), put, seen),
                    profile.thoughts_field: put(f"{thought}\n\n{content}"),
                }
            else:
                turn[profile.thoughts_field] = put(thought)
        if message.tool_call_id:
            turn["tool_call_id"] = numbered(message.tool_call_id)
        if message.tool_calls:
            turn["tool_calls"] = [
                {
                    "id": numbered(call.id),
                    "type": "function",
                    "function": {"name": put(call.name), "arguments": _arguments(call.arguments, put, as_text)},
                }
                for call in message.tool_calls
            ]
        turns.append(turn)
    if said := profile.sentences(thinking):
        if turns and turns[0]["role"] == "system":
            turns[0]["content"] = together([turns[0]["content"], f"\n\n{said}"])
        else:
            turns.insert(0, {"role": "system", "content": shape.content(Message("system", said), str, 0)})
    if word := profile.word[0 if thinking else 1]:
        last = next((turn for turn in reversed(turns) if turn["role"] == "user"), None)
        if last is not None and not has(last["content"], word):
            last["content"] = together([last["content"], f" {word}"])
    return turns


def offered(prompt: Prompt, put: Callable[[str], str]) -> list[dict[str, Any]] | None:
    """The tools as templates expect them, each text through `put`; None where there are none."""
    return [
        {
            "type": "function",
            "function": {
                "name": put(tool.name),
                "description": put(tool.description),
                "parameters": through(json.loads(tool.parameters), put),
            },
        }
        for tool in prompt.tools
    ] or None


def _as_field(thought: Hidden[str], profile: Profile) -> str:
    """A thought as a template wants it: without its end, which the template writes itself, white space included."""
    text = thought.unseal()
    end = profile.end.strip()
    if end and text.rstrip().endswith(end):
        text = text.rstrip().removesuffix(end)
    before = profile.closing.partition(profile.end)[0] if profile.end else ""
    text = text.rstrip() if before.isspace() else text
    return text if text.strip() else ""


def _short(number: str) -> str:
    """An id of nine letters and digits for one of another form, always the same."""
    if len(number) == 9 and number.isascii() and number.isalnum():
        return number
    return hashlib.blake2b(number.encode(errors="surrogatepass"), digest_size=8).hexdigest()[:9]


def _arguments(text: str, put: Callable[[str], str], as_text: bool) -> Any:
    """The arguments of a call as an object; what is none is passed as text."""
    try:
        value: object = json.loads(text)
    except ValueError:
        return put(text)
    if not isinstance(value, dict):
        return put(text)
    made = through(value, put)
    return json.dumps(made, ensure_ascii=False) if as_text else made


def through(value: Any, put: Callable[[str], str]) -> Any:
    """A JSON value with every text in it, keys too, through `put`."""
    if isinstance(value, str):
        return put(value)
    if isinstance(value, dict):
        return {put(key): through(inner, put) for key, inner in cast("dict[str, Any]", value).items()}
    if isinstance(value, list):
        return [through(inner, put) for inner in cast("list[Any]", value)]
    return value
