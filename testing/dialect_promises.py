"""The promises of a dialect, as a check: it is spoken with over a scripted model, whole and in streams.

The server holds the bound, counts and hides for every dialect; what a dialect can break is the rest: it must read what
was asked, write all that was answered, refuse in its own words, and let no body through that is not its own.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from fastapi import FastAPI
from starlette.datastructures import Headers, QueryParams
from starlette.responses import Response

from ponder.compute.account import Intent
from ponder.compute.errors import RequestError
from ponder.compute.lengths import Lengths
from ponder.compute.text import Tool
from ponder.compute.usage import Usage
from ponder.server.answers import Failure
from ponder.server.app import ServedModel, create_app
from ponder.server.auth.keys import digest
from ponder.server.dialect import ByPath, Dialect, Reading, Target, Writer
from ponder.server.plan import ResolvedRequest
from ponder.server.settings import KeySettings, Limits, ModelSettings, Settings
from ponder.testing.callers import Caller, Wish
from ponder.testing.echo import written_call
from ponder.testing.require import at_most, promised, require
from ponder.testing.scripted import MARKER, Chain, ScriptedEngine, always
from ponder.testing.virtual_time import in_virtual_time

MODEL = "demo"
QUESTION = "What is 3 + 4?"
ANSWER = 'It is 7,\nor "seven"\u2028 \\n é 🙂: {}</s>\r\n\n.'
"""Has what a framing may stumble over."""
CHAIN = Chain(f"{MARKER}: three and four\nmake seven", ANSWER)
LONG = Chain(MARKER * 40, ANSWER * 4)
TAKES = '{"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}'
KEY = "sk-of-the-check"
BUDGETS = (0, 1, 7, 60, 700)
"""Thinking budgets in tokens, from none to plenty."""
ALLOWED = 5_000
"""Seconds of virtual time that a call may take: no call of a check takes a tenth of it."""
STRANGE = (b"", b"{", b"null", b"[]", b"{}", b'"x"', b"\xff\xfe", b'{"a": NaN}', b"[" * 100_000, b'{"a": 1, "a": 2}')
"""Bodies that are nobody's request."""


def check_dialect(dialect: Dialect, caller: Caller) -> None:
    """Checks all promises of a dialect, one after another, in virtual time and without a network.

    Raises `AssertionError` that says which promise was broken and how.
    """
    answering = (_reads, _bound, _whole_and_streamed, _tells_usage, _calls)
    failing = (_strange, _refuses, _keys, _alive, _hang_up, _engine_fails, _tells_failures)
    for promise in (*answering, *failing):
        with promised(type(dialect).__name__, promise.__doc__):
            in_virtual_time(promise(dialect, caller))


# -- the promises -----------------------------------------------------------------------------------------------------


async def _reads(dialect: Dialect, caller: Caller) -> None:
    """A request is read as it was meant."""
    for streamed in (False, True):
        for thinking in BUDGETS:
            raw = caller.body(QUESTION, model=MODEL, thinking=thinking, streamed=streamed)
            place = caller.path(dialect, model=MODEL, streamed=streamed)
            request = dialect.read(raw, Limits(), _target(dialect, caller, place)).request
            require(request.model == MODEL, f"the model {MODEL!r} was read as {request.model!r}")
            require(request.stream == streamed, f"stream was read as {request.stream}, not {streamed}")
            read = request.thinking.tokens
            require(read == thinking, f"{thinking} tokens of thought were read as {read}")
            asked = request.messages[-1].content if request.messages else None
            if request.raw:
                asked = request.raw[-1].text
            require(asked == QUESTION, "the last message, or the raw text, is not the question")


async def _bound(dialect: Dialect, caller: Caller) -> None:
    """The budget binds, every token is counted, no thought is in the answer."""
    for strategy in ("direct", "majority_vote"):
        for streamed in (False, True):
            for thinking in BUDGETS:
                call = _Call(dialect, caller, ScriptedEngine(always(CHAIN)), strategy=strategy)
                await call.ask(thinking=thinking, streamed=streamed)
                call.answered()
                at_most("hidden tokens", call.account.usage.hidden, thinking)
                call.settled()


async def _whole_and_streamed(dialect: Dialect, caller: Caller) -> None:
    """What is streamed is what is given whole, and it is what the model said."""
    for streamed in (False, True):
        call = _Call(dialect, caller, ScriptedEngine(always(CHAIN)))
        await call.ask(streamed=streamed)
        call.answered()
        text, how = caller.text(call.raw, streamed=streamed), "streamed" if streamed else "whole"
        require(text == ANSWER, f"{how}, the answer is {text!r}, not {ANSWER!r}")
        if streamed:
            (writer,) = call.dialect.writers
            require(bool(writer.closing), "`closing` is empty: a stream's last bytes are at least one")
            require(call.raw.endswith(writer.closing), "a stream that did not fail does not end with `closing`")


async def _tells_usage(dialect: Dialect, caller: Caller) -> None:
    """What an answer says it has used is what is billed."""
    for streamed in (False, True):
        for thinking in BUDGETS:
            wish = Wish(QUESTION, MODEL, thinking, streamed)
            call = _Call(dialect, caller, ScriptedEngine(always(CHAIN), cached=3))
            await call.wishes(wish)
            call.answered()
            told, billed = caller.usage(call.raw, streamed=streamed), call.account.usage
            if told is None:
                return
            for what, found, wanted in (
                ("tokens of the prompt", told.prompt, billed.prompt),
                ("generated tokens", told.generated, billed.generated),
                ("hidden tokens", told.hidden, billed.hidden),
                ("tokens from the cache", told.cached, billed.prompt_cached),
            ):
                require(found in (None, wanted), f"an answer says {found} {what}, where {wanted} are billed")


async def _calls(dialect: Dialect, caller: Caller) -> None:
    """A call of a tool is one, whole and streamed."""
    for streamed in (False, True):
        call = _Call(dialect, caller, ScriptedEngine(always(Chain(MARKER, written_call("add", '{"a": 3}')))))
        if not await call.wishes(Wish(QUESTION, MODEL, 60, streamed, tool=Tool("add", "", TAKES))):
            return
        call.answered()
        found = caller.calls(call.raw, streamed=streamed) or ()
        made = [(name, json.loads(arguments)) for name, arguments in found]
        require(made == [("add", {"a": 3})], f"a call of add is told as {made}")


async def _strange(dialect: Dialect, caller: Caller) -> None:
    """A body that is no request of its own is refused as the caller's fault."""
    asked = caller.body(QUESTION, model=MODEL, thinking=7, streamed=False)
    for raw in (*STRANGE, asked[: len(asked) // 2]):
        shown = raw[:20]
        try:
            place = caller.path(dialect, model=MODEL, streamed=False)
            dialect.read(raw, Limits(), _target(dialect, caller, place))
        except RequestError:
            call = _Call(dialect, caller, ScriptedEngine(always(CHAIN)))
            await call.send(raw, caller.headers(KEY))
            call.refused(400, f"a body that begins {shown!r}")
        except Exception as error:  # noqa: BLE001 - anybody's code: whatever it raises is the finding
            raise AssertionError(f"on a body that begins {shown!r} `read` raised {type(error).__name__}") from None
        else:
            raise AssertionError(f"a body that begins {shown!r} was read as a request")


async def _refuses(dialect: Dialect, caller: Caller) -> None:
    """An error names the field as the request does."""
    for what, status, model, question, thinking in (
        ("an unknown model", 404, "nobody", QUESTION, 7),
        ("too long a question", 400, MODEL, "x" * 100_001, 7),
        ("too much thought", None, MODEL, QUESTION, 1 << 30),
    ):
        body = caller.body(question, model=model, thinking=thinking, streamed=False)
        call = _Call(dialect, caller, ScriptedEngine(always(CHAIN)))
        await call.send(body, caller.headers(KEY), model=model)
        if status is None and call.status == 200:
            # The dialect has it lowered to the ceiling.
            continue
        failure = call.refused(status or 400, what)
        first = (failure.field or "").partition(".")[0]
        require(bool(first), f"{what} is refused without a field")
        known = first.encode() in body or f"{{{first}" in dialect.path
        require(known, f"{what} is refused with the field {first!r}, which is not in the request")
        for ours in ("messages", "thinking_budget"):
            named = ours in failure.message and ours.encode() not in body
            require(not named, f"{what} is refused with words about {ours!r}, which is not in the request")


async def _keys(dialect: Dialect, caller: Caller) -> None:
    """A key is found where the dialect says, and only there."""
    for key, status in ((None, 401), ("another", 401), (KEY, 200)):
        call = _Call(dialect, caller, ScriptedEngine(always(CHAIN)), keys=[KeySettings(name="a", hash=digest(KEY))])
        await call.ask(key=key)
        what = "no key" if key is None else "a key that is unknown" if status == 401 else "a key that is known"
        if status == 200:
            require(call.status == 200, f"with {what} the answer is a {call.status}")
            call.answered()
            continue
        failure = call.refused(status, what)
        told = key is not None or dialect.key_hint in failure.message
        require(told, "a caller without a key is not told `key_hint`")


async def _alive(dialect: Dialect, caller: Caller) -> None:
    """What keeps a silent stream alive means nothing."""
    call = _Call(dialect, caller, ScriptedEngine(always(CHAIN), delay=3), keepalive=2)
    await call.ask(streamed=True)
    call.answered()
    (writer,) = call.dialect.writers
    require(bool(writer.keep_alive), "`keep_alive` is empty")
    require(writer.keep_alive in call.raw, "`keep_alive` is not in the stream")
    text = caller.text(call.raw, streamed=True)
    require(text == ANSWER, f"with `keep_alive` between, the answer is {text!r}, not {ANSWER!r}")


async def _hang_up(dialect: Dialect, caller: Caller) -> None:
    """A caller who hangs up stops the model, and every token is counted."""
    for streamed in (False, True):
        for produced in (0, 1, len(MARKER) * 20, len(MARKER) * 40 + 10):
            call = _Call(dialect, caller, ScriptedEngine(always(LONG), delay=0.1, tail=3))
            call.leaves_at = produced
            await call.ask(thinking=600, streamed=streamed)
            call.settled()


async def _engine_fails(dialect: Dialect, caller: Caller) -> None:
    """A failure is told, whole and in a stream, and is no end like another."""
    for streamed in (False, True):
        call = _Call(dialect, caller, ScriptedEngine(always(CHAIN), fail_at=0))
        await call.ask(streamed=streamed)
        call.settled()
        require(MARKER not in call.seen, "a thought is in what is told of a failure")
        if not streamed:
            call.refused(500, "a failure of the model")
            continue
        (writer,) = call.dialect.writers
        require(not call.raw.endswith(writer.closing), "a stream that failed ends with `closing`")
        told = writer.failure(Failure(500, "engine_error", "the model failed", None))
        require(bool(told), "`failure` wrote nothing: a stream's last bytes are at least one")


async def _tells_failures(dialect: Dialect, caller: Caller) -> None:
    """An error has a message, before the first byte and after it, and an answer has none."""
    for streamed in (False, True):
        call = _Call(dialect, caller, ScriptedEngine(always(CHAIN)))
        await call.ask(streamed=streamed)
        require(caller.failure(call.raw, streamed=streamed) is None, "an answer is told as a failure")
    # The model goes away in the middle of the answer: of a stream something is out already.
    call = _Call(dialect, caller, ScriptedEngine(always(CHAIN), vanish_at={0: len(CHAIN.thought) + 9}))
    await call.ask()
    if not (whole := caller.failure(call.raw, streamed=False)):
        return
    require(call.status == 503, f"a model that went away is a {call.status}, not a 503")
    call = _Call(dialect, caller, ScriptedEngine(always(CHAIN), vanish_at={0: len(CHAIN.thought) + 9}))
    await call.ask(streamed=True)
    require(call.status == 200, f"a stream in which the model went away begins with a {call.status}")
    told = caller.failure(call.raw, streamed=True)
    require(told == whole, f"a stream whose model went away ends with {told!r}, where the whole answer says {whole!r}")
    call.settled()


# -- what they are checked with ---------------------------------------------------------------------------------------


@dataclass
class _Watched:
    """A dialect, and what went through it."""

    inner: Dialect
    writers: list[Writer] = field(default_factory=list[Writer])
    failures: list[tuple[Failure, Response]] = field(default_factory=list[tuple[Failure, Response]])

    def __post_init__(self) -> None:
        self.path, self.key_hint = self.inner.path, self.inner.key_hint

    def key(self, headers: Mapping[str, str]) -> str | None:
        return self.inner.key(headers)

    def read(self, raw: bytes, limits: Limits, target: Target) -> Reading:
        reading = self.inner.read(raw, limits, target)

        def writer(resolved: ResolvedRequest) -> Writer:
            self.writers.append(reading.writer(resolved))
            return self.writers[-1]

        return replace(reading, writer=writer)

    def error(self, failure: Failure) -> Response:
        self.failures.append((failure, self.inner.error(failure)))
        return self.failures[-1][1]

    def operation(self) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
        return self.inner.operation()


@dataclass
class _Told:
    """An account of one request, and its bill."""

    usage: Usage = field(default_factory=Usage)
    settled: int = 0
    used: Callable[[Usage], None] | None = None

    async def reserve(self, intent: Intent) -> _Told:
        return self

    async def settle(self, usage: Usage, ending: str) -> None:
        self.usage, self.settled = usage, self.settled + 1


def _target(dialect: Dialect, caller: Caller, place: str) -> Target:
    """What a request that is posted there is read with."""
    path, _, query = place.partition("?")
    found = ByPath({dialect.path: True})(path)
    require(found is not None, f"the path {path} of a request is none of the dialect's")
    return Target(found[2] if found else {}, QueryParams(query), Headers(dict(caller.headers(KEY))))


class _Call:
    """One request over a server of its own, and what came of it."""

    def __init__(
        self, dialect: Dialect, caller: Caller, engine: ScriptedEngine, *, strategy: str = "direct", **settings: Any
    ) -> None:
        self.dialect, self.caller, self.engine, self.account = _Watched(dialect), caller, engine, _Told()
        model = ModelSettings.model_validate({"path": "scripted", "strategy": strategy})
        served = ServedModel(engine, Lengths(*engine.card.typical_chain), model)
        self.app: FastAPI = create_app(
            Settings(**settings), {MODEL: served}, dialects=[self.dialect], accounts=[self.account]
        )
        self.leaves_at: int | None = None
        """The caller hangs up when the engine has made so many tokens."""
        self.status, self.headers, self.raw = 0, dict[str, str](), b""
        self._body: bytes | None = None

    async def ask(self, *, thinking: int = 60, streamed: bool = False, key: str | None = KEY) -> None:
        headers = None if key is None else self.caller.headers(key)
        body = self.caller.body(QUESTION, model=MODEL, thinking=thinking, streamed=streamed)
        await self.send(body, headers, streamed=streamed)

    async def wishes(self, wish: Wish) -> bool:
        """Asks for all of it; False where the dialect has no words for that."""
        body = self.caller.asks(wish)
        if body is None and wish != Wish(wish.question, wish.model, wish.thinking, wish.streamed):
            return False
        if body is None:
            body = self.caller.body(wish.question, model=MODEL, thinking=wish.thinking or 0, streamed=wish.streamed)
        await self.send(body, self.caller.headers(KEY), streamed=wish.streamed)
        return True

    async def send(
        self, body: bytes, headers: Mapping[str, str] | None = None, *, model: str = MODEL, streamed: bool = False
    ) -> None:
        self._body = body
        path, _, query = self.caller.path(self.dialect, model=model, streamed=streamed).partition("?")
        given = {"content-type": "application/json", **(headers or {})}
        scope = {
            "type": "http",
            "method": "POST",
            "path": path,
            "query_string": query.encode(),
            "http_version": "1.1",
            "headers": [(name.lower().encode(), value.encode()) for name, value in given.items()],
        }
        try:
            async with asyncio.timeout(ALLOWED):
                await _run(self.app, scope, self._receive, self._take)
        except TimeoutError:
            raise AssertionError("the answer never ends: are the last bytes of a stream empty?") from None

    async def _receive(self) -> dict[str, Any]:
        if self._body is not None:
            body, self._body = self._body, None
            return {"type": "http.request", "body": body}
        if self.leaves_at is None:
            await asyncio.Event().wait()
        while not self.engine.running or self.engine.produced < (self.leaves_at or 0):  # noqa: ASYNC110 - its own count
            await asyncio.sleep(0.05)
        return {"type": "http.disconnect"}

    async def _take(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in message["headers"]}
        self.raw += message.get("body", b"")

    @property
    def seen(self) -> str:
        """All that the caller got."""
        return f"{self.headers} {self.raw.decode(errors='replace')}"

    def answered(self) -> None:
        """It was, in the dialect's way, and shows neither thought nor key."""
        require(self.status == 200, f"a request is answered with a {self.status}")
        require(bool(self.headers.get("content-type")), "the answer has no content-type")
        require(MARKER not in self.seen, "a thought is in the answer")
        require(KEY not in self.seen, "the API key is in the answer")

    def refused(self, status: int, what: str) -> Failure:
        """It was refused by the dialect with this status, before anything was sent."""
        require(self.status == status, f"{what} is answered with a {self.status}, not a {status}")
        require(len(self.dialect.failures) > 0, f"{what} is not refused by `error`")
        failure, response = self.dialect.failures[-1]
        found = response.status_code
        require(found == failure.status, f"`error` makes a {found} of a failure with the status {failure.status}")
        require(bool(response.body), f"{what} is refused without a word")
        require(KEY not in self.seen, "the API key is in an error")
        return failure

    def settled(self) -> None:
        """Nothing runs, and what was made is counted."""
        require(self.engine.running == 0, f"{self.engine.running} streams of the engine still run")
        require(self.account.settled == 1, f"the account was settled {self.account.settled} times, not once")
        made, counted = self.engine.produced, self.account.usage.generated
        require(made == counted, f"{counted} tokens were counted, where the engine made {made}")


async def _run(app: FastAPI, scope: dict[str, Any], receive: Callable[[], Awaitable[Any]], send: Any) -> None:
    """The application, whose errors are the finding."""
    try:
        await app(scope, receive, send)
    except Exception as error:
        raise AssertionError(f"the dialect raised {type(error).__name__}") from error
