"""Who speaks a dialect: what the checks of promises must be told of it, to ask in it and to read its answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from ponder.compute.text import Tool
from ponder.server.dialect import Dialect


@dataclass(frozen=True)
class Wish:
    """A request in words of our own. What is None is not said."""

    question: str
    model: str
    thinking: int | None = None
    """Hidden tokens at most."""
    streamed: bool = False
    strategy: str | None = None
    verifier: str | None = None
    answer_tokens: int | None = None
    """Visible tokens at most."""
    max_cost_usd: float | None = None
    seed: int | None = None
    timeout: float | None = None
    """Seconds."""
    schema: str | None = None
    """The answer is a document of this JSON schema."""
    tool: Tool | None = None
    """It may be called."""


@dataclass(frozen=True)
class Billed:
    """What an answer says it has used, in tokens. None: the dialect has no word for it."""

    prompt: int
    """All of it, what was cached included."""
    generated: int
    """Hidden and visible."""
    hidden: int | None = None
    cached: int | None = None


class Caller(Protocol):
    """The caller. Promises about what it has no words for (`asks`, `usage`, `calls`, `failure` left as they are here)
    are not checked."""

    def body(self, question: str, *, model: str, thinking: int, streamed: bool) -> bytes:
        """A request that asks a question of a model, with so many tokens of thought at most."""
        ...

    def headers(self, key: str) -> Mapping[str, str]:
        """The headers that present an API key, and what else each request of the dialect has."""
        ...

    def path(self, dialect: Dialect, *, model: str, streamed: bool) -> str:
        """Where such a request is posted, a query behind a `?` included; said where the dialect's path has parts that
        vary."""
        return dialect.path

    def text(self, raw: bytes, *, streamed: bool) -> str:
        """The text of the first answer, from the whole body of a response."""
        ...

    def asks(self, wish: Wish) -> bytes | None:
        """The body of a request for all of a wish. None: the dialect has no words for a part of it."""
        return None

    def usage(self, raw: bytes, *, streamed: bool) -> Billed | None:
        """What a response says it has used; None where it does not."""
        return None

    def calls(self, raw: bytes, *, streamed: bool) -> Sequence[tuple[str, str]] | None:
        """(name, arguments as JSON text) of each call of a tool in a response."""
        return None

    def failure(self, raw: bytes, *, streamed: bool) -> str | None:
        """The message of the error that a response is, or that its stream ends with. None: there is none in it."""
        return None
