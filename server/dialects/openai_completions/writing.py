"""Answers as OpenAI's completions: whole, or as server-sent events."""

from __future__ import annotations

import codecs
import json
import secrets
import time
from collections.abc import Mapping, Sequence
from typing import Any

from ponder.compute.text import TokenLogprob, ToolCall
from ponder.server.answers import End, Failure, Summary, Whole
from ponder.server.dialect import Writer
from ponder.server.dialects.openai_completions.reading import NAMES, prompts
from ponder.server.dialects.openai_completions.schema import CompletionRequest
from ponder.server.dialects.openai_errors import body
from ponder.server.dialects.openai_usage import shaped_usage
from ponder.server.dialects.openai_writing import STREAM_HEADERS, data_event, dumped, finite, headers, shown_thought
from ponder.server.dialects.slips import Stray
from ponder.server.dialects.thinking_report import thinking
from ponder.server.plan import ResolvedRequest


class Offsets:
    """Where in the text of an answer its tokens begin, in characters; a character may be of several tokens."""

    def __init__(self, begin: int) -> None:
        self._at = begin
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def next(self, token: bytes) -> int:
        """The offset of the next token."""
        at = self._at
        self._at += len(self._decoder.decode(token))
        return at


class CompletionWriter(Writer):
    """One completion."""

    media_type = "application/json"
    stream_headers: Sequence[tuple[bytes, bytes]] = STREAM_HEADERS
    keep_alive = b": keep-alive\n\n"
    closing = b"data: [DONE]\n\n"

    def __init__(self, wanted: CompletionRequest, strays: Sequence[Stray], resolved: ResolvedRequest) -> None:
        """`strays` are the keys of the request that nobody knows."""
        self.headers: Mapping[str, str] = headers(resolved, strays, NAMES)
        self._logprobs = wanted.logprobs is not None
        self._usage = bool(wanted.stream_options and wanted.stream_options.include_usage)
        texts = [one if isinstance(one, str) and wanted.echo else "" for one in prompts(wanted)]
        self._echoed = [text for text in texts for _ in range(wanted.n or 1)]
        """What each answer begins with."""
        self._offsets = [Offsets(len(text)) for text in self._echoed]
        self._base: dict[str, Any] = {
            "id": "cmpl-" + secrets.token_hex(12),
            "object": "text_completion",
            "created": int(time.time()),
            "model": resolved.model,
        }
        usage = {"usage": None} if self._usage else {}
        self._head = f'data: {json.dumps(self._base | usage)[:-1]}, "choices": [{{"index": '

    # -- streamed -----------------------------------------------------------------------------------------------------

    def _chunk(self, index: int, text: str, logprobs: str = "null", finish: str = "null", more: str = "") -> bytes:
        """An event; all but the number and the text are JSON text, `more` what stands behind the choices."""
        return (
            f'{self._head}{index}, "text": {json.dumps(text)}, "logprobs": {logprobs}, "finish_reason": {finish}}}]'
            f"{more}}}\n\n"
        ).encode()

    def opening(self) -> bytes:
        return b"".join(self._chunk(index, text) for index, text in enumerate(self._echoed))

    def text(self, index: int, text: str, logprobs: Sequence[TokenLogprob]) -> bytes:
        if self._logprobs and logprobs:
            return self._chunk(index, text, json.dumps(self._told(index, logprobs)))
        return self._chunk(index, text) if text else b""

    def tool_call(self, index: int, number: int, call: ToolCall) -> bytes:
        # There are no tools here.
        return b""

    def end(self, index: int, end: End, summary: Summary | None) -> bytes:
        more, last = "", b""
        if summary is not None and not self._usage:
            more = f', "thinking": {json.dumps(thinking(summary))}'
        if summary is not None and self._usage:
            facts: dict[str, Any] = {"choices": [], "usage": shaped_usage(summary.usage), "thinking": thinking(summary)}
            last = data_event(self._base | facts)
        thought = b""
        if end.thought is not None:
            choice = {"index": index, "text": "", "logprobs": None, "finish_reason": None}
            thought = data_event(self._base | {"choices": [choice | shown_thought(end.thought)]})
        return thought + self._chunk(index, "", finish=f'"{_finish(end)}"', more=more) + last

    def failure(self, failure: Failure) -> bytes:
        return data_event(body(failure))

    # -- whole --------------------------------------------------------------------------------------------------------

    def whole(self, answers: Sequence[Whole], summary: Summary) -> bytes:
        facts: dict[str, Any] = {
            "choices": [self._choice(i, answer) for i, answer in enumerate(answers)],
            "usage": shaped_usage(summary.usage),
            "thinking": thinking(summary),
        }
        return dumped(self._base | facts)

    def _choice(self, index: int, answer: Whole) -> dict[str, Any]:
        return {
            "index": index,
            "text": self._echoed[index] + answer.text,
            "logprobs": self._told(index, answer.logprobs) if self._logprobs else None,
            "finish_reason": _finish(answer.end),
        } | ({} if answer.end.thought is None else shown_thought(answer.end.thought))

    def _told(self, index: int, tokens: Sequence[TokenLogprob]) -> dict[str, Any]:
        """`choices[].logprobs`, of tokens that come behind those told before."""
        return {
            "tokens": [_spelt(token) for token in tokens],
            "token_logprobs": [finite(token.logprob) for token in tokens],
            "top_logprobs": [{_spelt(one): finite(one.logprob) for one in (*token.top, token)} for token in tokens],
            "text_offset": [self._offsets[index].next(token.bytes) for token in tokens],
        }


def _finish(end: End) -> str:
    """`finish_reason`: `length` only where the visible answer was cut."""
    return "length" if end.reason == "cut" else "stop"


def _spelt(token: TokenLogprob) -> str:
    """A token as text; one that is a part of a character by its bytes, as OpenAI writes it."""
    try:
        return token.bytes.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in token.bytes)
