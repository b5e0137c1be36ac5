"""Answers in Anthropic's shapes: one message of blocks, whole or as server-sent events.

A stream has its blocks one after the other: the thinking, sealed; text; calls. A summary of the thinking is written
behind the answer. So in a stream the block that has it comes last, and in a message in one piece it comes first.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping, Sequence
from typing import Any

from ponder.compute.text import TokenLogprob, ToolCall
from ponder.server.answers import End, Failure, Summary, Usage, Whole
from ponder.server.dialect import Writer
from ponder.server.dialects.anthropic.errors import body
from ponder.server.dialects.anthropic.reading import NAMES
from ponder.server.dialects.anthropic.schema import CountRequest
from ponder.server.dialects.anthropic.thinking import has_blocks, has_summary
from ponder.server.dialects.anthropic.usage import shaped_usage
from ponder.server.dialects.customs import written_json
from ponder.server.dialects.openai_writing import STREAM_HEADERS, dumped, headers
from ponder.server.dialects.slips import Stray
from ponder.server.dialects.thinking_report import thinking
from ponder.server.plan import ResolvedRequest

STOP = {"complete": "end_turn", "cut": "max_tokens", "tool_calls": "tool_use"}
"""`stop_reason`: `max_tokens` only where the visible answer was cut."""


def event(kind: str, **more: Any) -> bytes:
    """A server-sent event, its type twice, as Anthropic's are."""
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **more})}\n\n".encode()


class MessageWriter(Writer):
    """One message."""

    media_type = "application/json"
    stream_headers = STREAM_HEADERS
    keep_alive = event("ping")
    closing = event("message_stop")
    streams_arguments = True

    def __init__(self, wanted: CountRequest, strays: Sequence[Stray], resolved: ResolvedRequest) -> None:
        """`strays` are the keys of the request that nobody knows."""
        self.headers: Mapping[str, str] = headers(resolved, strays, NAMES)
        self._summary = has_summary(wanted)
        self._seals, self._shows = has_blocks(wanted), resolved.shows_thought
        self._shown: str | None = None
        """What is shown of the thought, where it came before the answer."""
        self._prompt = resolved.told_prompt
        self._head: dict[str, Any] = {
            "id": "msg_" + secrets.token_hex(12),
            "type": "message",
            "role": "assistant",
            "model": resolved.model,
        }
        self._next = 0
        """The number of the next block of a stream."""
        self._open: str | None = None
        """The type of the block that is open, whose number is the one before."""
        self._said = False
        """There is a block that is no thought."""
        self._thought = False
        self._lead = ""
        """What an event with new text begins with."""

    # -- streamed -----------------------------------------------------------------------------------------------------

    def opening(self) -> bytes:
        usage = shaped_usage(Usage(self._prompt, 0, 0, 0))
        told: dict[str, Any] = {"content": [], "stop_reason": None, "stop_sequence": None, "usage": usage}
        return event("message_start", message=self._head | told) + self.keep_alive

    def thought(self, index: int, sealed: str) -> bytes:
        if self._shown is None and (self._summary or self._shows):
            # What is shown comes behind the answer, and the block with it.
            return b""
        return self._thinking(self._shown or "", sealed)

    def revealed(self, index: int, thought: str) -> bytes:
        self._shown = thought
        return b"" if self._seals else self._thinking(thought, "")

    def text(self, index: int, text: str, logprobs: Sequence[TokenLogprob]) -> bytes:
        if not text:
            return b""
        begin = b"" if self._open == "text" else self._begin({"type": "text", "text": ""})
        return begin + f"{self._lead}{json.dumps(text)}}}}}\n\n".encode()

    def tool_call(self, index: int, number: int, call: ToolCall) -> bytes:
        begun = self.call_begun(index, number, call.id, call.name)
        return begun + self.call_arguments(index, number, as_object(call.arguments)) + self._close()

    def call_begun(self, index: int, number: int, id: str, name: str) -> bytes:
        return self._begin({"type": "tool_use", "id": id, "name": name, "input": {}})

    def call_arguments(self, index: int, number: int, piece: str) -> bytes:
        return self._delta({"type": "input_json_delta", "partial_json": piece})

    def end(self, index: int, end: End, summary: Summary | None) -> bytes:
        events = b"" if self._said else self._begin({"type": "text", "text": ""})
        events += self._close()
        if not self._thought and (block := thinking_block(end, summarised=self._summary)) is not None:
            events += self._thinking(block.get("thinking", ""), block.get("signature", ""), block.get("data"))
        if summary is not None:
            told = {"delta": _stopped(end), "usage": shaped_usage(summary.usage), "ponder": thinking(summary)}
            events += event("message_delta", **told)
        return events

    def failure(self, failure: Failure) -> bytes:
        return f"event: error\ndata: {json.dumps(body(failure))}\n\n".encode()

    def _begin(self, block: dict[str, Any]) -> bytes:
        """Begins a block, which ends the one before."""
        events = self._close()
        number, self._next = self._next, self._next + 1
        self._open, self._said = block["type"], self._said or block["type"] in ("text", "tool_use")
        if self._open == "text":
            self._lead = (
                f'event: content_block_delta\ndata: {{"type": "content_block_delta", "index": {number}, '
                '"delta": {"type": "text_delta", "text": '
            )
        return events + event("content_block_start", index=number, content_block=block)

    def _delta(self, delta: dict[str, Any]) -> bytes:
        return event("content_block_delta", index=self._next - 1, delta=delta)

    def _close(self) -> bytes:
        """Ends the block that is open, if one is."""
        if self._open is None:
            return b""
        self._open = None
        return event("content_block_stop", index=self._next - 1)

    def _thinking(self, text: str, signature: str, data: str | None = None) -> bytes:
        self._thought = True
        if data is not None:
            return self._begin({"type": "redacted_thinking", "data": data}) + self._close()
        events = self._begin({"type": "thinking", "thinking": "", "signature": ""})
        if text:
            events += self._delta({"type": "thinking_delta", "thinking": text})
        return events + self._delta({"type": "signature_delta", "signature": signature}) + self._close()

    # -- whole --------------------------------------------------------------------------------------------------------

    def whole(self, answers: Sequence[Whole], summary: Summary) -> bytes:
        (answer,) = answers
        block = thinking_block(answer.end, summarised=self._summary)
        content: list[dict[str, Any]] = [] if block is None else [block]
        if answer.text or not answer.calls:
            content.append({"type": "text", "text": answer.text})
        content += [
            {"type": "tool_use", "id": call.id, "name": call.name, "input": json.loads(as_object(call.arguments))}
            for call in answer.calls
        ]
        told = {"content": content, **_stopped(answer.end), "usage": shaped_usage(summary.usage)}
        return dumped(self._head | told | {"ponder": thinking(summary)})


def _stopped(end: End) -> dict[str, Any]:
    if end.stop is not None:
        return {"stop_reason": "stop_sequence", "stop_sequence": end.stop}
    return {"stop_reason": STOP[end.reason], "stop_sequence": None}


def thinking_block(end: End, *, summarised: bool) -> dict[str, Any] | None:
    """The block of a thought: what of it is shown, and the thought itself, sealed. Where a summary was asked for and
    there is none, nothing of it can be read, which Anthropic's API has a block of its own for."""
    if end.sealed is None and end.thought is None and end.summary is None:
        return None
    shown = end.thought if end.thought is not None else end.summary
    if summarised and shown is None and end.sealed is not None:
        return {"type": "redacted_thinking", "data": end.sealed}
    return {"type": "thinking", "thinking": shown or "", "signature": end.sealed or ""}


def as_object(arguments: str) -> str:
    """The arguments of a call as the JSON object that `input` is: itself, or around what a model wrote instead."""
    try:
        value: Any = written_json(arguments)
    except ValueError:
        value = arguments
    return arguments if isinstance(value, dict) else json.dumps({"arguments": value})
