"""Gemini's contents as turns of ours. One content may be several turns (results of calls, then a question), and several
contents one (the pieces of an answer that was streamed): so each turn remembers where it came from."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from ponder.compute.errors import RequestError
from ponder.compute.text import Image, Message, ToolCall, joined
from ponder.server.dialects.customs import without_thought
from ponder.server.dialects.gemini.schema import Content, SystemInstruction
from ponder.server.dialects.images import image_of_base64
from ponder.server.sealed_thoughts import SEVERAL
from ponder.server.validation import missing, mistyped

MEDIA = {
    "inlineData": "images stand in contents of a user or in what a function returned",
    "fileData": "this server keeps no files and fetches none: send the image itself, as inlineData",
}
"""Where a part has something else than text, and what to say where it may not."""
KINDS = ("text", "functionCall", "functionResponse")
BESIDE = frozenset({"thought", "thoughtSignature", "videoMetadata", "partMetadata", "mediaResolution", *KINDS, *MEDIA})
"""What a part may have."""


class Waiting:
    """Calls without a result."""

    def __init__(self) -> None:
        self._calls: list[ToolCall | None] = []
        self._by_id: dict[str, deque[int]] = {}
        self._by_name: dict[str, deque[int]] = {}

    def add(self, calls: Sequence[ToolCall]) -> None:
        for call in calls:
            number = len(self._calls)
            self._calls.append(call)
            self._by_id.setdefault(call.id, deque()).append(number)
            self._by_name.setdefault(call.name, deque()).append(number)

    def take(self, name: str, id: str | None) -> ToolCall | None:
        """The one whose result this is, which waits no longer: the first with that id, or of that name where there is
        no id. Takes constant time on average, however many wait."""
        numbers = self._by_id.get(id) if id else self._by_name.get(name)
        while numbers:
            number = numbers.popleft()
            call, self._calls[number] = self._calls[number], None
            if call is not None:
                return call
        return None


@dataclass
class Turns:
    """The turns of a request, and what the fields of each are called in it."""

    messages: list[Message] = field(default_factory=list[Message])
    names: dict[str, str] = field(default_factory=dict[str, str])
    waiting: Waiting = field(default_factory=Waiting)

    def add(self, message: Message, place: str) -> None:
        self.names[f"messages.{len(self.messages)}"] = place
        self.messages.append(message)


def turns(system: SystemInstruction | None, contents: Sequence[Content]) -> Turns:
    """Raises `RequestError` that names the part."""
    made = Turns()
    if system is not None:
        for n, part in enumerate(system.parts):
            _check_thought(part, f"systemInstruction.parts.{n}")
        texts = [_text(part, f"systemInstruction.parts.{n}") for n, part in enumerate(system.parts)]
        made.add(Message("system", "".join(texts)), "systemInstruction")
    answer: _Answer | None = None
    for number, content in enumerate(contents):
        place = f"contents.{number}"
        if content.role == "model":
            answer = answer or _Answer(made, place)
            answer.take(content.parts or (), place)
            continue
        if answer is not None:
            answer.end()
            answer = None
        if not content.parts:
            raise missing(f"{place}.parts")
        _user(made, content.parts, place)
    if answer is not None:
        answer.end()
    return made


class _Answer:
    """What the model said, in neighbouring contents."""

    def __init__(self, made: Turns, place: str) -> None:
        self._made, self._place = made, place
        self._texts: list[str] = []
        self._calls: list[ToolCall] = []
        self._places: list[str] = []
        self._seals: dict[str, None] = {}

    def take(self, parts: Sequence[Mapping[str, Any]], place: str) -> None:
        for n, part in enumerate(parts):
            where = f"{place}.parts.{n}"
            _check_thought(part, where)
            if isinstance(seal := part.get("thoughtSignature"), str) and seal:
                self._seals[_standard(seal)] = None
            if part.get("thought"):
                continue
            if (call := part.get("functionCall")) is not None:
                self._calls.append(_call(call, where, len(self._made.messages), len(self._calls)))
                self._places.append(where)
            elif part.keys() - {"thoughtSignature", "thought"}:
                self._texts.append(_text(part, where))

    def end(self) -> None:
        number = len(self._made.messages)
        if not self._calls and not self._seals and not any(self._texts):
            return
        for n, place in enumerate(self._places):
            self._made.names[f"messages.{number}.tool_calls.{n}.arguments"] = f"{place}.functionCall.args"
        text = without_thought("".join(self._texts))
        sealed = SEVERAL.join(self._seals) or None
        self._made.add(Message("assistant", text, tool_calls=tuple(self._calls), sealed=sealed), self._place)
        self._made.names[f"messages.{number}.sealed"] = f"{self._place}.parts"
        self._made.waiting.add(self._calls)


def _check_thought(part: Mapping[str, Any], place: str) -> None:
    if not isinstance(part.get("thought"), bool | None):
        raise mistyped(f"{place}.thought", "true or false")
    if not isinstance(part.get("thoughtSignature"), str | None):
        raise mistyped(f"{place}.thoughtSignature", "a string")


def _user(made: Turns, parts: Sequence[Mapping[str, Any]], place: str) -> None:
    pieces: list[str | Image] = []
    results: list[tuple[Message, str]] = []
    for n, part in enumerate(parts):
        where = f"{place}.parts.{n}"
        _check_thought(part, where)
        if (result := part.get("functionResponse")) is not None:
            results.append((_result(made, result, f"{where}.functionResponse"), where))
        else:
            pieces.append(_piece(part, where))
    for message, where in results:
        made.add(message, where)
    if pieces or not results:
        text, images = joined(pieces)
        made.add(Message("user", text, images=images), place)


def _piece(given: Any, place: str) -> str | Image:
    """What a part of a user's or of a result is."""
    if not isinstance(given, dict):
        raise mistyped(place, "an object")
    part = cast("dict[str, Any]", given)
    data = part.get("inlineData")
    if data is None or part.keys() - BESIDE:
        return _text(part, place)
    param = f"{place}.inlineData"
    if not isinstance(data, dict):
        raise mistyped(param, "an object")
    held = cast("dict[str, Any]", data)
    return image_of_base64(held.get("mimeType"), held.get("data"), f"{param}.data")


def _text(part: Mapping[str, Any], place: str) -> str:
    """The text of a part. Raises `RequestError` for parts that are of another kind."""
    kind = next((kind for kind in MEDIA if part.get(kind) is not None), None)
    if kind is not None or part.keys() - BESIDE:
        param = place if kind is None else f"{place}.{kind}"
        words = MEDIA.get(kind or "", "parts are text, inlineData with an image, functionCall or functionResponse")
        raise RequestError(f"{param}: {words}", param=param, code="unsupported_content_part")
    text = part.get("text")
    if isinstance(text, str):
        return text
    if text is None:
        raise missing(f"{place}.text")
    raise mistyped(f"{place}.text", "a string")


def _call(given: Any, place: str, turn: int, number: int) -> ToolCall:
    param = f"{place}.functionCall"
    name, args, id = _object(given, param, "args")
    return ToolCall(id or f"call_{turn}_{number}", name, json.dumps(args))


def _result(made: Turns, given: Any, param: str) -> Message:
    """The result of a call: of the one whose id it has, else of the first of its name that has none yet."""
    name, response, id = _object(given, param, "response")
    found = made.waiting.take(name, id)
    output = response["output"] if response.keys() == {"output"} else response
    content, images = joined([output if isinstance(output, str) else json.dumps(output), *_shown(given, param)])
    return Message("tool", content, name=name, tool_call_id=id or (found.id if found else name), images=images)


def _shown(result: Mapping[str, Any], param: str) -> Sequence[str | Image]:
    """What the result of a call has beside its object: images, mostly."""
    parts = result.get("parts")
    if parts is not None and not isinstance(parts, list):
        raise mistyped(f"{param}.parts", "a list")
    return [_piece(part, f"{param}.parts.{n}") for n, part in enumerate(cast("list[Any]", parts or []))]


def _object(given: Any, param: str, key: str) -> tuple[str, dict[str, Any], str | None]:
    """(name, the object under `key`, id) of a call or its result."""
    if not isinstance(given, dict):
        raise mistyped(param, "an object")
    held = cast("dict[str, Any]", given)
    name, value, id = held.get("name"), held.get(key), held.get("id")
    if not isinstance(name, str) or not name:
        raise missing(f"{param}.name")
    if value is not None and not isinstance(value, dict):
        raise mistyped(f"{param}.{key}", "an object")
    if id is not None and not isinstance(id, str):
        raise mistyped(f"{param}.id", "a string")
    return name, cast("dict[str, Any]", value or {}), id or None


def _standard(base64: str) -> str:
    """Bytes in JSON may be written in either alphabet of base64, with or without padding."""
    plain = base64.replace("-", "+").replace("_", "/").rstrip("=")
    return plain + "=" * (-len(plain) % 4)
