"""Answers in OpenAI's shapes: one chat completion, whole or as server-sent events.

Answers are plain dicts and text: what goes out was made here and needs no checking on its way.
"""

from __future__ import annotations

import json
import math
import secrets
import time
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic_core import PydanticSerializationError, to_json

from ponder.compute.outcome import Outcome
from ponder.compute.price import NANO
from ponder.compute.text import TokenLogprob, ToolCall
from ponder.server.answers import End, Failure, Summary, Whole, stopped_by
from ponder.server.dialect import Writer
from ponder.server.dialects.openai_chat import slips
from ponder.server.dialects.openai_chat.errors import body
from ponder.server.dialects.openai_chat.reading import NAMES
from ponder.server.dialects.openai_chat.schema import ChatRequest
from ponder.server.dialects.openai_chat.usage import shaped_usage
from ponder.server.plan import ResolvedRequest

LEAST_LOGPROB = -9999.0
"""Stands for the logarithm of nothing, which JSON cannot say."""
FINISH = {"complete": "stop", "cut": "length", "tool_calls": "tool_calls"}
"""`finish_reason`: `length` only where the visible answer was cut."""


class ChatWriter(Writer):
    """One chat completion."""

    media_type = "application/json"
    stream_headers: Sequence[tuple[bytes, bytes]] = (
        (b"content-type", b"text/event-stream; charset=utf-8"),
        (b"cache-control", b"no-cache"),
        (b"x-accel-buffering", b"no"),
    )
    keep_alive = b": keep-alive\n\n"
    closing = b"data: [DONE]\n\n"

    def __init__(self, wanted: ChatRequest, strays: Sequence[slips.Stray], resolved: ResolvedRequest) -> None:
        """`strays` are the keys of the request that nobody knows."""
        self.headers: Mapping[str, str] = _headers(wanted, strays, resolved)
        self._model, self._answers = resolved.model, len(resolved.plans)
        self._logprobs = bool(wanted.logprobs)
        self._usage = bool(wanted.stream_options and wanted.stream_options.include_usage)
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

    def end(self, index: int, end: End, summary: Summary | None) -> bytes:
        events, more = b"", ""
        if end.thought is not None:
            events += self._chunk(index, json.dumps({"reasoning": end.thought, "reasoning_content": end.thought}))
        if summary is not None and not self._usage:
            more = f', "thinking": {json.dumps(thinking(summary))}'
        events += self._chunk(index, "{}", finish=f'"{FINISH[end.reason]}"', more=more)
        if summary is not None and self._usage:
            facts: dict[str, Any] = {
                "choices": [],
                "usage": shaped_usage(summary.usage),
                "thinking": thinking(summary),
            }
            events += b"data: " + json.dumps(self._base("chat.completion.chunk") | facts).encode() + b"\n\n"
        return events

    def failure(self, failure: Failure) -> bytes:
        return b"data: " + json.dumps(body(failure)).encode() + b"\n\n"

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
        if answer.end.thought is not None:
            message["reasoning"] = message["reasoning_content"] = answer.end.thought
        return {
            "index": index,
            "message": message,
            "logprobs": token_logprobs(answer.logprobs) if self._logprobs else None,
            "finish_reason": FINISH[answer.end.reason],
        }


def _headers(wanted: ChatRequest, strays: Sequence[slips.Stray], resolved: ResolvedRequest) -> dict[str, str]:
    headers: dict[str, str] = {}
    if ignored := slips.ignored(wanted, strays, [NAMES.get(name, name) for name in resolved.ignored]):
        headers["x-ignored-parameters"] = ignored
    if resolved.clamped_from is not None:
        headers["x-thinking-budget-clamped"] = str(resolved.budget)
    return headers


def dumped(value: Mapping[str, Any]) -> bytes:
    """JSON by pydantic, which is quicker than `json.dumps`; half of a surrogate pair only that can write."""
    try:
        return to_json(value)
    except PydanticSerializationError:
        return json.dumps(value).encode()


def shaped(call: ToolCall) -> dict[str, Any]:
    """A tool call as OpenAI writes it."""
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}


def thinking(summary: Summary) -> dict[str, Any]:
    """The one extension object: what was decided about the thinking, and what came of it."""
    outcomes = summary.outcomes
    told: dict[str, Any] = {
        "strategy": summary.strategy,
        "budget": summary.budget,
        "budget_source": summary.budget_source,
        "spent": sum(o.spent.hidden for o in outcomes),
        "samples": sum(o.samples for o in outcomes),
        "samples_requested": sum(o.samples_requested for o in outcomes),
        "stopped_by": stopped_by(outcomes),
        "verifier_tokens": sum(o.spent.verifier for o in outcomes),
        "discarded_tokens": sum(o.spent.discarded for o in outcomes),
    }
    if summary.budget_clamped_from is not None:
        told["budget_clamped_from"] = summary.budget_clamped_from
    if summary.program_seconds:
        told["program_seconds"] = round(summary.program_seconds, 3)
    if summary.cost_nano_usd is not None:
        told["cost_usd"] = summary.cost_nano_usd / NANO
    if summary.max_cost_nano_usd is not None:
        told["max_cost_usd"] = summary.max_cost_nano_usd / NANO
    if summary.receipt is not None:
        told["receipt"] = summary.receipt
    if len(outcomes) == 1:
        return told | _judged(outcomes[0])
    told["choices"] = [
        {"index": i, "spent": o.spent.hidden, "samples": o.samples, "stopped_by": o.stopped_by} | _judged(o)
        for i, o in enumerate(outcomes)
    ]
    return told


def _judged(outcome: Outcome) -> dict[str, Any]:
    facts = {"agreement": outcome.agreement, "verifier": outcome.verifier, "score": outcome.score}
    marks = {
        "verifier_degraded": outcome.degraded,
        "verifier_truncated": outcome.truncated,
        "ungrouped": outcome.ungrouped,
        "deterministic": outcome.alike,
        "reduced_by_load": outcome.reduced,
    }
    told: dict[str, Any] = {name: fact for name, fact in facts.items() if fact is not None}
    return told | {name: True for name, marked in marks.items() if marked}


def token_logprobs(tokens: Sequence[TokenLogprob]) -> dict[str, Any]:
    """`choices[].logprobs`."""
    return {
        "content": [_token(token) | {"top_logprobs": [_token(other) for other in token.top]} for token in tokens],
        "refusal": None,
    }


def _token(token: TokenLogprob) -> dict[str, Any]:
    logprob = token.logprob if math.isfinite(token.logprob) else LEAST_LOGPROB
    return {"token": token.text, "bytes": list(token.bytes), "logprob": logprob}
