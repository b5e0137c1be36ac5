"""Google's Gemini API: `POST .../models/{model}:generateContent`, `:streamGenerateContent` and `:countTokens`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

from starlette.responses import Response

from ponder.compute.errors import RequestError
from ponder.server.answers import Failure
from ponder.server.dialect import Dialect, Reading, Target
from ponder.server.dialects.gemini import errors
from ponder.server.dialects.gemini.description import described
from ponder.server.dialects.gemini.reading import count_request, generate_request
from ponder.server.dialects.gemini.writing import GeminiArrayWriter, GeminiWriter, counted
from ponder.server.dialects.openai_errors import key as bearer
from ponder.server.dialects.refusal import refusal
from ponder.server.settings import Limits

KEY_HEADER = "x-goog-api-key"
ROOTS = ("/v1beta", "/v1")
"""Where it is asked."""


class Gemini:
    """One of its methods under one of its roots."""

    key_hint = "`x-goog-api-key: <key>`"
    key_parameter = "key"
    action = "generateContent"
    stream = False
    refusals: ClassVar[dict[int | str, dict[str, Any]]] = {
        "4XX": {"model": errors.GeminiError, "description": "The request is at fault, or came at a bad time"},
        "5XX": {"model": errors.GeminiError, "description": "The server is at fault"},
    }
    """What pages answer where they refuse a caller of this dialect."""

    def __init__(self, root: str = ROOTS[0]) -> None:
        self.root = root
        self.path = f"{root}/models/{{model:path}}:{self.action}"

    def key(self, headers: Mapping[str, str]) -> str | None:
        return headers.get(KEY_HEADER) or bearer(headers)

    def read(self, raw: bytes, limits: Limits, target: Target) -> Reading:
        wanted = generate_request(raw, limits, target.path.get("model", ""), stream=self.stream)
        if not self.stream:
            return Reading(wanted.request, partial(GeminiWriter, wanted), wanted.names)
        alt = target.query.get("alt") or target.query.get("$alt") or "json"
        if alt not in ("sse", "json"):
            raise RequestError("alt should be sse or json", param="alt", code="invalid_value")
        writer = GeminiWriter if alt == "sse" else GeminiArrayWriter
        return Reading(wanted.request, partial(writer, wanted), wanted.names, beside=alt)

    def error(self, failure: Failure) -> Response:
        return refusal(failure, errors.body(failure))

    def operation(self) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
        return described(self.action, self.root)


class GeminiStream(Gemini):
    """The answer as a stream."""

    action = "streamGenerateContent"
    stream = True


class GeminiTokenCounts(Gemini):
    """The tokens of a prompt."""

    action = "countTokens"

    def read(self, raw: bytes, limits: Limits, target: Target) -> Reading:
        wanted = count_request(raw, limits, target.path.get("model", ""))
        return Reading(wanted.request, partial(GeminiWriter, wanted), wanted.names, partial(counted, wanted))


def methods() -> Sequence[Dialect]:
    """All of them."""
    return [kind(root) for root in ROOTS for kind in (Gemini, GeminiStream, GeminiTokenCounts)]
