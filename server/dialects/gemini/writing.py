"""Answers as Gemini's: one response, or a stream of them, as server-sent events or as one JSON array."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from typing import Any, cast

from ponder.compute.text import TokenLogprob, ToolCall
from ponder.server.answers import End, Failure, Summary, Whole
from ponder.server.dialect import Writer
from ponder.server.dialects.customs import written_json
from ponder.server.dialects.gemini.errors import body
from ponder.server.dialects.gemini.reading import Wanted
from ponder.server.dialects.gemini.usage import details, shaped_usage
from ponder.server.dialects.openai_writing import STREAM_HEADERS, dumped, finite, headers
from ponder.server.dialects.thinking_report import thinking
from ponder.server.plan import ResolvedRequest

FINISH = {"complete": "STOP", "cut": "MAX_TOKENS", "tool_calls": "STOP"}
"""`finishReason`: `MAX_TOKENS` only where the visible answer was cut."""


class GeminiWriter(Writer):
    """One response, and as server-sent events. Google's clients take no comments, so a silent stream is kept alive by
    empty lines; and they know no last event, so what closes it is an empty line, too, by other characters."""

    media_type = "application/json"
    stream_headers: Sequence[tuple[bytes, bytes]] = STREAM_HEADERS
    keep_alive = b"\n\n"
    closing = b"\r\n\r\n"

    def __init__(self, wanted: Wanted, resolved: ResolvedRequest) -> None:
        self.headers: Mapping[str, str] = headers(resolved, wanted.strays, wanted.names, wanted.ignored)
        self._logprobs, self._text = wanted.logprobs, wanted.text
        self._base = {"modelVersion": resolved.model, "responseId": secrets.token_urlsafe(18)}
        self._sealed: dict[int, str] = {}
        """Thoughts that are over and not told yet."""
        self._told: set[int] = set()
        """Answers whose sealed thought was told."""

    # -- streamed -----------------------------------------------------------------------------------------------------

    def framed(self, value: Mapping[str, Any]) -> bytes:
        """A piece of a stream."""
        return b"data: " + dumped(value) + b"\n\n"

    def opening(self) -> bytes:
        return b""

    def thought(self, index: int, sealed: str) -> bytes:
        # It is told with a part: the first call, or the last of the answer.
        self._sealed[index] = sealed
        return b""

    def text(self, index: int, text: str, logprobs: Sequence[TokenLogprob]) -> bytes:
        if self._logprobs and logprobs:
            return self._piece(index, [{"text": text}], logprobsResult=_chances(logprobs))
        return self._piece(index, [{"text": text}]) if text else b""

    def tool_call(self, index: int, number: int, call: ToolCall) -> bytes:
        part = _called(call)
        if index in self._sealed and index not in self._told:
            part["thoughtSignature"] = self._sealed[index]
            self._told.add(index)
        return self._piece(index, [part])

    def end(self, index: int, end: End, summary: Summary | None) -> bytes:
        last: dict[str, Any] = {"text": ""}
        if end.sealed is not None and index not in self._told:
            last["thoughtSignature"] = end.sealed
        parts = [*_thoughts(end), last]
        candidate = _candidate(index, parts, finishReason=FINISH[end.reason])
        facts = {} if summary is None else self._facts(summary)
        return self.framed({"candidates": [candidate], **facts, **self._base})

    def failure(self, failure: Failure) -> bytes:
        return self.framed(body(failure))

    def _piece(self, index: int, parts: Sequence[Mapping[str, Any]], **more: Any) -> bytes:
        return self.framed({"candidates": [_candidate(index, parts, **more)], **self._base})

    def _facts(self, summary: Summary) -> dict[str, Any]:
        return {"usageMetadata": shaped_usage(summary.usage, text=self._text), "thinking": thinking(summary)}

    # -- whole --------------------------------------------------------------------------------------------------------

    def whole(self, answers: Sequence[Whole], summary: Summary) -> bytes:
        candidates = [self._whole(index, answer) for index, answer in enumerate(answers)]
        return dumped({"candidates": candidates, **self._facts(summary), **self._base})

    def _whole(self, index: int, answer: Whole) -> dict[str, Any]:
        calls = [_called(call) for call in answer.calls]
        texts: list[dict[str, Any]] = [{"text": answer.text}] if answer.text or not calls else []
        if answer.end.sealed is not None:
            (calls or texts)[0]["thoughtSignature"] = answer.end.sealed
        more: dict[str, Any] = {"finishReason": FINISH[answer.end.reason]}
        if self._logprobs and answer.logprobs:
            chosen = [finite(token.logprob) for token in answer.logprobs]
            more |= {"avgLogprobs": sum(chosen) / len(chosen), "logprobsResult": _chances(answer.logprobs)}
        return _candidate(index, [*_thoughts(answer.end), *texts, *calls], **more)


class GeminiArrayWriter(GeminiWriter):
    """The stream as one JSON array, for who does not ask for server-sent events. One that failed ends with an error in
    the array."""

    stream_headers: Sequence[tuple[bytes, bytes]] = (
        (b"content-type", b"application/json"),
        (b"cache-control", b"no-cache"),
        (b"x-accel-buffering", b"no"),
    )
    keep_alive = b" \n"
    closing = b"\n]\n"

    def __init__(self, wanted: Wanted, resolved: ResolvedRequest) -> None:
        super().__init__(wanted, resolved)
        self._begun = False

    def opening(self) -> bytes:
        return b"["

    def framed(self, value: Mapping[str, Any]) -> bytes:
        between, self._begun = b",\n" if self._begun else b"", True
        return between + dumped(value)

    def failure(self, failure: Failure) -> bytes:
        return self.framed(body(failure)) + b"]"


def counted(wanted: Wanted, tokens: int) -> bytes:
    """The answer of `countTokens`."""
    return dumped({"totalTokens": tokens, **details(tokens, text=wanted.text)})


def _candidate(index: int, parts: Sequence[Mapping[str, Any]], **more: Any) -> dict[str, Any]:
    return {"content": {"parts": parts, "role": "model"}, "index": index, **more}


def _thoughts(end: End) -> list[dict[str, Any]]:
    """What may be shown of the thought: it, or a summary of it."""
    return [{"text": text, "thought": True} for text in (end.thought, end.summary) if text is not None]


def _called(call: ToolCall) -> dict[str, Any]:
    """A call as Gemini writes it: arguments are an object."""
    try:
        args: object = written_json(call.arguments)
    except ValueError:
        args = None
    if not isinstance(args, dict):
        args = {"arguments": call.arguments}
    return {"functionCall": {"id": call.id, "name": call.name, "args": cast("dict[str, Any]", args)}}


def _chances(tokens: Sequence[TokenLogprob]) -> dict[str, Any]:
    """`logprobsResult`."""
    return {
        "chosenCandidates": [_chance(token) for token in tokens],
        "topCandidates": [{"candidates": [_chance(other) for other in token.top]} for token in tokens],
    }


def _chance(token: TokenLogprob) -> dict[str, Any]:
    return {"token": token.text, "logProbability": finite(token.logprob)}
