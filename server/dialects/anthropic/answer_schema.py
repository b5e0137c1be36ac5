"""Anthropic's message as pydantic models, with our `ponder` in it: for `/openapi.json`.

Answers are written without them (`writing.py`); the tests hold what is written to these.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from ponder.server.dialects.described import Part
from ponder.server.dialects.thinking_report import ThinkingReport


class ThinkingTokens(Part):
    thinking_tokens: int = Field(description="Hidden ones; a part of output_tokens")


class MessageUsage(Part):
    """Tokens: of the prompt what was read anew and what was in the prefix cache, and all that the model made."""

    input_tokens: int
    cache_creation_input_tokens: Literal[0]
    cache_read_input_tokens: int
    output_tokens: int
    output_tokens_details: ThinkingTokens


class TextBlock(Part):
    type: Literal["text"]
    text: str


class ThinkingBlock(Part):
    """The thought, sealed. It can be handed back, and only this server can open it, for the same API key."""

    type: Literal["thinking"]
    thinking: str = Field(description="A summary, where it was asked for; the thought, with include_reasoning")
    signature: str


class RedactedThinkingBlock(Part):
    """The same, where a summary was asked for and the budget had no room for one."""

    type: Literal["redacted_thinking"]
    data: str


class ToolUseBlock(Part):
    type: Literal["tool_use"]
    id: str
    name: str
    input: dict[str, Any]


Block = TextBlock | ThinkingBlock | RedactedThinkingBlock | ToolUseBlock
StopReason = Literal["end_turn", "max_tokens", "stop_sequence", "tool_use"]


class Message(Part):
    """The answer to a request that is not streamed."""

    id: str
    type: Literal["message"]
    role: Literal["assistant"]
    model: str
    content: list[Block]
    stop_reason: StopReason = Field(description="max_tokens only where the visible answer was cut")
    stop_sequence: str | None
    usage: MessageUsage
    ponder: ThinkingReport


class MessageBegun(Part):
    id: str
    type: Literal["message"]
    role: Literal["assistant"]
    model: str
    content: list[Block] = Field(max_length=0)
    stop_reason: None
    stop_sequence: None
    usage: MessageUsage


class MessageStart(Part):
    type: Literal["message_start"]
    message: MessageBegun


class BlockStart(Part):
    type: Literal["content_block_start"]
    index: int
    content_block: Block


class TextDelta(Part):
    type: Literal["text_delta"]
    text: str


class ThinkingDelta(Part):
    type: Literal["thinking_delta"]
    thinking: str


class SignatureDelta(Part):
    type: Literal["signature_delta"]
    signature: str


class InputDelta(Part):
    type: Literal["input_json_delta"]
    partial_json: str


class BlockDelta(Part):
    type: Literal["content_block_delta"]
    index: int
    delta: TextDelta | ThinkingDelta | SignatureDelta | InputDelta


class BlockStop(Part):
    type: Literal["content_block_stop"]
    index: int


class Stopped(Part):
    stop_reason: StopReason
    stop_sequence: str | None


class MessageDelta(Part):
    type: Literal["message_delta"]
    delta: Stopped
    usage: MessageUsage
    ponder: ThinkingReport


class MessageStop(Part):
    type: Literal["message_stop"]


class Ping(Part):
    type: Literal["ping"]


Event = Annotated[
    MessageStart | BlockStart | BlockDelta | BlockStop | MessageDelta | MessageStop | Ping, Field(discriminator="type")
]


class TokenCount(Part):
    """How long a prompt is."""

    input_tokens: int
