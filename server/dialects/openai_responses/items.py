"""Items of a conversation as turns of it: what one turn of the model was given out as comes together again.

A turn of an assistant is several items: its thought, sealed; its text; each of its calls. What follows belongs to the
same turn until somebody else speaks, or the assistant has said something twice without a call between.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ponder.compute.errors import RequestError
from ponder.compute.text import Image, Images, Message, ToolCall, joined
from ponder.server.dialects.customs import checked_text, without_thought
from ponder.server.dialects.images import image_of_url, not_of_users, other_media
from ponder.server.dialects.openai_responses.schema import (
    FunctionCall,
    FunctionCallOutput,
    InputMessage,
    ItemReference,
    ReasoningItem,
)
from ponder.server.loop_thoughts import asked_at
from ponder.server.sealed_thoughts import SEVERAL

OneItem = InputMessage | FunctionCall | FunctionCallOutput | ReasoningItem | ItemReference
Items = Sequence[OneItem]
OF_AN_ANSWER = re.compile(r"(?:rs|msg|fc)_([0-9a-f]{48})(?:[0-9a-f]{2,8})?")
"""Ids of items of answers, which have that of their response in them."""


@dataclass(slots=True)
class _Turn:
    """An assistant's, as far as it has come."""

    texts: list[str] = field(default_factory=list[str])
    calls: list[ToolCall] = field(default_factory=list[ToolCall])
    seals: list[str] = field(default_factory=list[str])
    place: str = ""
    """Of its first item."""
    sealed: str = ""
    """Where its first seal is."""
    places: list[str] = field(default_factory=list[str])
    """Of its calls."""


class Conversation:
    """Turns that are put together of items, and where each came from."""

    def __init__(self, named: Mapping[str, OneItem] | None = None) -> None:
        """`named`: items that the others only name, by their ids; None: they are yet to be looked for."""
        self._named = named
        self.messages: list[Message] = []
        self.names: dict[str, str] = {}
        """Paths of our request, and what they are called in the caller's."""
        self._turn = _Turn()

    def add(self, item: OneItem, where: str) -> None:
        """Raises `RequestError`. `where`: the field that has it."""
        match item:
            case ReasoningItem():
                self._reasoned(item, where)
            case FunctionCall():
                self._called(item, where)
            case FunctionCallOutput():
                output, images = content_of(item.output, f"{where}.output")
                told = Message("tool", output, tool_call_id=item.call_id, images=images)
                self.say(told, where, f"{where}.output")
            case ItemReference():
                self._named_only(item.id, where)
            case InputMessage():
                text, images = content_of(item.content, f"{where}.content")
                if images and item.role != "user":
                    raise not_of_users(images)
                if item.role == "assistant":
                    self._said(without_thought(text), where)
                else:
                    self.say(Message(item.role, text, images=images), where)

    def _named_only(self, id: str, where: str) -> None:
        """An item of an earlier answer. While it is yet to be looked for, it is something that the assistant said."""
        found = None if self._named is None else self._named.get(id)
        if found is not None:
            self.add(found, where)
        elif self._named is None and response_of(id):
            self._said("", where)
        else:
            raise RequestError(
                f"{where} refers to an item that is not kept for this API key: send the item itself",
                param=f"{where}.id",
                code="item_not_found",
            )

    def say(self, message: Message, where: str, content: str | None = None) -> None:
        """A whole turn. `content`: where its text is, if that is not called so."""
        self.close()
        at = f"messages.{len(self.messages)}"
        self.names[at] = where
        if content is not None:
            self.names[f"{at}.content"] = content
        self.messages.append(message)

    def close(self) -> None:
        """The assistant's turn is over. Raises `RequestError` for a thought that led to nothing."""
        turn, at = self._turn, len(self.messages)
        if not turn.place:
            return
        self._turn = _Turn()
        if turn.seals and not turn.texts and not turn.calls:
            raise RequestError(
                f"{turn.sealed} is a thought without what it led to: send the message or the calls behind it, too",
                param=turn.sealed,
                code="invalid_value",
            )
        if not turn.texts and not turn.calls:
            return
        self.names[f"messages.{at}"] = turn.place
        for j, place in enumerate(turn.places):
            self.names[f"messages.{at}.tool_calls.{j}"] = place
        if turn.seals:
            self.names[f"messages.{at}.sealed"] = f"{turn.sealed}.encrypted_content"
        self.messages.append(
            Message(
                "assistant",
                "".join(turn.texts),
                tool_calls=tuple(turn.calls),
                sealed=SEVERAL.join(turn.seals) or None,
            )
        )

    def _reasoned(self, item: ReasoningItem, where: str) -> None:
        if self._turn.texts or self._turn.calls:
            self.close()
        self._turn.place = self._turn.place or where
        if item.encrypted_content:
            self._turn.seals.append(item.encrypted_content)
            self._turn.sealed = self._turn.sealed or where

    def _called(self, item: FunctionCall, where: str) -> None:
        self._turn.place = self._turn.place or where
        self._turn.calls.append(ToolCall(item.call_id, item.name, item.arguments))
        self._turn.places.append(where)

    def _said(self, text: str, where: str) -> None:
        if self._turn.texts and not self._turn.calls:
            self.close()
        self._turn.place = self._turn.place or where
        self._turn.texts.append(text)


def response_of(id: str) -> str | None:
    """The id of the response that an item is of; None: it is of no answer of this server's."""
    found = OF_AN_ANSWER.fullmatch(id)
    return None if found is None else f"resp_{found[1]}"


def of_this_turn(messages: Sequence[Message]) -> list[Message]:
    """The same, without the thoughts from before the user's last question."""
    asked = asked_at(messages)
    return [replace(one, sealed=None) if i < asked and one.sealed else one for i, one in enumerate(messages)]


def content_of(given: str | Sequence[Mapping[str, Any]], param: str) -> tuple[str, Images]:
    """The text of a content or an output, and the images in it. Raises `RequestError` for parts this server has no
    model for."""
    if isinstance(given, str):
        return given, ()
    return joined([_part(part, f"{param}.{i}") for i, part in enumerate(given)])


def _part(part: Mapping[str, Any], param: str) -> str | Image:
    kind, text = part.get("type"), checked_text(part, param)
    if text is not None:
        return text
    if kind == "input_image" and part.get("image_url") is not None:
        return image_of_url(part["image_url"], f"{param}.image_url")
    if kind == "input_image":
        raise RequestError(
            f"{param} names no image_url: this server keeps no files, so send the image itself, as a data URL",
            param=f"{param}.image_url",
            code="unsupported_content_part",
        )
    raise other_media(kind, f"{param}.type") or RequestError(
        f"{param}.type is none that is known; there are input_text and input_image",
        param=f"{param}.type",
        code="invalid_value",
    )
