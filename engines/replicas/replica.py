"""The contract of one replica: an engine that a server somewhere else runs, with what a pool of them has to know."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from ponder.compute.engine import Engine
from ponder.compute.errors import Lost


@dataclass(frozen=True, slots=True)
class Load:
    """What a server says of the work it has, at one moment."""

    running: int
    """Requests it works on."""
    waiting: int
    """Requests that wait for it."""
    cache: float
    """The share of its KV cache that is in use, of 1."""
    queried: int = 0
    """Tokens of prompts looked up in its prefix cache since it was started."""
    hits: int = 0
    """Of those, the ones it found there."""


@runtime_checkable
class Replica(Engine, Protocol):
    """An engine behind an address."""

    @property
    def url(self) -> str:
        """Where its server is: scheme, host and port, a path before vLLM's own at most. No key is in it."""
        ...

    async def health(self) -> None:
        """Returns where the server says within a few seconds that its engine lives; asks for no token. Raises `Lost`
        where nobody answers, and `EngineError` where it says otherwise, and names what it said instead."""
        ...

    async def load(self) -> Load:
        """What the server has to do now. Raises `EngineError` where it does not say."""
        ...


class NotTaken(Lost):
    """The server did not take a call, so of this call nothing was read or made: it is away, or has too much to do."""

    def __init__(self, message: str, *, retry_after: float, answered: bool = False, sent: bool = False) -> None:
        """`retry_after`: seconds until it may take one; `answered`: it has said so itself; `sent`: it has said nothing,
        and may have got the call all the same."""
        super().__init__(message)
        self.retry_after = retry_after
        self.answered = answered
        self.sent = sent
