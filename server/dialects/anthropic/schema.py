"""Anthropic's Messages request as pydantic models, our fields beside theirs, and the bounds of each single field."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from ponder.server.dialects.own_fields import OwnFields
from ponder.server.dialects.wire import WITHOUT_EFFECT, Effort, Several, SomeTokens, Tokens, Wire

ToolName = Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]{1,128}$")]
Blocks = Several[dict[str, Any]]
"""Read one by one in `blocks.py`."""


class CacheControl(Wire):
    type: Literal["ephemeral"]
    ttl: Literal["5m", "1h"] | None = Field(default=None, json_schema_extra=WITHOUT_EFFECT)


class Turn(Wire):
    """A message: a user's, which may hold results of tools, or the model's own, with its thoughts and calls."""

    role: Literal["user", "assistant", "system"]
    content: str | Blocks


class CustomTool(Wire):
    name: ToolName
    description: str | None = None
    input_schema: dict[str, Any]
    type: Literal["custom"] | None = None
    strict: bool | None = None
    input_examples: Several[dict[str, Any]] | None = None
    cache_control: CacheControl | None = None
    eager_input_streaming: bool | None = Field(default=None, json_schema_extra=WITHOUT_EFFECT)
    defer_loading: Literal[False] | None = None
    allowed_callers: list[Literal["direct"]] | None = None


class ToolUse(Wire):
    """How the tools may be used."""

    type: Literal["auto", "any", "tool", "none"]
    name: str | None = Field(default=None, description="With the type tool: this one")
    disable_parallel_tool_use: bool | None = None


class ThinkingConfig(Wire):
    """How much to think, and what is shown of it."""

    type: Literal["enabled", "disabled", "adaptive"]
    budget_tokens: Tokens | None = Field(default=None, description="Hidden tokens at most: any number, also below 1024")
    display: Literal["summarized", "omitted"] | None = Field(
        default=None, description="summarized: with a summary, which the model writes behind its answer"
    )


class JsonFormat(Wire):
    type: Literal["json_schema"]
    schema_: dict[str, Any] = Field(alias="schema")


class OutputConfig(Wire):
    effort: Effort | None = Field(default=None, description="A word for a budget, where nothing names tokens")
    format: JsonFormat | None = None


class Metadata(Wire):
    user_id: str | None = None


class CountRequest(OwnFields):
    """`POST /v1/messages/count_tokens`."""

    model_config = ConfigDict(title="MessageCountTokensRequest")

    model: str = Field(description="A model of /v1/models, or MODEL:STRATEGY")
    messages: Several[Turn] = Field(min_length=1)
    max_tokens: SomeTokens | None = Field(default=None, description="Hidden and visible tokens together at most")
    system: str | Blocks | None = None
    thinking: ThinkingConfig | None = None
    tools: Several[CustomTool] | None = None
    tool_choice: ToolUse | None = None
    output_config: OutputConfig | None = None
    output_format: JsonFormat | None = Field(default=None, description="output_config.format, as it was called before")
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1, le=2**31 - 1)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = Field(
        default=None, description="The same seed gives the same answer"
    )
    stop_sequences: Several[str] | None = None
    stream: bool | None = None
    metadata: Metadata | None = None
    service_tier: Literal["auto", "standard_only"] | None = None
    cache_control: CacheControl | None = Field(default=None, description="Prompts are cached without being asked")


class MessagesRequest(CountRequest):
    """`POST /v1/messages`."""

    model_config = ConfigDict(title="MessageCreateRequest")

    max_tokens: SomeTokens = Field(  # pyright: ignore[reportGeneralTypeIssues, reportIncompatibleVariableOverride]
        description="Hidden and visible tokens together at most"
    )
