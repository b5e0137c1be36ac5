"""A conversation as material for a model that judges it: its turns as text, and the images in it before that."""

from __future__ import annotations

from ponder.compute.text import Image, Images, Prompt


def as_text(prompt: Prompt) -> str:
    """A line for each turn; each image is named by its number."""
    lines: list[str] = []
    number = 0
    for message in prompt.messages:
        said = f"{message.role}: "
        for piece in message.pieces:
            number += isinstance(piece, Image)
            said += f"(image {number})" if isinstance(piece, Image) else piece
        lines.append(said)
    return "\n".join(lines)


def in_front(prompt: Prompt) -> Images:
    """Its images, in order, before the text of the one message that shows it to the judge."""
    return tuple((0, image) for image in prompt.images)
