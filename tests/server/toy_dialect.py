"""A dialect nobody speaks, to show what one takes: its own words, lines of JSON as framing, errors and key header."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from ponder.compute.text import Message, TokenLogprob, Tool, ToolCall
from ponder.server.answers import End, Failure, Summary, Whole
from ponder.server.dialect import Reading, Target, Writer
from ponder.server.plan import ResolvedRequest
from ponder.server.request import Asked, Request, ThinkingWish
from ponder.server.settings import Limits
from ponder.server.strict_json import loads
from ponder.server.validation import checked

Some = Annotated[int, Field(ge=1)]
NAMES = {"model": "brain", "messages": "talk", "strategy": "plan", "n": "copies", "tools": "actions"}


class ToyRequest(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")
    brain: str
    talk: list[str] = Field(min_length=1)
    ponder: Annotated[int, Field(ge=0)] | None = None
    plan: dict[str, Any] | None = None
    copies: Some = 1
    live: bool = False
    actions: dict[str, dict[str, Any]] = {}


def line(**value: Any) -> bytes:
    return json.dumps(value).encode() + b"\n"


class ToyWriter(Writer):
    media_type = "application/x-toy"
    stream_headers: Sequence[tuple[bytes, bytes]] = ((b"content-type", b"application/x-toy-lines"),)
    headers: Mapping[str, str] = {"x-toy": "yes"}
    keep_alive = line(still="here")
    closing = line(bye=True)

    def __init__(self, resolved: ResolvedRequest) -> None:
        pass

    def opening(self) -> bytes:
        return line(hello=True)

    def text(self, index: int, text: str, logprobs: Sequence[TokenLogprob]) -> bytes:
        return line(copy=index, said=text)

    def tool_call(self, index: int, number: int, call: ToolCall) -> bytes:
        return line(copy=index, do=call.name, given=call.arguments)

    def end(self, index: int, end: End, summary: Summary | None) -> bytes:
        return line(copy=index, over=end.reason) + (b"" if summary is None else line(**_cost(summary)))

    def failure(self, failure: Failure) -> bytes:
        return line(oops=failure.code, where=failure.field, why=failure.message)

    def whole(self, answers: Sequence[Whole], summary: Summary) -> bytes:
        copies = [{"said": a.text, "do": [c.name for c in a.calls], "over": a.end.reason} for a in answers]
        return line(copies=copies, **_cost(summary))


def _cost(summary: Summary) -> dict[str, int]:
    return {"thought_tokens": summary.usage.hidden, "all_tokens": summary.usage.generated, "allowed": summary.budget}


class Toy:
    path = "/toy/ask"
    key_hint = "`X-Toy-Key: <key>`"

    def key(self, headers: Mapping[str, str]) -> str | None:
        return headers.get("x-toy-key")

    def read(self, raw: bytes, limits: Limits, target: Target) -> Reading:
        wanted = checked(ToyRequest, loads(raw, limits.json_depth, limits.json_values))
        plan, silent = dict(wanted.plan or {}), wanted.ponder is None
        request = Request(
            model=wanted.brain,
            messages=tuple(Message("assistant" if i % 2 else "user", turn) for i, turn in enumerate(wanted.talk)),
            thinking=ThinkingWish(wanted.ponder, source="default" if silent else "ponder", exact=True),
            strategy=Asked(str(plan.pop("name", "direct")), plan) if wanted.plan is not None else None,
            tools=tuple(Tool(name, "", json.dumps(schema)) for name, schema in wanted.actions.items()),
            n=wanted.copies,
            stream=wanted.live,
        )
        return Reading(request, ToyWriter, NAMES)

    def error(self, failure: Failure) -> Response:
        content = line(oops=failure.code, where=failure.field, why=failure.message)
        return Response(content, failure.status, media_type="application/x-toy")

    def operation(self) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
        return {"responses": {"200": {"description": "toy"}}}, {}
