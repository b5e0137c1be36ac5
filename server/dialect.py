"""What an API is to this server: how its requests are read, its keys found, its answers and errors written.

A dialect is one entry of a table (`ponder.server.dialects`). It reads bytes into a `Request` and writes what
`ponder.server.answers` has into bytes; between the two nothing knows which dialect it was.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

from starlette.responses import Response
from starlette.routing import compile_path

from ponder.compute.errors import RequestError
from ponder.compute.text import TokenLogprob, ToolCall
from ponder.server.answers import End, Failure, Progress, Summary, Whole
from ponder.server.plan import ResolvedRequest
from ponder.server.request import Request
from ponder.server.settings import Limits

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Target:
    """Where a request was sent, and with what beside its body."""

    path: Mapping[str, str] = field(default_factory=dict[str, str])
    """What stands in the place of the `{name}`s of the dialect's path."""
    query: Mapping[str, str] = field(default_factory=dict[str, str])
    """Of a name that is given twice, the last."""
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    """Finds names in lower case."""


class Writer(Protocol):
    """Writes the answers to one request. Answers are told apart by their index, from 0. A class that inherits from this
    one has what is optional."""

    media_type: str
    """Of an answer in one piece."""
    stream_headers: Sequence[tuple[bytes, bytes]]
    """Of a stream, its media type among them; names in lower case."""
    headers: Mapping[str, str]
    """Of this request's answer, streamed or not."""
    keep_alive: bytes
    """Sent while a stream is silent; clients ignore it."""
    closing: bytes
    """The last bytes of a stream that did not fail, at least one."""

    streams_arguments: bool = False
    """Calls are written while the model writes them, by `call_begun` and `call_arguments`; else when each is complete,
    by `tool_call`. A writer is given one of the two ways and never both."""

    def opening(self) -> bytes:
        """The first events of a stream, sent before the model has begun."""
        ...

    def thought(self, index: int, sealed: str) -> bytes:
        """The thought of an answer, sealed, where the request wants that and the thought is over before the first
        text. The end of the answer has it, too."""
        return b""

    def text(self, index: int, text: str, logprobs: Sequence[TokenLogprob]) -> bytes:
        """New visible text. It may be empty where only log-probabilities are new, which may not have been asked for."""
        ...

    def tool_call(self, index: int, number: int, call: ToolCall) -> bytes:
        """A call that is complete, the `number`th of its answer. For writers that do not stream arguments."""
        ...

    def call_begun(self, index: int, number: int, id: str, name: str) -> bytes:
        """A call has begun, the `number`th of its answer from 0. It comes once for each call, before its arguments,
        and the calls of an answer come one after the other."""
        return b""

    def call_arguments(self, index: int, number: int, piece: str) -> bytes:
        """New text of the arguments of a call that has begun. Nothing is taken back: all pieces of a call together are
        its arguments, JSON, or where the model has gone wrong in them, as it wrote them. A call is complete when the
        next begins and when the answer ends, but for the last of an answer that ends `cut`."""
        return b""

    def revealed(self, index: int, thought: str) -> bytes:
        """The thought of an answer, where the key may see it and the request asks for it, and it is over before the
        first text. The end of the answer has it, too."""
        return b""

    def progress(self, index: int, progress: Progress) -> bytes:
        """How far an answer is, where the request wants to know (`Request.progress`): when it changes, twice a second
        at most, from the opening of the stream to the end of the answer."""
        return b""

    def end(self, index: int, end: End, summary: Summary | None) -> bytes:
        """An answer has ended; with the last of them to end comes the summary."""
        ...

    def failure(self, failure: Failure) -> bytes:
        """The last bytes of a stream that failed; at least one."""
        ...

    def whole(self, answers: Sequence[Whole], summary: Summary) -> bytes:
        """All answers in one piece."""
        ...


Item = Mapping[str, Any]
"""Something in a conversation that is kept, as its dialect has it in JSON. It has an `id`."""


@dataclass(eq=False, slots=True)
class Keeping:
    """What a request wants kept of itself and of its answer, to be asked for again or gone on with; and what its writer
    has told, for that to be kept (`ponder.server.kept.answer`). Of one request, and one run of it."""

    id: str
    """Of the response, as its writer calls it: nobody can guess one."""
    store: bool | None
    """It is to be kept; None: the caller does not say."""
    background: bool
    """It is to run behind its caller, who asks for it later. Its events are then kept whether it is streamed or not, so
    its writer may be asked for a stream, and its events are numbered from 0 in the order in which they leave."""
    previous: str | None
    """The response whose conversation it goes on with."""
    items: Sequence[Item]
    """The input, with what it goes on with before it."""
    behind: Callable[[Sequence[Item], Mapping[str, Item]], Reading]
    """The same request behind the items of an earlier conversation, and with those that it only names, by their ids, as
    far as they were found. Raises `RequestError` in the dialect's words."""
    named: Mapping[str, str] = field(default_factory=dict[str, str])
    """Items of earlier answers that the input only names: their ids, and the ids of the responses they are of."""
    created: Item | None = None
    """Told by the writer with the opening of a stream: the response as it is then."""
    answer: Item | None = None
    """Told by the writer with what it writes last, whole, end or failure: the response for good, with a `status`."""
    sealed: dict[str, str] = field(default_factory=dict[str, str])
    """Told by the writer: by the ids of items of the answer, the thought that belongs there, sealed. Kept, and put
    before a model that goes on with it, also where the caller is not given it."""


@dataclass(frozen=True, slots=True)
class Reading:
    """A request that was read, and who writes its answers once it is planned."""

    request: Request
    writer: Callable[[ResolvedRequest], Writer]
    names: Mapping[str, str]
    """What the dialect calls our fields, see `FieldNames`."""
    count: Callable[[int], bytes] | None = None
    """Writes the number of tokens of the prompt, as JSON, where that alone was asked for; then there is no answer."""
    keeping: Keeping | None = None
    """None: the dialect keeps nothing."""
    beside: str = ""
    """What of its query and headers says something else than the body alone, for an `Idempotency-Key`: the same text
    where they mean the same. No key is in it."""

    def renamed(self, error: BaseException) -> BaseException:
        """An error in the dialect's words, where it is the request's."""
        if not isinstance(error, RequestError):
            return error
        return FieldNames({**self.names, "thinking": self.request.thinking.source}).error(error)


class Dialect(Protocol):
    """One API. It has no state."""

    path: str
    """Where its requests are posted. It may have parts that vary, `{name}` or `{name:path}`, as Starlette's have."""
    key_hint: str
    """How a caller sends a key, behind the words `send the header`."""

    def key(self, headers: Mapping[str, str]) -> str | None:
        """The API key a caller presents. `headers` finds names in lower case."""
        ...

    def read(self, raw: bytes, limits: Limits, target: Target) -> Reading:
        """A request's body, and where it was sent. Raises `RequestError` that names fields as the dialect does."""
        ...

    def error(self, failure: Failure) -> Response:
        """The answer to a request that failed before anything was sent."""
        ...

    def operation(self) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
        """(OpenAPI's description of its `post`, the schemas it refers to), for `/openapi.json`."""
        ...


@runtime_checkable
class KeyInQuery(Protocol):
    """A dialect whose callers may send their key in the query, where no header has it."""

    key_parameter: str
    """Its name there."""


class ByPath(Generic[T]):
    """What is at paths that may have parts that vary. A path without any is found first, then in the given order."""

    def __init__(self, table: Mapping[str, T]) -> None:
        self._fixed = {path: one for path, one in table.items() if "{" not in path}
        varying = [(path, one) for path, one in table.items() if "{" in path]
        # Starlette's `{name:path}` is every character but a line break, which a path may hold as %0A.
        self._varying = [(re.compile(compile_path(path)[0].pattern, re.DOTALL), path, one) for path, one in varying]

    def __call__(self, path: str) -> tuple[T, str, dict[str, str]] | None:
        """What is there, its path as it stands in the table, and the parts that vary; None: nothing is."""
        if (one := self._fixed.get(path)) is not None:
            return one, path, {}
        for pattern, known, one in self._varying:
            if (match := pattern.match(path)) is not None:
                return one, known, match.groupdict()
        return None


class FieldNames:
    """What a dialect calls the fields of a `Request`.

    `names`: from our path to the dialect's, `*` in the place of the index of a list; a path with the index itself goes
    before that. What stands behind a path that is known is kept, and so is a path of which nothing is known.
    """

    def __init__(self, names: Mapping[str, str]) -> None:
        self._names = names
        self._longest = max((name.count(".") + 1 for name in names), default=0)

    def __call__(self, path: str) -> str:
        """Our path in the dialect's words."""
        parts = path.split(".")
        for length in range(min(len(parts), self._longest), 0, -1):
            known = self._names.get(".".join(parts[:length]))
            if known is not None:
                return ".".join([known, *parts[length:]])
            known = self._names.get(".".join("*" if part.isdecimal() else part for part in parts[:length]))
            if known is not None:
                indices = iter([part for part in parts[:length] if part.isdecimal()])
                mapped = [next(indices) if part == "*" else part for part in known.split(".")]
                return ".".join([*mapped, *parts[length:]])
        return path

    def error(self, error: RequestError) -> RequestError:
        """The same error in the dialect's words: the field, and the message where it names one: as its first word, or
        as a path."""
        renamed = copy.copy(error)
        begin = re.match(r"[\w.]*\w", error.message)
        if begin is not None:
            renamed.message = self(begin[0]) + error.message[begin.end() :]
        if error.param is not None:
            renamed.param = self(error.param)
            if "." in error.param and begin is not None and begin[0] != error.param:
                renamed.message = renamed.message.replace(error.param, renamed.param)
        return renamed
