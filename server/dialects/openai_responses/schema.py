"""OpenAI's request for a response as pydantic models, and the bounds of each single field but those it shares with
others."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Discriminator, Field, Tag

from ponder.compute.outcome import SummaryLength
from ponder.server.dialects.openai_sampling import SamplingFields
from ponder.server.dialects.thinking_spellings import Reasoning, Spellings
from ponder.server.dialects.wire import WITHOUT_EFFECT, Name, Several, SomeTokens, Wire


class InputMessage(Wire):
    """A turn of the conversation."""

    part_lists: ClassVar[str | None] = "content"

    type: Literal["message"] = "message"
    role: Literal["system", "developer", "user", "assistant"]
    content: str | Several[dict[str, Any]]
    id: str | None = None
    status: str | None = None
    phase: str | None = Field(default=None, json_schema_extra=WITHOUT_EFFECT)


class FunctionCall(Wire):
    """A call that the model has made."""

    type: Literal["function_call"]
    call_id: str
    name: Name
    arguments: str
    id: str | None = None
    status: str | None = None


class FunctionCallOutput(Wire):
    """What came of it."""

    part_lists: ClassVar[str | None] = "output"

    type: Literal["function_call_output"]
    call_id: str
    output: str | Several[dict[str, Any]]
    id: str | None = None
    status: str | None = None


class ReasoningItem(Wire):
    """The model's thought, as it was given out."""

    type: Literal["reasoning"]
    summary: Several[dict[str, Any]] | None = None
    content: Several[dict[str, Any]] | None = None
    encrypted_content: str | None = Field(default=None, description="The thought, sealed; no other text of it is read")
    id: str | None = None
    status: str | None = None


class ItemReference(Wire):
    """An item of a response that is kept."""

    type: Literal["item_reference"] | None = None
    id: str


def _kind(item: Any) -> str | None:
    """The tag of an item, which may leave its type out."""
    if isinstance(item, Wire):
        return getattr(item, "type", None) or "item_reference"
    if not isinstance(item, dict):
        return "message"
    given: dict[str, Any] = item  # pyright: ignore[reportUnknownVariableType]
    kind = given.get("type")
    if kind is None:
        return "item_reference" if "id" in given and "role" not in given else "message"
    return kind if isinstance(kind, str) else None


InputItem = Annotated[
    Annotated[InputMessage, Tag("message")]
    | Annotated[FunctionCall, Tag("function_call")]
    | Annotated[FunctionCallOutput, Tag("function_call_output")]
    | Annotated[ReasoningItem, Tag("reasoning")]
    | Annotated[ItemReference, Tag("item_reference")],
    Discriminator(
        _kind,
        custom_error_type="item_kind",
        custom_error_message="is no item of a kind that is known: message, function_call, function_call_output, "
        "reasoning or item_reference",
    ),
]


class ResponseTool(Wire):
    """A function, which the caller runs."""

    type: Literal["function"]
    name: Name
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class ChosenTool(Wire):
    type: Literal["function"]
    name: Name


class AllowedTools(Wire):
    type: Literal["allowed_tools"]
    mode: Literal["auto", "required"]
    tools: Several[ChosenTool] = Field(min_length=1)


class PlainText(Wire):
    type: Literal["text"]


class AnyObject(Wire):
    type: Literal["json_object"]


class HeldToSchema(Wire):
    type: Literal["json_schema"]
    name: Name
    schema_: dict[str, Any] = Field(alias="schema")
    description: str | None = None
    strict: bool | None = None


class TextWish(Wire):
    format: Annotated[PlainText | AnyObject | HeldToSchema, Discriminator("type")] | None = None
    verbosity: Literal["low", "medium", "high"] | None = Field(default=None, json_schema_extra=WITHOUT_EFFECT)


class ReasoningWish(Reasoning):
    summary: SummaryLength | None = Field(default=None, description="The response has a summary of the thought")
    generate_summary: SummaryLength | None = Field(default=None, description="summary, as it was called before")
    mode: Literal["standard", "pro"] | None = Field(
        default=None, description="pro: the budget is spent by the strategy that the operator has chosen for it"
    )
    context: Literal["auto", "current_turn"] | None = Field(
        default=None, description="current_turn: thoughts from before the last message of the user are left out"
    )


class ResponseStreamOptions(Wire):
    include_progress: bool | None = Field(default=None, description="The stream tells how far the work is")
    include_obfuscation: bool | None = Field(default=None, json_schema_extra=WITHOUT_EFFECT)


Included = Literal[
    "reasoning.encrypted_content",
    "message.output_text.logprobs",
    "message.input_image.image_url",
    "file_search_call.results",
    "web_search_call.results",
    "web_search_call.action.sources",
    "computer_call_output.output.image_url",
    "code_interpreter_call.outputs",
]


class ResponsesRequest(Spellings, SamplingFields):
    """`POST /v1/responses`."""

    model_config = ConfigDict(title="ResponsesRequest")

    model: str = Field(description="A model of /v1/models, or MODEL:STRATEGY")
    input: str | Annotated[Several[InputItem], Field(min_length=1)]
    instructions: str | None = None
    max_output_tokens: SomeTokens | None = Field(default=None, description="Hidden and visible tokens at most")
    reasoning: ReasoningWish | None = Field(  # pyright: ignore[reportIncompatibleVariableOverride]
        default=None, description="thinking_budget, as OpenAI and OpenRouter write it, and how thoughts are given out"
    )
    text: TextWish | None = None
    tools: Several[ResponseTool] | None = None
    tool_choice: (
        Literal["none", "auto", "required"] | Annotated[ChosenTool | AllowedTools, Discriminator("type")] | None
    ) = None
    parallel_tool_calls: bool | None = None
    max_tool_calls: Annotated[int, Field(ge=0)] | None = Field(
        default=None, description="Bounds the calls of hosted tools, of which there are none"
    )
    include: Several[Included] | None = None
    top_logprobs: Annotated[int, Field(ge=0)] | None = None
    stream: bool | None = None
    stream_options: ResponseStreamOptions | None = None
    metadata: dict[str, str] | None = None
    user: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = Field(default=None, json_schema_extra=WITHOUT_EFFECT)
    service_tier: Literal["auto", "default", "flex", "scale", "priority", "fast", "ultrafast"] | None = Field(
        default=None, json_schema_extra=WITHOUT_EFFECT
    )
    truncation: Literal["auto", "disabled"] | None = None
    store: bool | None = None
    background: bool | None = None
    previous_response_id: str | None = None
