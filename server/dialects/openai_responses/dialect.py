"""OpenAI's Responses: `POST /v1/responses`."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Any

from starlette.responses import Response

from ponder.server.answers import Failure
from ponder.server.dialect import Reading, Target
from ponder.server.dialects.openai_description import operation
from ponder.server.dialects.openai_errors import key, response
from ponder.server.dialects.openai_responses.answer_schema import (
    ResponseErrorBody,
    ResponseObject,
    ResponseStreamEvent,
)
from ponder.server.dialects.openai_responses.kept import read
from ponder.server.dialects.openai_responses.reading import responses_request
from ponder.server.dialects.openai_responses.schema import ResponsesRequest
from ponder.server.dialects.openai_responses.usage import response_usage
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
        )
