"""Answers in OpenAI's shapes: one chat completion, whole or as server-sent events.

Answers are plain dicts and text: what goes out was made here and needs no checking on its way.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Mapping, Sequence
from typing import Any

from ponder.compute.text import TokenLogprob, ToolCall
from ponder.server.answers import End, Failure, Progress, Summary, Whole
from ponder.server.dialect import Writer
from ponder.server.dialects.openai_chat import reasoning_details
from ponder.server.dialects.openai_chat.reading import NAMES
from ponder.server.dialects.openai_chat.schema import ChatRequest
from ponder.server.dialects.openai_errors import body
from ponder.server.dialects.openai_usage import shaped_usage
from ponder.server.dialects.openai_writing import (
    STREAM_HEADERS,
    data_event,
    dumped,
    headers,
    shown_thought,
    token_logprobs,
)
from ponder.server.dialects.progress_report import progress_report
from ponder.server.dialects.slips import Stray
from ponder.server.dialects.thinking_report import thinking
from ponder.server.plan import ResolvedRequest

FINISH = {"complete": "stop", "cut": "length", "tool_calls": "tool_calls"}
"""`finish_reason`: `length` only where the visible answer was cut."""


class ChatWriter(Writer):
    """One chat completion."""

    media_type = "application/json"
    stream_headers: Sequence[tuple[bytes, bytes]] = STREAM_HEADERS
    keep_alive = b": keep-alive\n\n"
    closing = b"data: [DONE]\n\n"
    streams_arguments = True

    def __init__(self, wanted: ChatRequest, strays: Sequence[Stray], resolved: ResolvedRequest) -> None:
        """`strays` are the keys of the request that nobody knows."""
        self.headers: Mapping[str, str] = headers(resolved, strays, NAMES, ["store"] if wanted.store else [])
        self._model, self._answers = resolved.model, len(resolved.plans)
        self._logprobs = bool(wanted.logprobs)
        self._usage = bool(wanted.stream_options and wanted.stream_options.include_usage)
        self._revealed: set[int] = set()
        """Answers whose thought was told."""
        self._id = "chatcmpl-" + secrets.token_hex(12)
        self._created = int(time.time())
        usage = ', "usage": null' if self._usage else ""
        self._head = (
            f'data: {{"id": "{self._id}", "object": "chat.completion.chunk", "created": {self._created}, '
            f'"model": {json.dumps(resolved.model)}{usage}, "choices": [{{"index": '
        )

    # -- streamed -----------------------------------------------------------------------------------------------------

    def _chunk(self, index: int, delta: str, finish: str = "null", more: str = "") -> bytes:
        """An event; all but the numbers are JSON text."""
        return f'{self._head}{index}, "delta": {delta}, "finish_reason": {finish}}}]{more}}}\n\n'.encode()

    def opening(self) -> bytes:
        delta = '{"role": "assistant", "content": ""}'
        return b"".join(self._chunk(i, delta) for i in range(self._answers))

    def text(self, index: int, text: str, logprobs: Sequence[TokenLogprob]) -> bytes:
        told = ""
        if self._logprobs and logprobs:
            told = f', "logprobs": {json.dumps(token_logprobs(logprobs))}'
        elif not text:
            return b""
        lead = f'{self._head}{index}, "delta": {{"content": '
        return f'{lead}{json.dumps(text)}}}{told}, "finish_reason": null}}]}}\n\n'.encode()

    def tool_call(self, index: int, number: int, call: ToolCall) -> bytes:
        return self._chunk(index, json.dumps({"tool_calls": [{"index": number} | shaped(call)]}))

    def call_begun(self, index: int, number: int, id: str, name: str) -> bytes:
        return self.tool_call(index, number, ToolCall(id, name, ""))

    def call_arguments(self, index: int, number: int, piece: str) -> bytes:
        return self._chunk(
            index, f'{{"tool_calls": [{{"index": {number}, "function": {{"arguments": {json.dumps(piece)}}}}}]}}'
        )

    def revealed(self, index: int, thought: str) -> bytes:
        self._revealed.add(index)
        return self._chunk(index, json.dumps(shown_thought(thought)))

    def progress(self, index: int, progress: Progress) -> bytes:
        told = {"index": index, **progress_report(progress)}
        return self._without_choices({"usage": None} if self._usage else {}, {"progress": told})

    def _without_choices(self, *facts: Mapping[str, Any]) -> bytes:
        """An event that is about no choice."""
        chunk: dict[str, Any] = {**self._base("chat.completion.chunk"), "choices": []}
        for more in facts:
            chunk |= more
        return data_event(chunk)

    def end(self, index: int, end: End, summary: Summary | None) -> bytes:
        events, more = b"", ""
        shown = reasoning_details.shown(end)
        if shown is not None and not (end.thought is not None and index in self._revealed):
            events += self._chunk(index, json.dumps(shown_thought(shown)))
        if details := reasoning_details.told(end):
            events += self._chunk(index, json.dumps({"reasoning_details": details}))
        if summary is not None and not self._usage:
            more = f', "thinking": {json.dumps(thinking(summary))}'
        events += self._chunk(index, "{}", finish=f'"{FINISH[end.reason]}"', more=more)
        if summary is not None and self._usage:
            facts: dict[str, Any] = {"usage": shaped_usage(summary.usage), "thinking": thinking(summary)}
            events += self._without_choices(facts)
        return events

    def failure(self, failure: Failure) -> bytes:
        used = b""
        if self._usage and failure.usage is not None:
            # Clients raise over the error, and drop what stands beside it.
            used = self._without_choices({"usage": shaped_usage(failure.usage)})
        return used + data_event(body(failure))

    # -- whole --------------------------------------------------------------------------------------------------------

    def _base(self, kind: str) -> dict[str, Any]:
        return {"id": self._id, "object": kind, "created": self._created, "model": self._model}

    def whole(self, answers: Sequence[Whole], summary: Summary) -> bytes:
        facts: dict[str, Any] = {
            "choices": [self._choice(i, answer) for i, answer in enumerate(answers)],
            "usage": shaped_usage(summary.usage),
            "thinking": thinking(summary),
        }
        return dumped(self._base("chat.completion") | facts)

    def _choice(self, index: int, answer: Whole) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant", "content": answer.text, "refusal": None}
        if answer.calls:
            message["content"] = answer.text or None
            message["tool_calls"] = [shaped(call) for call in answer.calls]
        if (shown := reasoning_details.shown(answer.end)) is not None:
            message |= shown_thought(shown)
        if details := reasoning_details.told(answer.end):
            message["reasoning_details"] = details
        return {
            "index": index,
            "message": message,
            "logprobs": token_logprobs(answer.logprobs) if self._logprobs else None,
            "finish_reason": FINISH[answer.end.reason],
        }


def shaped(call: ToolCall) -> dict[str, Any]:
    """A tool call as OpenAI writes it."""
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
