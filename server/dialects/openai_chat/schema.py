"""OpenAI's chat request as pydantic models, and the bounds of each single field but those it shares with others."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Field

from ponder.server.dialects.openai_sampling import SamplingFields
from ponder.server.dialects.thinking_spellings import Spellings
from ponder.server.dialects.wire import WITHOUT_EFFECT, Name, Several, SomeTokens, Wire


class Function(Wire):
    name: Name
    arguments: str


class Call(Wire):
    id: str
    type: Literal["function"] = "function"
    function: Function


class WireMessage(Wire):
    part_lists: ClassVar[str | None] = "content"

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | Several[dict[str, Any]] | None = None
    name: str | None = None
    refusal: str | None = None
    tool_calls: Several[Call] | None = None
    tool_call_id: str | None = None
    reasoning_details: Several[dict[str, Any]] | None = Field(
        default=None, description="Of an assistant's turn, as it came: a sealed thought is read again"
    )


class StreamOptions(Wire):
    include_usage: bool | None = None
    include_progress: bool | None = Field(default=None, description="Chunks that tell how far the work is")


class JsonSchema(Wire):
    name: Name
    description: str | None = None
    schema_: dict[str, Any] | None = Field(default=None, alias="schema")
    strict: bool | None = None


class ResponseFormat(Wire):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None


class FunctionTool(Wire):
    name: Name
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class WireTool(Wire):
    type: Literal["function"]
    function: FunctionTool


class ChosenFunction(Wire):
    name: Name


class ToolChoice(Wire):
    type: Literal["function"]
    function: ChosenFunction


class ChatRequest(Spellings, SamplingFields):
    """`POST /v1/chat/completions`."""

    model_config = ConfigDict(title="ChatCompletionRequest")

    model: str = Field(description="A model of /v1/models, or MODEL:STRATEGY")
    messages: Several[WireMessage] = Field(min_length=1)
    include: Several[Literal["reasoning.encrypted_content"]] | None = Field(
        default=None, description="The thought sealed, in reasoning_details, to be sent back with its turn"
    )

    max_completion_tokens: SomeTokens | None = None
    max_tokens: SomeTokens | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0)] | None = None
    n: Annotated[int, Field(ge=1)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    response_format: ResponseFormat | None = None
    tools: Several[WireTool] | None = None
    tool_choice: Literal["none", "auto", "required"] | ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    metadata: dict[str, str] | None = None
    user: str | None = None
    store: bool | None = Field(default=None, json_schema_extra=WITHOUT_EFFECT)
    modalities: Several[Literal["text"]] | None = Field(default=None, description="Text alone")
