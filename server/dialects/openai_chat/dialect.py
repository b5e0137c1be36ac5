"""OpenAI's Chat Completions: `POST /v1/chat/completions`."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from starlette.responses import Response

from ponder.server.answers import Failure
from ponder.server.dialect import Reading
from ponder.server.dialects.openai_chat import errors
from ponder.server.dialects.openai_chat.reading import NAMES, chat_request, ours
from ponder.server.dialects.openai_chat.schema import ChatRequest
from ponder.server.dialects.openai_chat.writing import ChatWriter
from ponder.server.settings import Limits


class OpenAIChat:
    """The dialect."""

    path = "/v1/chat/completions"
    key_hint = "`Authorization: Bearer <key>`"

    def key(self, headers: Mapping[str, str]) -> str | None:
        kind, _, presented = headers.get("authorization", "").partition(" ")
        return presented.strip() or None if kind.lower() == "bearer" else None

    def read(self, raw: bytes, limits: Limits) -> Reading:
        wanted = chat_request(raw, limits)
        return Reading(ours(wanted), partial(ChatWriter, wanted), NAMES)

    def error(self, failure: Failure) -> Response:
        return errors.response(failure)

    def error_body(self, failure: Failure) -> dict[str, Any]:
        """The body of an error, for routes that belong to no dialect and answer more beside it."""
        return errors.body(failure)

    def operation(self) -> tuple[dict[str, Any], dict[str, Any]]:
        request = ChatRequest.model_json_schema(ref_template="#/components/schemas/{model}")
        schemas = request.pop("$defs", {})
        content = {"application/json": {"schema": request}}
        return {"requestBody": {"required": True, "content": content}, "responses": self.responses}, schemas

    responses: Mapping[str, Any] = {
        "200": {"description": "OpenAI's shape"},
        "4XX": {"description": "OpenAI's error"},
    }
    """As OpenAPI describes them; also those of the routes that belong to no dialect."""
