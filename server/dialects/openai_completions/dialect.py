"""OpenAI's Completions: `POST /v1/completions`."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from starlette.responses import Response

from ponder.server.answers import Failure
from ponder.server.dialect import Reading, Target
from ponder.server.dialects.openai_completions.answer_schema import TextCompletion, TextCompletionChunk
from ponder.server.dialects.openai_completions.reading import NAMES, completion_request, ours
from ponder.server.dialects.openai_completions.schema import REFUSED, CompletionRequest
from ponder.server.dialects.openai_completions.writing import CompletionWriter
from ponder.server.dialects.openai_errors import ErrorBody, key, response
from ponder.server.dialects.operation import operation
from ponder.server.settings import Limits


class OpenAICompletions:
    """The dialect."""

    path = "/v1/completions"
    key_hint = "`Authorization: Bearer <key>`"

    def key(self, headers: Mapping[str, str]) -> str | None:
        return key(headers)

    def read(self, raw: bytes, limits: Limits, target: Target) -> Reading:
        wanted, strays = completion_request(raw, limits)
        return Reading(ours(wanted), partial(CompletionWriter, wanted, strays), NAMES)

    def error(self, failure: Failure) -> Response:
        return response(failure)

    def operation(self) -> tuple[dict[str, Any], dict[str, Any]]:
        return operation(
            "completions",
            "Go on with a text",
            "OpenAI's completions: raw texts, which the model goes on with as they stand. What is not known is named "
            "in the header x-ignored-parameters.",
            "key",
            request=CompletionRequest,
            whole=TextCompletion,
            event=TextCompletionChunk,
            refusal=ErrorBody,
            refused=REFUSED,
        )
