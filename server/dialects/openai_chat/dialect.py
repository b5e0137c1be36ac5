"""OpenAI's Chat Completions: `POST /v1/chat/completions`."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar

from starlette.responses import Response

from ponder.server.answers import Failure
from ponder.server.dialect import Reading, Target
from ponder.server.dialects.openai_chat.description import described
from ponder.server.dialects.openai_chat.reading import NAMES, chat_request, ours
from ponder.server.dialects.openai_chat.writing import ChatWriter
from ponder.server.dialects.openai_errors import ErrorBody, body, key, response
from ponder.server.settings import Limits


class OpenAIChat:
    """The dialect."""

    path = "/v1/chat/completions"
    key_hint = "`Authorization: Bearer <key>`"

    def key(self, headers: Mapping[str, str]) -> str | None:
        return key(headers)

    def read(self, raw: bytes, limits: Limits, target: Target) -> Reading:
        wanted, strays = chat_request(raw, limits)
        return Reading(ours(wanted), partial(ChatWriter, wanted, strays), NAMES)

    def error(self, failure: Failure) -> Response:
        return response(failure)

    def error_body(self, failure: Failure) -> dict[str, Any]:
        """The body of an error, for routes that belong to no dialect and answer more beside it."""
        return body(failure)

    def operation(self) -> tuple[dict[str, Any], dict[str, Any]]:
        return described(self.key_scheme)

    key_scheme = "key"
    """What `/openapi.json` calls the way a key is sent."""
    refusals: ClassVar[dict[int | str, dict[str, Any]]] = {
        "4XX": {"model": ErrorBody, "description": "The request is at fault, or came at a bad time"},
        "5XX": {"model": ErrorBody, "description": "The server is at fault"},
    }
    """What routes that belong to no dialect answer where they refuse, as FastAPI's routes are told of it."""
