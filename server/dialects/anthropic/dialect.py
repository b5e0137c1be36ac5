"""Anthropic's Messages: `POST /v1/messages`, and the tokens of a prompt: `POST /v1/messages/count_tokens`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from typing import Any

from starlette.responses import Response

from ponder.server.answers import Failure
from ponder.server.dialect import Reading, Target
from ponder.server.dialects.anthropic import description
from ponder.server.dialects.anthropic.blocks import Turns
from ponder.server.dialects.anthropic.errors import body
from ponder.server.dialects.anthropic.reading import NAMES, checked_request, ours
from ponder.server.dialects.anthropic.schema import CountRequest, MessagesRequest
from ponder.server.dialects.anthropic.writing import MessageWriter
from ponder.server.dialects.openai_errors import key as bearer
from ponder.server.dialects.refusal import refusal
from ponder.server.settings import Limits


class AnthropicMessages:
    """The dialect."""

    path = "/v1/messages"
    key_hint = "`x-api-key: <key>`"

    def key(self, headers: Mapping[str, str]) -> str | None:
        return headers.get("x-api-key") or bearer(headers)

    def read(self, raw: bytes, limits: Limits, target: Target) -> Reading:
        wanted, strays = checked_request(raw, limits, target, MessagesRequest)
        turns = Turns(wanted)
        request = ours(wanted, turns, target)
        # A beta header may have said it.
        beside = "loop" if request.thinking.loop else ""
        names = {**NAMES, **turns.names}
        return Reading(request, partial(MessageWriter, wanted, strays), names, beside=beside)

    def error(self, failure: Failure) -> Response:
        return refusal(failure, body(failure))

    def operation(self) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
        return description.messages()


class AnthropicTokenCounts(AnthropicMessages):
    """The dialect of those who want to know how long their prompt is."""

    path = "/v1/messages/count_tokens"

    def read(self, raw: bytes, limits: Limits, target: Target) -> Reading:
        wanted, strays = checked_request(raw, limits, target, CountRequest)
        turns = Turns(wanted)
        return Reading(
            ours(wanted, turns, target), partial(MessageWriter, wanted, strays), {**NAMES, **turns.names}, counted
        )

    def operation(self) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
        return description.token_counts()


def counted(tokens: int) -> bytes:
    """The answer."""
    return json.dumps({"input_tokens": tokens}).encode()
