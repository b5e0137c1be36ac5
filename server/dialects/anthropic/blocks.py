"""Turns of Anthropic's conversation, block by block, as messages of our own.

One turn of a user may become several messages: each result of a tool is one. What other turns hold is one message, and
turns of the same side are one turn, as Anthropic's API has it. So it is noted of each message where it stands in the
request, for errors.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NoReturn, cast

from ponder.compute.errors import RequestError
from ponder.compute.text import Image, Images, Message, ToolCall, joined
from ponder.server.dialects.anthropic.schema import CountRequest, Turn
from ponder.server.dialects.customs import without_thought
from ponder.server.dialects.images import image_of_base64, image_of_url
from ponder.server.validation import missing, mistyped

BETWEEN = "\n"
"""Between the texts of a user's turn, of a result, of the system's prompt: each is a text of its own."""
FAILED = "Error: "
"""Before the result of a tool that has failed: no chat template has another place for that."""
SEALED = {"thinking": "signature", "redacted_thinking": "data"}
"""Where a block of thinking has the thought, sealed. Its text is a summary, which no model reads again."""
KNOWN = (
    *("image", "document", "search_result", "container_upload", "server_tool_use", "tool_reference", "mcp_tool_use"),
    *("browser_state", "web_search_tool_result", "web_fetch_tool_result", "code_execution_tool_result"),
    *("bash_code_execution_tool_result", "text_editor_code_execution_tool_result", "tool_search_tool_result"),
    *("mcp_tool_result", "compaction", "tool_addition", "tool_removal", "advisor_tool_result"),
)
"""Blocks of Anthropic's that this server has nothing for."""


@dataclass(slots=True)
class _Side:
    """The turn that is read, as far as it has come."""

    first: Message
    pieces: list[str | Image]
    calls: list[ToolCall]
    sealed: str | None

    def whole(self) -> Message:
        text, images = joined(self.pieces)
        calls = tuple(self.calls)
        return replace(self.first, content=text, images=images, tool_calls=calls, sealed=self.sealed)


class Turns:
    """The messages of a conversation, and what they and their parts are called in the request."""

    def __init__(self, request: CountRequest) -> None:
        self.messages: list[Message] = []
        self._side: _Side | None = None
        self.names: dict[str, str] = {}
        """From our path of a message, of a call's arguments or of a sealed thought to the path in the request."""
        if request.system is not None:
            self._add(Message("system", _texts(request.system, "system")), "system")
        for i, turn in enumerate(request.messages):
            self._take(turn, f"messages.{i}")
        self._close()
        if request.messages[-1].role == "assistant":
            last = f"messages.{len(request.messages) - 1}"
            raise RequestError(
                f"{last} is the assistant's, and this server does not go on with a turn that was begun (prefill): the "
                "last message should be the user's",
                param=last,
                code="unsupported_parameter",
            )

    def _take(self, turn: Turn, place: str) -> None:
        content = turn.content
        if turn.role == "assistant":
            self._assistant(content, place)
        elif turn.role == "system" or isinstance(content, str):
            self._add(Message(turn.role, _texts(content, f"{place}.content")), place)
        else:
            self._user(content, place)

    def _user(self, blocks: Sequence[Mapping[str, Any]], place: str) -> None:
        said: list[str | Image] = []
        for j, block in enumerate(blocks):
            at = f"{place}.content.{j}"
            if block.get("type") != "tool_result":
                said.append(_piece(block, at))
                continue
            if said:
                self._add(_user_said(said), place)
                said = []
            text, images = _result(block, at)
            name = _given(block, "tool_use_id", str, at)
            self._add(Message("tool", text, tool_call_id=name, images=images), at)
        if said or not blocks:
            self._add(_user_said(said), place)

    def _assistant(self, content: str | Sequence[Mapping[str, Any]], place: str) -> None:
        if isinstance(content, str):
            self._add(Message("assistant", without_thought(content)), place)
            return
        texts: list[str] = []
        calls: list[tuple[ToolCall, str]] = []
        sealed: tuple[str, str] | None = None
        for j, block in enumerate(content):
            at = f"{place}.content.{j}"
            kind = block.get("type")
            if isinstance(kind, str) and kind in SEALED:
                field = SEALED[kind]
                given = _given(block, field, str, at)
                if given and sealed is not None and given != sealed[0]:
                    raise RequestError(
                        f"{at}: a turn of a model here has one block of thinking, and this one has another",
                        param=at,
                        code="invalid_value",
                    )
                if given:
                    sealed = given, f"{at}.{field}"
            elif kind == "tool_use":
                arguments = json.dumps(_given(block, "input", dict, at), ensure_ascii=False)
                call = ToolCall(_given(block, "id", str, at), _given(block, "name", str, at), arguments)
                calls.append((call, f"{at}.input"))
            else:
                texts.append(_text(block, at))
        side = self._add(
            Message(
                "assistant",
                without_thought("".join(texts)),
                tool_calls=tuple(call for call, _ in calls),
                sealed=sealed and sealed[0],
            ),
            place,
        )
        last = len(self.messages)
        first = len(side.calls) - len(calls)
        for number, (_, at) in enumerate(calls, first):
            self.names[f"messages.{last}.tool_calls.{number}.arguments"] = at
        if sealed is not None:
            self.names[f"messages.{last}.sealed"] = sealed[1]

    def _add(self, message: Message, place: str) -> _Side:
        """One more, or more of the last one where both are of the same side."""
        side = self._side
        alike = side is not None and side.first.role == message.role and message.role in ("user", "assistant")
        if side is not None and alike and not (side.sealed and message.sealed):
            side.pieces += (BETWEEN if message.role == "user" else "", *message.pieces)
            side.calls += message.tool_calls
            side.sealed = side.sealed or message.sealed
            return side
        self._close()
        self.names[f"messages.{len(self.messages)}"] = place
        self._side = side = _Side(message, [*message.pieces], [*message.tool_calls], message.sealed)
        return side

    def _close(self) -> None:
        if self._side is not None:
            self.messages.append(self._side.whole())


def _texts(content: str | Sequence[Mapping[str, Any]], place: str) -> str:
    if isinstance(content, str):
        return content
    return BETWEEN.join(_text(block, f"{place}.{j}") for j, block in enumerate(content))


def _result(block: Mapping[str, Any], place: str) -> tuple[str, Images]:
    """The text of a tool's result, and the images in it."""
    content, failed = block.get("content"), _given(block, "is_error", bool, place, False)
    if content is not None and not isinstance(content, str | list):
        raise mistyped(f"{place}.content", "a string or a list")
    found = cast("str | list[Any] | None", content)
    pieces = (
        [found]
        if isinstance(found, str)
        else [_piece(one, f"{place}.content.{j}") for j, one in enumerate(found or [])]
    )
    return joined([FAILED * failed, *_apart(pieces)])


def _user_said(pieces: Sequence[str | Image]) -> Message:
    text, images = joined(_apart(pieces))
    return Message("user", text, images=images)


def _apart(pieces: Sequence[str | Image]) -> Iterator[str | Image]:
    """Texts that follow one another stay texts of their own."""
    before: str | Image | None = None
    for piece in pieces:
        if isinstance(before, str) and isinstance(piece, str):
            yield BETWEEN
        yield piece
        before = piece


def _piece(block: Any, place: str) -> str | Image:
    """What a block of a user's or of a result is."""
    if not isinstance(block, dict) or cast("dict[str, Any]", block).get("type") != "image":
        return _text(block, place)
    source: dict[str, Any] = _given(cast("dict[str, Any]", block), "source", dict, place)
    kind = source.get("type")
    if kind == "url":
        return image_of_url(source.get("url"), f"{place}.source.url")
    if kind != "base64":
        _unsupported(f"{place}.source", "this server keeps no files: send the image itself, as base64")
    return image_of_base64(source.get("media_type"), source.get("data"), f"{place}.source.data")


def _several(blocks: Sequence[Any], place: str) -> list[str]:
    return [_text(block, f"{place}.{j}") for j, block in enumerate(blocks)]


def _text(block: Any, place: str) -> str:
    """The text of a block that is one, or holds one: a document of plain text, what a search has found."""
    if not isinstance(block, dict):
        raise mistyped(place, "an object")
    given = cast("dict[str, Any]", block)
    kind = given.get("type")
    if kind == "text":
        return _given(given, "text", str, place)
    if kind == "document":
        return _document(given, place)
    if kind == "search_result":
        found: list[Any] = _given(given, "content", list, place)
        head = [_given(given, name, str, place) for name in ("title", "source")]
        return BETWEEN.join([*head, *_several(found, f"{place}.content")])
    if kind == "image":
        _unsupported(f"{place}.type", "images stand in turns of a user or in what a tool returned")
    if kind in KNOWN:
        _unsupported(f"{place}.type", "this server has nothing for blocks of this type")
    raise RequestError(
        f"{place}.type should be text, document, search_result, thinking, redacted_thinking, tool_use or tool_result, "
        "where it belongs",
        param=f"{place}.type",
    )


def _document(block: dict[str, Any], place: str) -> str:
    """A document whose source is text."""
    source: dict[str, Any] = _given(block, "source", dict, place)
    if (_given(block, "citations", dict, place, {})).get("enabled"):
        _unsupported(f"{place}.citations", "this server cites nothing")
    head = [text for name in ("title", "context") if (text := _given(block, name, str, place, ""))]
    kind = source.get("type")
    if kind == "text":
        return BETWEEN.join([*head, _given(source, "data", str, f"{place}.source")])
    if kind == "content":
        content = source.get("content")
        found = (
            [content]
            if isinstance(content, str)
            else _several(_given(source, "content", list, f"{place}.source"), f"{place}.source.content")
        )
        return BETWEEN.join([*head, *found])
    return _unsupported(f"{place}.source.type", "of documents this server reads those that are text: send their text")


def _given(block: Mapping[str, Any], field: str, kind: type[Any], place: str, default: Any = None) -> Any:
    """A field of a block, of this type. Raises `RequestError` where it is of another, or missing and has no default."""
    value = block.get(field)
    if value is None:
        if default is None:
            raise missing(f"{place}.{field}")
        return default
    if not isinstance(value, kind):
        words: dict[Any, str] = {str: "a string", dict: "an object", list: "a list", bool: "true or false"}
        raise mistyped(f"{place}.{field}", words[kind])
    return value


def _unsupported(param: str, words: str) -> NoReturn:
    raise RequestError(f"{param}: {words}", param=param, code="unsupported_content_part")
