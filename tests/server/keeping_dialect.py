"""A dialect that keeps responses, and no more: text in, text out, in the shapes that the routes of kept responses
have."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict
from starlette.responses import Response

from ponder.compute.text import Message, TokenLogprob, ToolCall
from ponder.server.answers import End, Failure, Summary, Whole
from ponder.server.dialect import Item, Keeping, Reading, Target, Writer
from ponder.server.dialects import DEFAULT
from ponder.server.plan import ResolvedRequest
from ponder.server.request import Request
from ponder.server.settings import Limits
from ponder.server.strict_json import loads
from ponder.server.validation import checked


class Asked(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")
    model: str
    input: str
    store: bool | None = None
    background: bool = False
    stream: bool = False
    previous_response_id: str | None = None
    user: str | None = None
    timeout: float | None = None


def message(role: str, text: str) -> Item:
    return {"id": "msg_" + secrets.token_hex(8), "type": "message", "role": role, "content": text}


class KeepingWriter(Writer):
    media_type = "application/json"
    stream_headers: Sequence[tuple[bytes, bytes]] = ((b"content-type", b"text/event-stream; charset=utf-8"),)
    headers: Mapping[str, str] = {"x-keeping": "yes"}
    keep_alive = b": still here\n\n"
    closing = b": bye\n\n"

    def __init__(self, keeping: Keeping, resolved: ResolvedRequest) -> None:
        self._keeping, self._number, self._text = keeping, 0, ""
        self._response: dict[str, Any] = {"id": keeping.id, "object": "response", "model": resolved.model}
        self._response |= {"status": "in_progress", "store": keeping.stored, "output": [], "error": None}

    def _event(self, kind: str, **more: Any) -> bytes:
        told = {"type": kind, "sequence_number": self._number, **more}
        self._number += 1
        return f"event: {kind}\ndata: {json.dumps(told)}\n\n".encode()

    def opening(self) -> bytes:
        self._keeping.created = self._response
        return self._event("response.created", response=self._response)

    def text(self, index: int, text: str, logprobs: Sequence[TokenLogprob]) -> bytes:
        self._text += text
        return self._event("response.output_text.delta", delta=text) if text else b""

    def tool_call(self, index: int, number: int, call: ToolCall) -> bytes:
        return b""

    def _ended(self, text: str, end: End) -> dict[str, Any]:
        # An item of a thought, sealed as far as that is, as a caller would not be given it without asking.
        thought: Item = {"id": "rs_" + self._keeping.id, "type": "reasoning", "summary": []}
        self._keeping.sealed[thought["id"]] = end.sealed or "sealed"
        status = "incomplete" if end.reason == "cut" else "completed"
        output = [thought, message("assistant", text)]
        self._keeping.answer = {**self._response, "status": status, "output": output}
        return self._keeping.answer

    def end(self, index: int, end: End, summary: Summary | None) -> bytes:
        response = self._ended(self._text, end)
        return self._event(f"response.{response['status']}", response=response)

    def failure(self, failure: Failure) -> bytes:
        error = {"code": "server_error", "message": failure.message}
        self._keeping.answer = {**self._response, "status": "failed", "error": error}
        return self._event("response.failed", response=self._keeping.answer)

    def whole(self, answers: Sequence[Whole], summary: Summary) -> bytes:
        return json.dumps(self._ended(answers[0].text, answers[0].end)).encode()


class Keeps:
    path = "/v1/responses"
    key_hint = DEFAULT.key_hint

    def key(self, headers: Mapping[str, str]) -> str | None:
        return DEFAULT.key(headers)

    def read(self, raw: bytes, limits: Limits, target: Target) -> Reading:
        return self._reading(checked(Asked, loads(raw, limits.json_depth, limits.json_values)), ())

    def _reading(self, asked: Asked, earlier: Sequence[Item]) -> Reading:
        items = [*earlier, message("user", asked.input)]
        turns = [item for item in items if item["type"] == "message"]
        request = Request(
            model=asked.model,
            messages=tuple(Message(item["role"], item["content"]) for item in turns),
            stream=asked.stream,
            user=asked.user,
            timeout=asked.timeout,
        )
        keeping = Keeping(
            "resp_" + secrets.token_hex(12),
            asked.store,
            asked.background,
            asked.previous_response_id,
            items,
            lambda earlier: self._reading(asked, earlier),
        )
        return Reading(request, lambda resolved: KeepingWriter(keeping, resolved), {}, keeping)

    def error(self, failure: Failure) -> Response:
        return DEFAULT.error(failure)

    def operation(self) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
        return {"responses": {"200": {"description": "kept"}}}, {}
