"""The visible text of one answer on its way to the caller, each part of it sent once."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from ponder.compute.engine import Delta
from ponder.compute.text import Candidate

OnDelta = Callable[[Delta], Awaitable[None]]
"""Takes new text at once, before anything is awaited; then it may wait until there is room for more. Cancelled while it
waits it has taken the text, and counts as told."""


class Stream:
    """Sends visible text to the caller, and counts how much was sent."""

    __slots__ = ("_chars", "_logprobs", "_on_delta")

    def __init__(self, on_delta: OnDelta) -> None:
        self._on_delta = on_delta
        self._chars = self._logprobs = 0

    @property
    def begun(self) -> bool:
        """Some of it was sent."""
        return self._chars > 0

    async def tell(self, delta: Delta) -> None:
        """Counts new text and hands it on. Cancelled, it has handed the text on already: it was waiting for room."""
        self._chars += len(delta.text)
        self._logprobs += len(delta.logprobs)
        await self._on_delta(delta)

    async def tell_rest(self, chosen: Candidate) -> None:
        """Hands on the part of the candidate's text that was not sent yet."""
        if len(chosen.text) > self._chars:
            thought = None if self.begun else chosen.thought
            await self.tell(Delta(chosen.text[self._chars :], chosen.logprobs[self._logprobs :], thought))
