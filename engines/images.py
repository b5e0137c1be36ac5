"""How images come into a prompt: the form a chat template takes them in, and what a model's processor makes of its ids.

A template writes a word for each image, one control token or a few. The processor puts as many tokens in its place as
the image has for the model, which depends on its size. So a prompt is counted, bounded and paid for as the model reads
it before the engine is asked anything.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from ponder.compute.text import Hidden, Image, Message
from ponder.engines.written import Written

Form = Literal["none", "part", "word"]
"""How a template is told of an image: not at all · by a part of the message's content, for which it writes its word
itself · by the word in the text."""


@dataclass(frozen=True, slots=True)
class Expanded:
    """A prompt with the tokens of its images."""

    ids: list[int]
    ranges: tuple[tuple[int, int], ...]
    """Where the images are: first id, and the id behind the last, in order."""
    media: Any
    """What the engine is given beside the ids."""


class ImageReader(Protocol):
    """What makes of images what one model reads."""

    @property
    def most(self) -> int:
        """Images of a prompt at most."""
        ...

    @property
    def words(self) -> tuple[str, ...]:
        """What stands for the first images of a text, where its template does not write it."""
        ...

    @property
    def samples(self) -> Sequence[Image]:
        """Images to try with."""
        ...

    def expanded(self, ids: Sequence[int], images: Sequence[Image]) -> Expanded:
        """The ids with those of the images in the places of their words. From any thread. Raises `RequestError` where
        the model reads no such image, or the ids have not as many places."""
        ...


@dataclass(frozen=True, slots=True)
class Shape:
    """What a template takes as the content of a message."""

    form: Form = "none"
    parts: bool = False
    """Texts as parts in any case: it makes nothing of a content that is a text."""
    words: tuple[str, ...] = ()

    def content(self, message: Message, put: Callable[[str], str], number: int) -> Any:
        """The content of a message as the template wants it, before which there were so many images."""
        if not message.images or self.form == "none":
            text = message.content.unseal() if isinstance(message.content, Hidden) else message.content
            return [{"type": "text", "text": put(text)}] if self.parts else put(text)
        if self.form == "part":
            return [
                {"type": "text", "text": put(piece)} if isinstance(piece, str) else {"type": "image"}
                for piece in message.pieces
            ]
        pieces: list[str] = []
        for piece in message.pieces:
            if isinstance(piece, str):
                pieces.append(put(piece))
            else:
                pieces.append(Written.whole(self.words[min(number, len(self.words) - 1)]))
                number += 1
        text = Written.joined(pieces)
        return [{"type": "text", "text": text}] if self.parts else text


TEXT = Shape()
"""What most take."""


def together(contents: Sequence[Any]) -> Any:
    """Contents, texts and lists of parts, as one; texts that follow one another are one."""
    if all(isinstance(content, str) for content in contents):
        return Written.joined(contents)
    parts: list[Any] = []
    for content in contents:
        for part in [{"type": "text", "text": content}] if isinstance(content, str) else content:
            if parts and "text" in parts[-1] and "text" in part:
                parts[-1] = part | {"text": Written.joined([parts[-1]["text"], part["text"]])}
            else:
                parts.append(part)
    return parts


def has(content: Any, word: str) -> bool:
    """A text of a content has the word in it."""
    return word in content if isinstance(content, str) else any(word in part.get("text", "") for part in content)
