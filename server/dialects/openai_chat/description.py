"""OpenAI's chat completions in the words of OpenAPI: what is posted, what is answered, and our fields in both."""

from __future__ import annotations

from typing import Any

from ponder.server.dialects.openai_chat.answer_schema import ChatCompletion, ChatCompletionChunk
from ponder.server.dialects.openai_chat.refused import REFUSED
from ponder.server.dialects.openai_chat.schema import ChatRequest
from ponder.server.dialects.openai_errors import ErrorBody
from ponder.server.dialects.operation import operation


def described(key_scheme: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The operation, and the schemas it refers to. `key_scheme` is the way a key is sent."""
    return operation(
        "chat_completions",
        "Answer a conversation",
        "OpenAI's chat completions with a thinking budget that binds. What is not known is named in the "
        "header x-ignored-parameters.",
        key_scheme,
        request=ChatRequest,
        whole=ChatCompletion,
        event=ChatCompletionChunk,
        refusal=ErrorBody,
        refused=REFUSED,
    )
