"""Anthropic's messages in the words of OpenAPI: what is posted, what is answered, and our fields in both."""

from __future__ import annotations

from typing import Any

from pydantic import RootModel

from ponder.server.dialects.anthropic.answer_schema import Event, Message, TokenCount
from ponder.server.dialects.anthropic.errors import MessageErrorBody
from ponder.server.dialects.anthropic.schema import CountRequest, MessagesRequest
from ponder.server.dialects.anthropic.slips import CLEARED, REFUSED
from ponder.server.dialects.operation import operation as described

KEY_SCHEME = "key"
"""What `/openapi.json` calls the way a key is sent."""
HEADERS = (
    {
        "name": "anthropic-version",
        "in": "header",
        "required": True,
        "description": "Any version: there is one",
        "schema": {"type": "string", "minLength": 1},
    },
    {
        "name": "x-api-key",
        "in": "header",
        "description": "The API key, where it is not sent as a bearer token",
        "schema": {"type": "string"},
    },
)


OTHERS = {
    "thread": "send the whole conversation",
    "context_management": f"send the conversation as the model is to read it; {CLEARED} changes nothing and is taken",
}
"""Fields that are refused in a way of their own."""


class MessageEvent(RootModel[Event]):
    """The data of an event of a stream, whose last is a `message_stop`, or an error."""


def messages() -> tuple[dict[str, Any], dict[str, Any]]:
    """The operation, and the schemas it refers to."""
    told, schemas = described(
        "messages",
        "Answer a conversation, in Anthropic's words",
        "Anthropic's messages with a thinking budget that binds. What is not known is named in the header "
        "x-ignored-parameters.",
        KEY_SCHEME,
        request=MessagesRequest,
        whole=Message,
        event=MessageEvent,
        refusal=MessageErrorBody,
        refused=REFUSED,
    )
    told["x-refused-fields"] |= OTHERS
    told["parameters"] = [*HEADERS, *told["parameters"]]
    return told, schemas


def token_counts() -> tuple[dict[str, Any], dict[str, Any]]:
    """That of the count of a prompt's tokens."""
    told, schemas = described(
        "count_message_tokens",
        "Count the tokens of a conversation, in Anthropic's words",
        "As many as the usage of the answer to the same request will have as input. Nothing is generated.",
        KEY_SCHEME,
        request=CountRequest,
        whole=TokenCount,
        event=None,
        refusal=MessageErrorBody,
    )
    told["parameters"] = list(HEADERS)
    told["responses"]["200"]["description"] = "The number"
    return told, schemas
