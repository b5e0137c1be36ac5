"""Servers that are broken, or mean harm: each ends in an error of ours, within bounds, and never beyond the budget."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from typing import Any

import pytest

from ponder.compute.budget import Budget, Spending
from ponder.compute.engine import Sampling
from ponder.compute.errors import EngineError, Lost, RequestError
from ponder.compute.text import Candidate, Message, Prompt
from ponder.compute.transcript import Transcript
from ponder.engines.replicas import server as replicas
from ponder.engines.replicas.connection import Access, Connection
from ponder.engines.replicas.known import KnownModel
from ponder.engines.replicas.replica import NotTaken
from ponder.engines.replicas.server import VllmServer
from tests.engines.scripted_server import PLAIN, known_of
from tests.engines.scripted_vllm import FAMILIES, Nature, ScriptedVllm

ASKED = Prompt((Message("user", "How many?"),))
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"
"""Its body goes on to the end of the connection."""
WORD = 20
"""Any token that is no marker."""

Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter, dict[str, Any]], Awaitable[None]]


@pytest.fixture(scope="module")
def known() -> KnownModel:
    llm = ScriptedVllm(FAMILIES["ids"], Nature())
    return known_of(llm, FAMILIES["ids"])


@asynccontextmanager
async def server(talk: Talk) -> AsyncGenerator[str]:
    """The address of a server that reads a request and then does as it likes."""

    async def one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            head = await reader.readuntil(b"\r\n\r\n")
            length = next(
                (int(x.split(b":")[1]) for x in head.split(b"\r\n") if x.lower().startswith(b"content-len")), 0
            )
            body = await reader.readexactly(length)
            if head.startswith(b"GET /health"):
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            else:
                await talk(reader, writer, json.loads(body))
            await writer.drain()
        writer.close()

    made = await asyncio.start_server(one, "127.0.0.1", 0, limit=1 << 22)
    try:
        yield f"http://127.0.0.1:{made.sockets[0].getsockname()[1]}"
    finally:
        made.close()


def event(ids: Sequence[Any], reason: str | None = None, model: str = "demo", **more: Any) -> bytes:
    choice = {"index": 0, "text": "", "token_ids": list(ids), "finish_reason": reason, "stop_reason": None} | more
    return b"data: " + json.dumps({"model": model, "choices": [choice]}).encode() + b"\n\n"


def counts(prompt: int, made: int, **more: Any) -> bytes:
    usage = {"prompt_tokens": prompt, "completion_tokens": made} | more
    return b"data: " + json.dumps({"model": "demo", "choices": [], "usage": usage}).encode() + b"\n\ndata: [DONE]\n\n"


def says(*parts: bytes) -> Talk:
    async def talk(reader: Any, writer: asyncio.StreamWriter, asked: dict[str, Any]) -> None:
        for part in parts:
            writer.write(part)
            await writer.drain()

    return talk


async def drawn(
    known: KnownModel, talk: Talk, sampling: Sampling | None = None
) -> tuple[Candidate, BaseException | None]:
    """What a chain comes to that such a server writes, and what was raised."""
    sampling = sampling or Sampling(0, 8)
    async with server(talk) as url:
        engine = VllmServer(Connection(url, Access(), f"the server at {url}"), known, PLAIN)
        spending = Spending(Budget(sampling.thinking + sampling.answer, sampling.answer))
        raised: BaseException | None = None
        try:
            with spending.reserve("test", thinking=sampling.thinking, answer=sampling.answer) as reservation:
                transcript = Transcript(reservation, ASKED)
                try:
                    async with aclosing(engine.generate(ASKED, sampling, transcript)) as stream:
                        async for _ in stream:
                            pass
                except (EngineError, RequestError) as error:
                    raised = error
                assert not reservation.overdrawn
            return transcript.candidate(), raised
        finally:
            await engine.close()


WRONG: dict[str, tuple[Sequence[bytes], str]] = {
    "no JSON": ([event([WORD]), b"data: {nonsense\n\n"], "no JSON"),
    "deep JSON": ([event([WORD]), b"data: " + b"[" * 100_000 + b"\n\n"], "no JSON"),
    "a list": ([event([WORD]), b"data: [1]\n\n"], "no object"),
    "another model": ([event([WORD]), event([WORD], model="other")], "another model"),
    "no ids": ([event([WORD]), b'data: {"model": "demo", "choices": [{"text": "hi"}]}\n\n'], "without token ids"),
    "ids beyond the vocabulary": ([event([WORD]), event([10**9])], "without token ids of"),
    "negative ids": ([event([WORD]), event([-1])], "without token ids of"),
    "ids that are none": ([event([WORD]), event([True, 1.5, "x"])], "without token ids of"),
    "two choices": ([event([WORD]), b'data: {"model": "demo", "choices": [{}, {}]}\n\n'], "one choice"),
    "another prompt": ([event([WORD], prompt_token_ids=[1, 2, 3])], "not sent"),
    "more tokens than asked for": ([event([WORD]), event([WORD] * 50)], "more than the 8 tokens"),
    "more tokens, one by one": ([event([WORD])] * 60, "more than the 8 tokens"),
    "tokens behind the last": ([event([WORD], "stop"), event([WORD])], "behind the last one"),
    "an unknown end": ([event([WORD]), event([WORD], "tired")], "not known"),
    "an end without a token": ([event([], "stop")], "without a token"),
    "wrong counts": ([event([WORD], "stop"), counts(1, 1)], "the counts 1 and 1"),
    "more counted than sent": ([event([WORD], "stop"), counts(10**9, 10**9)], "the counts"),
    "an endless line": ([event([WORD]), b"data: " + b"x" * 4_000_000], "sends "),
    "endless comments": ([event([WORD]), *[b": x\n\n" * 10_000] * 60], "more than an answer can have"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_what_is_no_answer_is_an_error_and_what_came_before_it_is_counted(known: KnownModel, case: str) -> None:
    parts, words = WRONG[case]
    chain, raised = asyncio.run(drawn(known, says(HEAD, *parts)))
    assert isinstance(raised, EngineError)
    assert words in raised.message
    assert chain.ending == "lost"
    assert chain.visible <= 8
    if parts[0] == event([WORD]):
        assert chain.visible >= 1


GONE: dict[str, Sequence[bytes]] = {
    "in the middle": [HEAD, event([WORD])],
    "within a line": [HEAD, event([WORD]), event([WORD])[:20]],
    "within a chunk": [
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"%x\r\n%s\r\n" % (len(event([WORD])), event([WORD])),
        b"fff\r\nda",
    ],
    "after an error event": [HEAD, event([WORD]), b'data: {"error": {"message": "secret"}}\n\n'],
    "given up": [HEAD, event([WORD]), event([], "abort")],
}


@pytest.mark.parametrize("case", GONE)
def test_a_server_that_goes_away_in_the_middle_loses_the_chain_and_no_token(known: KnownModel, case: str) -> None:
    chain, raised = asyncio.run(drawn(known, says(*GONE[case])))
    assert isinstance(raised, Lost)
    assert "secret" not in raised.message
    assert (chain.ending, chain.visible) == ("lost", 1)


STATUS: dict[str, tuple[str, type[Exception], str]] = {
    "429 Too Many Requests\r\nRetry-After: 7": ("429", NotTaken, "7"),
    "503 Service Unavailable\r\nRetry-After: 1000000": ("503", NotTaken, "120"),
    "503 Service Unavailable\r\nRetry-After: soon": ("503", NotTaken, "1"),
    "500 Internal Server Error": ("500", Lost, ""),
    "307 Temporary Redirect\r\nLocation: http://127.0.0.1:1/": ("leads elsewhere", EngineError, ""),
    "401 Unauthorized": ("another key", EngineError, ""),
    "404 Not Found": ("status 404", EngineError, ""),
    "400 Bad Request": ("refuses the sampling parameters", RequestError, ""),
    "200 OK\r\nContent-Encoding: gzip": ("compressed", EngineError, ""),
}


@pytest.mark.parametrize("status", STATUS)
def test_a_status_says_what_came_of_a_call_and_no_body_is_read(known: KnownModel, status: str) -> None:
    words, kind, after = STATUS[status]
    answer = f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\n\r\n".encode()
    chain, raised = asyncio.run(drawn(known, says(answer, b"secret " * 100)))
    assert isinstance(raised, kind)
    assert words in str(raised)
    assert "secret" not in str(raised)
    assert chain.tokens == 0
    if isinstance(raised, NotTaken):
        assert raised.retry_after == float(after)


@pytest.mark.parametrize(
    "answer", [b"\x00\xff" * 100, b"HTTP/1.1 200 OK\r\n" + b"A: " + b"a" * 100_000 + b"\r\n\r\n", b""]
)
def test_what_is_no_http_is_an_error(known: KnownModel, answer: bytes) -> None:
    _, raised = asyncio.run(drawn(known, says(answer)))
    assert isinstance(raised, EngineError)


def test_a_server_that_is_silent_is_asked_whether_it_lives(known: KnownModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that answers that is waited for, up to a bound; one that does not is gone."""
    monkeypatch.setattr(replicas, "SILENT_SECONDS", 0.05)
    monkeypatch.setattr(replicas, "STUCK_SECONDS", 0.3)

    async def silent(reader: Any, writer: asyncio.StreamWriter, asked: Any) -> None:
        writer.write(HEAD + event([WORD]))
        await writer.drain()
        await asyncio.sleep(5)

    chain, raised = asyncio.run(drawn(known, silent))
    assert isinstance(raised, Lost)
    assert "has sent nothing for" in raised.message
    assert chain.visible == 1


def test_numbers_that_are_no_log_probabilities_are_an_error(known: KnownModel) -> None:
    good = {"tokens": ["token_id:20"], "token_logprobs": [-1.0], "top_logprobs": [{"token_id:20": -1.0}]}
    for wrong in (
        None,
        {},
        good | {"token_logprobs": [float("nan")]},
        good | {"token_logprobs": [3.0]},
        good | {"top_logprobs": [{"token_id:99999999": -1.0}]},
        good | {"top_logprobs": [{"word": -1.0}]},
        good | {"top_logprobs": [{f"token_id:{i}": -1.0 for i in range(9)}]},
        good | {"top_logprobs": []},
    ):
        talk = says(HEAD, event([WORD], logprobs=wrong))
        chain, raised = asyncio.run(drawn(known, talk, Sampling(0, 8, logprobs=2)))
        assert isinstance(raised, EngineError)
        assert "log-probabilities" in raised.message
        assert chain.visible == 0


def test_an_end_that_was_seen_counts_also_without_the_counts_behind_it(known: KnownModel) -> None:
    chain, raised = asyncio.run(drawn(known, says(HEAD, event([WORD, WORD], "stop"))))
    assert raised is None
    assert (chain.ending, chain.visible) == ("finished", 2)
