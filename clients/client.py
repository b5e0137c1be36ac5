"""A client for a Ponder server, for programs that want its thinking in types. Any OpenAI client works too.

    with Client("http://127.0.0.1:8000") as ponder:
        reply = ponder.chat("Tom has 12 apples and gets 7 more. How many now?", thinking_budget=256)
        print(reply.text, reply.usage.reasoning_tokens, reply.thinking.stopped_by)

It speaks HTTP and imports nothing of the server's. What can go wrong::

    AskError
    ├── Unreachable     nobody answered, or not in time
    ├── Refused         the server said no: `status`, `code`, `param` and its own words
    └── CutOff          the answer ended in the middle, or was none
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any, TypeAlias

import httpx
from pydantic import BaseModel, ConfigDict, Field, ValidationError

Messages: TypeAlias = str | Sequence[Mapping[str, Any]]
"""A question, or a conversation as OpenAI writes one."""

CONNECT, WRITE = 10.0, 60.0
UNSTREAMED = 600.0
"""Seconds of silence before an answer that is not streamed: the server gives up at 540 unless told otherwise."""
SILENCE = 360.0
"""Seconds of silence on a stream: the server sends a comment every 10, and every 300 at the most."""


class AskError(Exception):
    """The root of what a client raises."""


class Unreachable(AskError):
    """No server at this address, or no answer in time."""


class CutOff(AskError):
    """The connection ended before the answer did, or what came was no answer."""


class Refused(AskError):
    """The server's own error. `retry_after` is in seconds, where trying again may help."""

    def __init__(
        self,
        message: str,
        *,
        status: int,
        code: str | None = None,
        param: str | None = None,
        request_id: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        self.code = code
        self.param = param
        self.request_id = request_id
        self.retry_after = retry_after


class _Part(BaseModel):
    """A piece of the server's JSON: frozen, and what a newer server adds is no error."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class Thinking(_Part):
    """What the server tells about the hidden part. Counts are tokens of the language model."""

    strategy: str = ""
    budget: int | None = None
    budget_source: str | None = None
    budget_clamped_from: int | None = None
    spent: int = 0
    samples: int = 1
    samples_requested: int = 1
    stopped_by: str = ""
    agreement: float | None = None
    verifier: str | None = None
    score: float | None = None
    verifier_tokens: int = 0
    discarded_tokens: int = 0


class _CompletionDetails(_Part):
    reasoning_tokens: int = 0


class _PromptDetails(_Part):
    cached_tokens: int = 0


class Usage(_Part):
    """Tokens as OpenAI counts them: `completion_tokens` includes the reasoning."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    completion_tokens_details: _CompletionDetails = _CompletionDetails()
    prompt_tokens_details: _PromptDetails = _PromptDetails()

    @property
    def reasoning_tokens(self) -> int:
        return self.completion_tokens_details.reasoning_tokens

    @property
    def cached_tokens(self) -> int:
        return self.prompt_tokens_details.cached_tokens

    @property
    def visible_tokens(self) -> int:
        return self.completion_tokens - self.reasoning_tokens


class Function(_Part):
    name: str = ""
    arguments: str = ""


class ToolCall(_Part):
    """A function the model wants called; `function.arguments` is JSON text."""

    id: str = ""
    function: Function = Function()


class Choice(_Part):
    """One answer."""

    text: str = ""
    finish_reason: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()


class Reply(_Part):
    """A whole answer, streamed or not."""

    id: str = ""
    model: str = ""
    choices: tuple[Choice, ...] = Field(min_length=1)
    usage: Usage = Usage()
    thinking: Thinking = Thinking()
    request_id: str | None = None

    @property
    def text(self) -> str:
        """The first choice's text."""
        return self.choices[0].text


class Piece(_Part):
    """Visible text as it is written, of choice number `choice`."""

    text: str
    choice: int = 0


class Model(_Part):
    """A model the server lists; `MODEL:STRATEGY` ids are in the list too."""

    id: str


class Strategy(_Part):
    """A way to spend a budget, and the JSON schema of its parameters."""

    name: str
    description: str = ""
    parameters: dict[str, Any] = Field(default_factory=dict)


class _Listed(_Part):
    data: tuple[dict[str, Any], ...]


class _Failed(_Part):
    error: dict[str, Any]


def _address(url: str) -> str:
    """With or without `/v1` at its end, as people write it for OpenAI clients."""
    return url.rstrip("/").removesuffix("/v1")


def _headers(api_key: str | None) -> dict[str, str]:
    return {"authorization": f"Bearer {api_key}"} if api_key else {}


def _body(
    messages: Messages,
    model: str,
    thinking_budget: int | str | None,
    strategy: str | Mapping[str, Any] | None,
    stream: bool,
    fields: Mapping[str, Any],
) -> dict[str, Any]:
    talk = [{"role": "user", "content": messages}] if isinstance(messages, str) else list(messages)
    wishes = {"thinking_budget": thinking_budget, "strategy": strategy}
    body = {"model": model, "messages": talk} | {k: v for k, v in wishes.items() if v is not None} | dict(fields)
    return body | ({"stream": True, "stream_options": {"include_usage": True}} if stream else {})


def _timeout(silence: float, fields: Mapping[str, Any]) -> httpx.Timeout:
    """The read limit stands behind the server's own: with `timeout` asked of it, half a minute more than that."""
    asked = fields.get("timeout")
    read = asked + 30.0 if isinstance(asked, int | float) else silence
    return httpx.Timeout(connect=CONNECT, write=WRITE, pool=CONNECT, read=read)


@contextmanager
def _sent_chars(address: str) -> Generator[None]:
    """Transport errors in our words."""
    try:
        yield
    except httpx.ConnectError as error:
        raise Unreachable(f"no server answers at {address}: is `ponder serve` running there?") from error
    except httpx.TimeoutException as error:
        raise Unreachable(f"{address} took too long ({type(error).__name__})") from error
    except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
        raise Unreachable(f"{address} is no address: {error}") from error
    except httpx.RequestError as error:
        raise CutOff(f"the connection to {address} broke off ({type(error).__name__})") from error
    except (ValidationError, ValueError, LookupError, TypeError) as error:
        raise CutOff(f"{address} answered with something else than a Ponder server's JSON") from error


def _refusal(error: Mapping[str, Any], status: int, headers: Mapping[str, str]) -> Refused:
    wait = headers.get("retry-after", "")
    return Refused(
        str(error.get("message") or f"the server answered {status}"),
        status=status,
        code=error.get("code"),
        param=error.get("param"),
        request_id=headers.get("x-request-id"),
        retry_after=float(wait) if wait.isdecimal() else None,
    )


def _checked(response: httpx.Response) -> httpx.Response:
    """The response, read whole, or the server's refusal."""
    if response.is_success:
        return response
    try:
        error = _Failed.model_validate_json(response.content).error
    except ValidationError:
        error = {}
    raise _refusal(error, response.status_code, response.headers)


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


class _Gathering:
    """Puts a stream's chunks together: pieces as they come, the reply at the end."""

    def __init__(self, headers: Mapping[str, str]) -> None:
        self._headers = headers
        self._whole: dict[str, Any] = {"request_id": headers.get("x-request-id")}
        self._choices: dict[int, dict[str, Any]] = {}
        self.done = False

    def line(self, line: str) -> Iterator[Piece]:
        """The pieces in one line of the stream; comments and blank lines have none."""
        if not line.startswith("data:"):
            return
        data = line.removeprefix("data:").strip()
        if data == "[DONE]":
            self.done = True
            return
        chunk: dict[str, Any] = json.loads(data)
        if "error" in chunk:
            raise _refusal(chunk["error"], 200, self._headers)
        self._whole |= {k: chunk[k] for k in ("id", "model", "usage", "thinking") if chunk.get(k) is not None}
        for part in chunk["choices"]:
            choice = self._choices.setdefault(part["index"], {"text": "", "tool_calls": {}})
            choice["finish_reason"] = part.get("finish_reason") or choice.get("finish_reason")
            delta: dict[str, Any] = part["delta"]
            for call in delta.get("tool_calls") or ():
                kept = choice["tool_calls"].setdefault(call["index"], {"function": {"name": "", "arguments": ""}})
                kept["id"] = call.get("id") or kept.get("id", "")
                for name, text in call.get("function", {}).items():
                    kept["function"][name] += text or ""
            if text := delta.get("content"):
                choice["text"] += text
                yield Piece(text=text, choice=part["index"])

    def reply(self) -> Reply:
        if not self.done:
            raise CutOff("the stream ended before the answer did")
        choices = [c | {"tool_calls": list(c["tool_calls"].values())} for _, c in sorted(self._choices.items())]
        return Reply.model_validate(self._whole | {"choices": choices})


class Client:
    """Talks to one server. `url` with or without `/v1`; `transport` is for tests."""

    def __init__(
        self,
        url: str = "http://127.0.0.1:8000",
        api_key: str | None = None,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self.address = _address(url)
        self._http = httpx.Client(
            base_url=self.address, headers=_headers(api_key), timeout=_timeout(30, {}), transport=transport
        )

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    def models(self) -> list[Model]:
        """What the server serves, `MODEL:STRATEGY` included."""
        return [Model.model_validate(item) for item in self._listed("/v1/models")]

    def strategies(self) -> list[Strategy]:
        """The ways to spend a budget."""
        return [Strategy.model_validate(item) for item in self._listed("/v1/strategies")]

    def chat(
        self,
        messages: Messages,
        *,
        model: str | None = None,
        thinking_budget: int | str | None = None,
        strategy: str | Mapping[str, Any] | None = None,
        **fields: Any,
    ) -> Reply:
        """A whole answer. Without `model`, the first the server lists; `fields` are any of the API's."""
        with _sent_chars(self.address):
            body = _body(messages, model or self.models()[0].id, thinking_budget, strategy, False, fields)
            timeout = _timeout(UNSTREAMED, fields)
            return _reply(_checked(self._http.post("/v1/chat/completions", json=body, timeout=timeout)))

    def stream(
        self,
        messages: Messages,
        *,
        model: str | None = None,
        thinking_budget: int | str | None = None,
        strategy: str | Mapping[str, Any] | None = None,
        **fields: Any,
    ) -> Generator[Piece | Reply]:
        """The answer's pieces as they are written, then the whole reply. Closing it hangs up: the server stops."""
        with _sent_chars(self.address):
            body = _body(messages, model or self.models()[0].id, thinking_budget, strategy, True, fields)
            timeout = _timeout(SILENCE, fields)
            with self._http.stream("POST", "/v1/chat/completions", json=body, timeout=timeout) as response:
                if not response.is_success:
                    response.read()
                gathering = _Gathering(_checked(response).headers)
                for line in response.iter_lines():
                    yield from gathering.line(line)
                yield gathering.reply()

    def _listed(self, path: str) -> tuple[dict[str, Any], ...]:
        with _sent_chars(self.address):
            return _Listed.model_validate(_checked(self._http.get(path)).json()).data


class AsyncClient:
    """`Client`, for asyncio. Leave a stream early inside `contextlib.aclosing`, so that it hangs up at once."""

    def __init__(
        self,
        url: str = "http://127.0.0.1:8000",
        api_key: str | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self.address = _address(url)
        self._http = httpx.AsyncClient(
            base_url=self.address, headers=_headers(api_key), timeout=_timeout(30, {}), transport=transport
        )

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        await self._http.aclose()

    async def models(self) -> list[Model]:
        """What the server serves, `MODEL:STRATEGY` included."""
        return [Model.model_validate(item) for item in await self._listed("/v1/models")]

    async def strategies(self) -> list[Strategy]:
        """The ways to spend a budget."""
        return [Strategy.model_validate(item) for item in await self._listed("/v1/strategies")]

    async def chat(
        self,
        messages: Messages,
        *,
        model: str | None = None,
        thinking_budget: int | str | None = None,
        strategy: str | Mapping[str, Any] | None = None,
        **fields: Any,
    ) -> Reply:
        """A whole answer. Without `model`, the first the server lists; `fields` are any of the API's."""
        with _sent_chars(self.address):
            name = model or (await self.models())[0].id
            body = _body(messages, name, thinking_budget, strategy, False, fields)
            timeout = _timeout(UNSTREAMED, fields)
            return _reply(_checked(await self._http.post("/v1/chat/completions", json=body, timeout=timeout)))

    async def stream(
        self,
        messages: Messages,
        *,
        model: str | None = None,
        thinking_budget: int | str | None = None,
        strategy: str | Mapping[str, Any] | None = None,
        **fields: Any,
    ) -> AsyncGenerator[Piece | Reply]:
        """The answer's pieces as they are written, then the whole reply. Closing it hangs up: the server stops."""
        with _sent_chars(self.address):
            name = model or (await self.models())[0].id
            body = _body(messages, name, thinking_budget, strategy, True, fields)
            timeout = _timeout(SILENCE, fields)
            async with self._http.stream("POST", "/v1/chat/completions", json=body, timeout=timeout) as response:
                if not response.is_success:
                    await response.aread()
                gathering = _Gathering(_checked(response).headers)
                async for line in response.aiter_lines():
                    for piece in gathering.line(line):
                        yield piece
                yield gathering.reply()

    async def _listed(self, path: str) -> tuple[dict[str, Any], ...]:
        with _sent_chars(self.address):
            return _Listed.model_validate(_checked(await self._http.get(path)).json()).data
