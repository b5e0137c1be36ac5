"""What is sent to a server and what its answers mean, without any input or output of its own.

An exchange is a generator: it yields requests, is sent the response to each, read whole, and returns the result. So the
client that blocks and the one for asyncio differ in how they send alone, as with the authentication flows of httpx.
"""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar, cast
from urllib.parse import quote

import httpx
from httpx_sse import SSEError
from pydantic import ValidationError

from ponder.clients.answers import (
    AskError,
    CutOff,
    Model,
    Part,
    Piece,
    Refused,
    Reply,
    Strategy,
    Unreachable,
    Unsendable,
)

T = TypeVar("T")

Messages: TypeAlias = str | Sequence[Mapping[str, Any]]
"""A question, or a conversation as OpenAI writes one."""

CONNECT, WRITE = 10.0, 60.0
"""Seconds for the connection, and for a part of the request to be taken."""
LISTED = 30.0
"""Seconds of silence before a list."""
UNSTREAMED = 600.0
"""Seconds of silence before an answer that is not streamed: the server gives up at 540 unless told otherwise."""
SILENCE = 360.0
"""Seconds of silence on a stream: the server sends a comment every 10, and every 300 at the most."""


@dataclass(frozen=True, slots=True)
class Request:
    """One request. `path` begins behind the server's address, `content` is JSON, `silence` is in seconds."""

    method: str
    path: str
    content: bytes | None = None
    silence: float = LISTED

    @property
    def timeout(self) -> httpx.Timeout:
        """Silence is what the read limit bounds: it begins anew with all that comes."""
        return httpx.Timeout(connect=CONNECT, write=WRITE, pool=CONNECT, read=self.silence)


Exchange: TypeAlias = Generator[Request, httpx.Response, T]
"""Requests out, responses in, the result at the end. Raises `Refused` and `CutOff`."""


@dataclass(frozen=True, slots=True)
class Question:
    """What a caller asks. Without `model`, the first one the server lists; `fields` are any others of the API's."""

    messages: Messages
    model: str | None
    thinking_budget: int | str | None
    max_cost_usd: float | None
    strategy: str | Mapping[str, Any] | None
    fields: Mapping[str, Any]


# -- exchanges --------------------------------------------------------------------------------------------------------


def models() -> Exchange[list[Model]]:
    """What the server serves."""
    return [Model.model_validate(item) for item in (yield from _listed("/v1/models"))]


def strategies() -> Exchange[list[Strategy]]:
    """The ways to spend a budget."""
    return [Strategy.model_validate(item) for item in (yield from _listed("/v1/strategies"))]


def trace(request_id: str) -> Exchange[dict[str, Any]]:
    """What became of a request, call by call."""
    told: Any = checked((yield Request("GET", f"/v1/traces/{quote(request_id, safe='')}"))).json()
    return dict(told)


def chat(question: Question) -> Exchange[Reply]:
    """A whole answer."""
    return _reply(checked((yield (yield from asked(question, streamed=False)))))


def asked(question: Question, *, streamed: bool) -> Exchange[Request]:
    """The request that asks a question of chat completions."""
    messages = question.messages
    talk = [{"role": "user", "content": messages}] if isinstance(messages, str) else messages
    more = {"stream": True, "stream_options": {"include_usage": True}} if streamed else {}
    return (yield from asking("/v1/chat/completions", "messages", talk, question, more))


def asking(path: str, name: str, talk: object, question: Question, more: Mapping[str, Any]) -> Exchange[Request]:
    """The request that asks a question, its conversation in the field `name`; the models are listed first where none is
    named. Its silence stands behind the server's own limit: with `timeout` asked of that, half a minute more. Raises
    `Unsendable` before all."""
    body: dict[str, Any] = {"model": question.model, name: talk}
    wishes = {
        "thinking_budget": question.thinking_budget,
        "max_cost_usd": question.max_cost_usd,
        "strategy": question.strategy,
    }
    body |= {k: v for k, v in wishes.items() if v is not None} | dict(question.fields) | dict(more)
    parts = {field: _written(field, value) for field, value in body.items()}
    if not question.model:
        parts["model"] = _written("model", (yield from models())[0].id)
    limit = question.fields.get("timeout")
    silence = SILENCE if more else UNSTREAMED
    if isinstance(limit, int | float):
        silence = limit + 30.0
    content = b",".join(_written("a name", field) + b":" + value for field, value in parts.items())
    return Request("POST", path, b"{" + content + b"}", silence)


def _written(name: str, value: object) -> bytes:
    """A value as JSON. Mappings and sequences of any kind are objects and lists. Raises `Unsendable`."""
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False, default=_plain).encode()
    except (TypeError, ValueError, RecursionError) as error:
        why = "it has half of a surrogate pair" if isinstance(error, UnicodeEncodeError) else str(error)
        raise Unsendable(f"{name} cannot be written as JSON: {why}") from error


def _plain(value: object) -> object:
    """What `json` knows, for a type it does not know."""
    if isinstance(value, Mapping):
        return dict(cast("Mapping[str, Any]", value))
    if isinstance(value, Sequence) and not isinstance(value, bytes | bytearray):
        return list(cast("Sequence[Any]", value))
    raise TypeError(f"{type(value).__name__} is nothing that JSON has")


def _listed(path: str) -> Exchange[tuple[dict[str, Any], ...]]:
    return _Listed.model_validate(checked((yield Request("GET", path))).json()).data


# -- what responses mean ----------------------------------------------------------------------------------------------


class _Listed(Part):
    data: tuple[dict[str, Any], ...]


class _Failed(Part):
    error: dict[str, Any]


def checked(response: httpx.Response) -> httpx.Response:
    """The response, read whole where it is no success. Raises the server's refusal."""
    if response.is_success:
        return response
    try:
        error = _Failed.model_validate_json(response.content).error
    except ValidationError:
        error = {}
    raise refusal(error, response.status_code, response.headers)


def refusal(error: Mapping[str, Any], status: int, headers: Mapping[str, str]) -> Refused:
    """A server's error object as an error of this client."""
    wait = headers.get("retry-after", "")
    return Refused(
        str(error.get("message") or f"the server answered {status}"),
        status=status,
        code=error.get("code"),
        param=error.get("param"),
        request_id=headers.get("x-request-id"),
        retry_after=float(wait) if wait.isdecimal() else None,
    )


def _reply(response: httpx.Response) -> Reply:
    data = response.json()
    choices = [
        {
            "text": choice["message"].get("content") or "",
            "finish_reason": choice.get("finish_reason"),
            "tool_calls": choice["message"].get("tool_calls") or (),
        }
        for choice in data["choices"]
    ]
    return Reply.model_validate(data | {"choices": choices, "request_id": response.headers.get("x-request-id")})


class Gathering:
    """Puts the events of a stream together: pieces as they come, the reply at the end."""

    def __init__(self, response: httpx.Response) -> None:
        self._headers = checked(response).headers
        self._whole: dict[str, Any] = {"request_id": self._headers.get("x-request-id")}
        self._choices: dict[int, dict[str, Any]] = {}
        self._done = False

    def take(self, data: str) -> Iterator[Piece]:
        """The pieces in the data of one event. Raises the server's refusal."""
        if not data:
            return
        if data == "[DONE]":
            self._done = True
            return
        chunk: dict[str, Any] = json.loads(data)
        if "error" in chunk:
            raise refusal(chunk["error"], 200, self._headers)
        self._whole |= {k: chunk[k] for k in ("id", "model", "usage", "thinking") if chunk.get(k) is not None}
        for part in chunk["choices"]:
            choice = self._choices.setdefault(part["index"], {"text": "", "tool_calls": {}})
            choice["finish_reason"] = part.get("finish_reason") or choice.get("finish_reason")
            delta: dict[str, Any] = part["delta"]
            for call in delta.get("tool_calls") or ():
                known = choice["tool_calls"].setdefault(call["index"], {"function": {"name": "", "arguments": ""}})
                known["id"] = call.get("id") or known.get("id", "")
                for name, text in call.get("function", {}).items():
                    known["function"][name] += text or ""
            if text := delta.get("content"):
                choice["text"] += text
                yield Piece(text=text, choice=part["index"])

    def reply(self) -> Reply:
        """The whole answer. Raises `CutOff` where the stream ended before it."""
        if not self._done:
            raise CutOff("the stream ended before the answer did")
        choices = [c | {"tool_calls": list(c["tool_calls"].values())} for _, c in sorted(self._choices.items())]
        return Reply.model_validate(self._whole | {"choices": choices})


@contextmanager
def in_our_words(address: str) -> Generator[None]:
    """Raises errors of the transport, and of answers that are none, as the errors of this client."""
    try:
        yield
    except AskError:
        raise
    except httpx.ConnectError as error:
        raise Unreachable(f"no server answers at {address}: is `ponder serve` running there?") from error
    except httpx.TimeoutException as error:
        raise Unreachable(f"{address} took too long ({type(error).__name__})") from error
    except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
        raise Unreachable(f"{address} is no address: {error}") from error
    except SSEError as error:
        raise CutOff(f"{address} answered with something else than a stream of events") from error
    except httpx.RequestError as error:
        raise CutOff(f"the connection to {address} broke off ({type(error).__name__})") from error
    except (ValidationError, ValueError, LookupError, TypeError) as error:
        raise CutOff(f"{address} answered with something else than a Ponder server's JSON") from error
