"""Tables of words, written as text."""

from __future__ import annotations


def listed(words: str) -> list[str]:
    """The words of a text."""
    return words.split()
