"""The one place where a thought leaves the server: for a key with the scope `reveal`."""

from __future__ import annotations

import sys
from collections.abc import Mapping

from ponder.compute.outcome import Outcome
from ponder.compute.text import Hidden
from ponder.server.keys import Key

Texts = Mapping[int, tuple[Hidden[str], Hidden[str]]]
"""Thought and answer of calls, by their number."""
PAIR = 300
"""Bytes of memory of the objects around two texts."""


def permitted(key: Key, asked: bool) -> bool:
    """Whether the answer carries its thought: where it was asked for, with a key that may see it."""
    return asked and key.may("reveal")


def shown(texts: tuple[Hidden[str], Hidden[str]]) -> dict[str, str]:
    """What a call has written, for a trace; kept only where the operator wants it, shown only to such a key."""
    thought, answer = texts
    return {"thought": thought.unseal(), "answer": answer.unseal()}


def size(texts: Texts) -> int:
    """Bytes of memory they take."""
    return sum(PAIR + sum(sys.getsizeof(text.unseal()) for text in pair) for pair in texts.values())


def bytes_of(thought: Hidden[str]) -> int:
    """Bytes of memory that a thought takes; 0 for one that says nothing."""
    text = thought.unseal()
    return sys.getsizeof(text) if text.strip() else 0


def thought(outcome: Outcome) -> str:
    """The thought of the chosen chain; call it only where `permitted` said so."""
    return outcome.thought.unseal()
