"""Answers in the shapes of the Responses API: one response, whole or as server-sent events.

The events of a stream are numbered from 0 without a gap. What was begun is ended in it, also where the answer was cut;
a response that failed has what there was of it. The final response has the items as their last events had them.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ponder.compute.text import TokenLogprob, ToolCall
from ponder.server.answers import End, Failure, Progress, Summary, Whole
from ponder.server.dialect import Keeping, Writer
from ponder.server.dialects.openai_responses.reading import NAMES, gives_logprobs, gives_sealed, summary_length
from ponder.server.dialects.openai_responses.response import (
    Item,
    asked,
    call_item,
    error_of,
    message_item,
    reasoning_item,
    summary_part,
    text_part,
)
from ponder.server.dialects.openai_responses.schema import ResponsesRequest
from ponder.server.dialects.openai_responses.usage import response_usage
from ponder.server.dialects.openai_writing import STREAM_HEADERS, dumped, headers, token_logprobs
from ponder.server.dialects.progress_report import progress_report
from ponder.server.dialects.slips import Stray
from ponder.server.dialects.thinking_report import thinking
from ponder.server.plan import ResolvedRequest

CUT = {"reason": "max_output_tokens"}
"""`incomplete_details` wherever the visible answer was cut; `thinking.stopped_by` says by what."""


@dataclass(slots=True)
class _OpenMessage:
    """A message that is being written."""

    index: int
    id: str
    head: str
    """Of the events of its text, as JSON."""
    texts: list[str] = field(default_factory=list[str])
    logprobs: list[TokenLogprob] = field(default_factory=list[TokenLogprob])


@dataclass(slots=True)
class _OpenCall:
    """A call that is being written."""

    index: int
    id: str
    call_id: str
    name: str
    pieces: list[str] = field(default_factory=list[str])


class ResponsesWriter(Writer):
    """One response."""

    media_type = "application/json"
    stream_headers: Sequence[tuple[bytes, bytes]] = STREAM_HEADERS
    keep_alive = b": keep-alive\n\n"
    closing = b": end\n\n"
    streams_arguments = True

    def __init__(
        self, keeping: Keeping, wanted: ResponsesRequest, strays: Sequence[Stray], resolved: ResolvedRequest
    ) -> None:
        """`keeping` is told what the response is; `strays` are the keys of the request that nobody knows."""
        self._keeping = keeping
        self.headers: Mapping[str, str] = headers(resolved, strays, NAMES, _without_effect(wanted))
        self._asked = asked(keeping.id, wanted, resolved)
        self._name = keeping.id.partition("_")[2]
        self._logprobs = gives_logprobs(wanted)
        self._sealed = gives_sealed(wanted)
        self._shows = resolved.shows_thought
        self._late = summary_length(wanted) is not None
        """What the thought is given out with is known when the answer has ended."""
        self._thinks = resolved.budget > 0
        self._number = 0
        self._items: list[Item] = []
        """In the order in which they began; those that are over as they are for good."""
        self._reasoning: str | None = None
        """The id of the thought, while it is open."""
        self._seal: str | None = None
        self._shown: str | None = None
        """The thought, sealed, and to a key that may see it, as far as it has come."""
        self._message: _OpenMessage | None = None
        self._call: _OpenCall | None = None

    # -- streamed -----------------------------------------------------------------------------------------------------

    def _event(self, kind: str, facts: str) -> bytes:
        """The next event; `facts` are JSON text."""
        number = self._number
        self._number += 1
        head = f'event: {kind}\ndata: {{"type": "{kind}", "sequence_number": {number}, '
        return f"{head}{facts}}}\n\n".encode()

    def _told(self, kind: str, **facts: Any) -> bytes:
        return self._event(kind, json.dumps(facts)[1:-1])

    def opening(self) -> bytes:
        self._keeping.created = self._asked
        response = f'"response": {json.dumps(self._asked)}'
        events = self._event("response.created", response) + self._event("response.in_progress", response)
        if self._thinks:
            self._reasoning = f"rs_{self._name}"
            events += self._begin(reasoning_item(self._reasoning))
        return events

    def thought(self, index: int, sealed: str) -> bytes:
        self._seal = sealed
        return b""

    def revealed(self, index: int, thought: str) -> bytes:
        self._shown = thought
        return b""

    def progress(self, index: int, progress: Progress) -> bytes:
        return self._told("response.progress", response_id=self._asked["id"], progress=progress_report(progress))

    def text(self, index: int, text: str, logprobs: Sequence[TokenLogprob]) -> bytes:
        if not text and not (self._logprobs and logprobs):
            return b""
        events, message = b"", self._message
        if message is None:
            events, message = self._begin_message()
        message.texts.append(text)
        told = "[]"
        if self._logprobs and logprobs:
            message.logprobs.extend(logprobs)
            told = json.dumps(_in_events(logprobs))
        return events + self._event(
            "response.output_text.delta", f'{message.head}, "delta": {json.dumps(text)}, "logprobs": {told}'
        )

    def tool_call(self, index: int, number: int, call: ToolCall) -> bytes:
        begun = self.call_begun(index, number, call.id, call.name)
        return begun + self.call_arguments(index, number, call.arguments) + self._end_call("completed")

    def call_begun(self, index: int, number: int, id: str, name: str) -> bytes:
        events = self._end_thought() + self._end_message("completed") + self._end_call("completed")
        call = self._call = _OpenCall(len(self._items), f"fc_{self._name}{number:02x}", id, name)
        return events + self._begin(call_item(call.id, "in_progress", id, name, ""))

    def call_arguments(self, index: int, number: int, piece: str) -> bytes:
        call = self._call
        if call is None or not piece:
            return b""
        call.pieces.append(piece)
        return self._told(
            "response.function_call_arguments.delta", item_id=call.id, output_index=call.index, delta=piece
        )

    def end(self, index: int, end: End, summary: Summary | None) -> bytes:
        cut = end.reason == "cut"
        last = "incomplete" if cut else "completed"
        said = any(item["type"] != "reasoning" for item in self._items)
        events = b"" if said else self._begin_message()[0]
        events += self._end_call(last) + self._end_message(last)
        events += self._end_thought(end)
        response = self._ended(end, self._items, summary)
        return events + self._told(f"response.{response['status']}", response=response)

    def failure(self, failure: Failure) -> bytes:
        """The response as far as it came. What was being written is in it, not complete."""
        items = list(self._items)
        if (message := self._message) is not None:
            items[message.index] = self._written(message, "incomplete")
        if (call := self._call) is not None:
            items[call.index] = call_item(call.id, "incomplete", call.call_id, call.name, "".join(call.pieces))
        response = self._asked | {"status": "failed", "error": error_of(failure), "output": items}
        if failure.usage is not None:
            response["usage"] = response_usage(failure.usage)
        self._keeping.answer = response
        return self._told("response.failed", response=response)

    def _begin(self, item: Item) -> bytes:
        """An item that is added to the output."""
        self._items.append(item)
        return self._told("response.output_item.added", output_index=len(self._items) - 1, item=item)

    def _done(self, index: int, item: Item) -> bytes:
        """An item that is as it will be."""
        self._items[index] = item
        return self._told("response.output_item.done", output_index=index, item=item)

    def _begin_message(self) -> tuple[bytes, _OpenMessage]:
        events = self._end_thought() + self._end_call("completed")
        index = len(self._items)
        first = not any(item["type"] == "message" for item in self._items)
        id = f"msg_{self._name}" if first else f"msg_{self._name}{index:02x}"
        head = f'"item_id": "{id}", "output_index": {index}, "content_index": 0'
        self._message = message = _OpenMessage(index, id, head)
        events += self._begin(message_item(id, "in_progress", ()))
        part = text_part("", () if self._logprobs else None)
        return events + self._event("response.content_part.added", f'{head}, "part": {json.dumps(part)}'), message

    def _written(self, message: _OpenMessage, status: str) -> Item:
        part = text_part("".join(message.texts), message.logprobs if self._logprobs else None)
        return message_item(message.id, status, [part])

    def _end_message(self, status: str) -> bytes:
        message, self._message = self._message, None
        if message is None:
            return b""
        item = self._written(message, status)
        (part,) = item["content"]
        text, logprobs = json.dumps(part["text"]), json.dumps(_in_events(message.logprobs))
        return (
            self._event("response.output_text.done", f'{message.head}, "text": {text}, "logprobs": {logprobs}')
            + self._event("response.content_part.done", f'{message.head}, "part": {json.dumps(part)}')
            + self._done(message.index, item)
        )

    def _end_call(self, status: str) -> bytes:
        call, self._call = self._call, None
        if call is None:
            return b""
        arguments = "".join(call.pieces)
        return self._told(
            "response.function_call_arguments.done", item_id=call.id, output_index=call.index, arguments=arguments
        ) + self._done(call.index, call_item(call.id, status, call.call_id, call.name, arguments))

    def _end_thought(self, end: End | None = None) -> bytes:
        """The thought is over, where all that it is given out with is known: at the `end`, or before."""
        id = self._reasoning
        waits = self._late or (self._sealed and self._seal is None) or (self._shows and self._shown is None)
        if id is None or (waits and end is None):
            return b""
        self._reasoning = None
        sealed = (end.sealed if end is not None else None) or self._seal
        summary, thought = (end.summary, end.thought) if end is not None else (None, self._shown)
        events = b""
        if thought is not None:
            events += self._shown_thought(id, thought)
        if summary is not None:
            events += self._summary(id, summary)
        item = reasoning_item(id, sealed=sealed if self._sealed else None, summary=summary, thought=thought)
        return events + self._done(0, item)

    def _shown_thought(self, id: str, thought: str) -> bytes:
        """To a key that may see it."""
        place = {"item_id": id, "output_index": 0, "content_index": 0}
        part = {"type": "reasoning_text", "text": thought}
        return (
            self._told("response.content_part.added", **place, part={**part, "text": ""})
            + self._told("response.reasoning_text.delta", **place, delta=thought)
            + self._told("response.reasoning_text.done", **place, text=thought)
            + self._told("response.content_part.done", **place, part=part)
        )

    def _summary(self, id: str, text: str) -> bytes:
        place = {"item_id": id, "output_index": 0, "summary_index": 0}
        return (
            self._told("response.reasoning_summary_part.added", **place, part=summary_part(""))
            + self._told("response.reasoning_summary_text.delta", **place, delta=text)
            + self._told("response.reasoning_summary_text.done", **place, text=text)
            + self._told("response.reasoning_summary_part.done", **place, part=summary_part(text))
        )

    # -- whole --------------------------------------------------------------------------------------------------------

    def whole(self, answers: Sequence[Whole], summary: Summary) -> bytes:
        (answer,) = answers
        end, items = answer.end, list[Item]()
        cut = end.reason == "cut"
        if self._thinks:
            sealed = end.sealed if self._sealed else None
            items.append(reasoning_item(f"rs_{self._name}", sealed=sealed, summary=end.summary, thought=end.thought))
        if answer.text or not answer.calls:
            part = text_part(answer.text, answer.logprobs if self._logprobs else None)
            status = "incomplete" if cut and not answer.calls else "completed"
            items.append(message_item(f"msg_{self._name}", status, [part]))
        for number, call in enumerate(answer.calls):
            id = f"fc_{self._name}{number:02x}"
            items.append(call_item(id, "completed", call.id, call.name, call.arguments))
        return dumped(self._ended(end, items, summary))

    def _ended(self, end: End, items: Sequence[Item], summary: Summary | None) -> dict[str, Any]:
        """The response for good."""
        told: dict[str, Any] = {**self._asked, "output": list(items)}
        if end.reason == "cut":
            told |= {"status": "incomplete", "incomplete_details": CUT}
        else:
            told |= {"status": "completed", "completed_at": int(time.time())}
        if summary is not None:
            told |= {"usage": response_usage(summary.usage), "thinking": thinking(summary)}
        self._keeping.answer = told
        if end.sealed is not None and self._thinks:
            self._keeping.sealed[f"rs_{self._name}"] = end.sealed
        return told


def _without_effect(wanted: ResponsesRequest) -> list[str]:
    """Fields that are known, and change nothing here."""
    told = [name for name in ("prompt_cache_key",) if getattr(wanted, name)]
    if wanted.service_tier not in (None, "auto", "default"):
        told.append("service_tier")
    if wanted.text and wanted.text.verbosity:
        told.append("text.verbosity")
    if wanted.stream_options and wanted.stream_options.include_obfuscation:
        told.append("stream_options.include_obfuscation")
    return told


def _in_events(logprobs: Sequence[TokenLogprob]) -> list[dict[str, Any]]:
    """Log-probabilities as events have them: without the bytes."""
    return [
        {
            "token": one["token"],
            "logprob": one["logprob"],
            "top_logprobs": [{"token": top["token"], "logprob": top["logprob"]} for top in one["top_logprobs"]],
        }
        for one in token_logprobs(logprobs)["content"]
    ]
