"""What a judge is shown of a conversation with images: each at its place in words, and itself before them."""

from __future__ import annotations

from ponder.compute.text import Image, Message, Prompt, joined
from ponder.verifiers.consensus import Consensus
from ponder.verifiers.judge import Judge
from tests.verifiers.hand import QUESTION, candidate

ONE, TWO = Image("image/png", b"1"), Image("image/png", b"2")


def seen() -> Prompt:
    text, images = joined(["Which is older, ", ONE, " or ", TWO, "?"])
    return Prompt((Message("system", "Be brief."), Message("user", text, images=images)))


def test_a_judge_sees_the_images_of_what_it_judges() -> None:
    for asked in (
        Judge().question(candidate("The first.", prompt=seen())),
        Consensus().question(seen(), ["The first.", "The second."], [1, 1]),
    ):
        first, second, text = asked.messages[0].pieces
        assert (first, second) == (ONE, TWO)
        assert isinstance(text, str)
        assert "user: Which is older, (image 1) or (image 2)?" in text


def test_of_a_conversation_without_images_nothing_is_said_of_them() -> None:
    (text,) = Judge().question(candidate("7", prompt=QUESTION)).messages[0].pieces
    assert isinstance(text, str)
    assert "image" not in text
