"""OpenAI's Responses: `POST /v1/responses`, and the tokens of a prompt: `POST /v1/responses/input_tokens`."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from starlette.responses import Response

from ponder.compute.errors import RequestError
from ponder.server.answers import Failure
from ponder.server.dialect import Reading, Target
from ponder.server.dialects.openai_errors import key, response
from ponder.server.dialects.openai_responses.answer_schema import (
    InputTokenCount,
    ResponseErrorBody,
    ResponseObject,
    ResponseStreamEvent,
)
from ponder.server.dialects.openai_responses.kept import read
from ponder.server.dialects.openai_responses.reading import responses_request
from ponder.server.dialects.openai_responses.refused import REFUSED
from ponder.server.dialects.openai_responses.schema import ResponsesRequest
from ponder.server.dialects.openai_responses.usage import response_usage
from ponder.server.dialects.operation import operation
from ponder.server.settings import Limits


class OpenAIResponses:
    """The dialect."""

    path = "/v1/responses"
    key_hint = "`Authorization: Bearer <key>`"

    def key(self, headers: Mapping[str, str]) -> str | None:
        return key(headers)

    def read(self, raw: bytes, limits: Limits, target: Target) -> Reading:
        wanted, strays = responses_request(raw, limits)
        return read(f"resp_{secrets.token_hex(24)}", wanted, strays)

    def error(self, failure: Failure) -> Response:
        return response(failure, response_usage)

    def operation(self) -> tuple[dict[str, Any], dict[str, Any]]:
        return operation(
            "responses",
            "Answer a conversation, as a response",
            "OpenAI's Responses with a thinking budget that binds. What is not known is named in the header "
            "x-ignored-parameters.",
            "key",
            request=ResponsesRequest,
            whole=ResponseObject,
            event=ResponseStreamEvent,
            refusal=ResponseErrorBody,
            refused=REFUSED,
        )


class OpenAIInputTokens(OpenAIResponses):
    """The dialect of those who want to know how long their prompt is."""

    path = "/v1/responses/input_tokens"

    def read(self, raw: bytes, limits: Limits, target: Target) -> Reading:
        reading = super().read(raw, limits, target)
        keeping = reading.keeping
        if keeping is not None and keeping.named:
            raise RequestError(
                "items that are kept are not read where tokens are counted: send them themselves",
                param="input",
                code="unsupported_parameter",
            )
        if keeping is not None and keeping.previous is not None:
            raise RequestError(
                "previous_response_id is not read where tokens are counted: send the whole conversation in input",
                param="previous_response_id",
                code="unsupported_parameter",
            )
        return replace(reading, count=counted)

    def operation(self) -> tuple[dict[str, Any], dict[str, Any]]:
        return operation(
            "count_input_tokens",
            "Count the tokens of a prompt",
            "The input_tokens that a response to the same request would have. Nothing is asked of the model.",
            "key",
            request=ResponsesRequest,
            whole=InputTokenCount,
            event=None,
            refusal=ResponseErrorBody,
            refused=REFUSED,
        )


def counted(tokens: int) -> bytes:
    """The answer."""
    return json.dumps({"object": "response.input_tokens", "input_tokens": tokens}).encode()
