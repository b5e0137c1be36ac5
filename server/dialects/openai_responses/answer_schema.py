"""A response and the events of its stream as pydantic models, with our `thinking` in it: for `/openapi.json`.

Answers are written without them (`response.py`, `writing.py`); the tests hold what is written to these.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, RootModel

from ponder.compute.outcome import SummaryLength
from ponder.server.dialects.described import Part
from ponder.server.dialects.openai_errors import Error
from ponder.server.dialects.openai_responses.usage import ResponseUsage
from ponder.server.dialects.progress_report import ProgressReport
from ponder.server.dialects.thinking_report import ThinkingReport

ItemStatus = Literal["in_progress", "completed", "incomplete"]


class SummaryText(Part):
    type: Literal["summary_text"]
    text: str


class ReasoningText(Part):
    type: Literal["reasoning_text"]
    text: str


class ReasoningOutput(Part):
    """A thought. Its text is hidden."""

    id: str
    type: Literal["reasoning"]
    summary: list[SummaryText] = Field(description="Written by the model, where reasoning.summary asks for it")
    content: list[ReasoningText] = Field(default=[], description="The thought, with include_reasoning")
    encrypted_content: str = Field(default="", description="The thought, sealed, where include asks for it")


class OtherToken(Part):
    token: str
    bytes: list[int]
    logprob: float


class OutputToken(OtherToken):
    top_logprobs: list[OtherToken]


class OutputText(Part):
    type: Literal["output_text"]
    text: str
    annotations: list[Any] = Field(max_length=0)
    logprobs: list[OutputToken] = Field(default=[], description="Where they were asked for")


class MessageOutput(Part):
    """What the model says."""

    id: str
    type: Literal["message"]
    status: ItemStatus
    role: Literal["assistant"]
    content: list[OutputText]


class FunctionCallItem(Part):
    """A function that the model wants called."""

    id: str
    type: Literal["function_call"]
    status: ItemStatus
    call_id: str
    name: str
    arguments: str = Field(description="JSON text")


OutputItem = Annotated[ReasoningOutput | MessageOutput | FunctionCallItem, Field(discriminator="type")]


class ResponseFault(Part):
    """Why a response has failed."""

    code: Literal["server_error", "rate_limit_exceeded", "invalid_prompt"]
    message: str
    type: str
    param: str = ""


class Incomplete(Part):
    reason: Literal["max_output_tokens"] = Field(description="The visible answer was cut; thinking.stopped_by says why")


class ReasoningTold(Part):
    effort: str | None
    summary: SummaryLength | None
    mode: Literal["standard", "pro"] = "standard"
    context: Literal["auto", "current_turn"] = "auto"


class FormatTold(Part):
    type: Literal["text", "json_object", "json_schema"]
    name: str = ""
    json_schema: dict[str, Any] = Field(default={}, alias="schema")
    description: str = ""
    strict: bool = False


class TextTold(Part):
    format: FormatTold
    verbosity: Literal["low", "medium", "high"] = "medium"


class FunctionTold(Part):
    type: Literal["function"]
    name: str
    description: str = ""
    parameters: dict[str, Any] | None
    strict: bool


class ToolChoiceTold(Part):
    type: Literal["function", "allowed_tools"]
    name: str = ""
    mode: Literal["auto", "required"] = "auto"
    tools: list[dict[str, Any]] = Field(default=[])


class ResponseObject(Part):
    """A response. What does not apply is left out."""

    id: str
    object: Literal["response"]
    created_at: int = Field(description="Unix time in seconds")
    completed_at: int = Field(default=0, description="The same, of its end")
    status: Literal["queued", "in_progress", "completed", "incomplete", "failed", "cancelled"]
    background: bool
    error: ResponseFault | None
    incomplete_details: Incomplete | None
    instructions: str | None
    metadata: dict[str, str]
    model: str
    output: list[OutputItem]
    parallel_tool_calls: bool
    reasoning: ReasoningTold
    temperature: float
    text: TextTold
    tool_choice: Literal["none", "auto", "required"] | ToolChoiceTold
    tools: list[FunctionTold]
    top_logprobs: int
    top_p: float
    truncation: Literal["disabled"]
    max_output_tokens: int = 0
    max_tool_calls: int = 0
    previous_response_id: str = ""
    prompt_cache_key: str = ""
    safety_identifier: str = ""
    service_tier: Literal["default"] = "default"
    user: str = ""
    usage: ResponseUsage = Field(default=None, description="When it has ended")  # pyright: ignore[reportAssignmentType]
    thinking: ThinkingReport = Field(default=None, description="When it has ended")  # pyright: ignore[reportAssignmentType]


class _Event(Part):
    sequence_number: int = Field(description="From 0, without a gap")


class WholeEvent(_Event):
    type: Literal[
        "response.created",
        "response.in_progress",
        "response.completed",
        "response.incomplete",
        "response.failed",
    ]
    response: ResponseObject


class ItemEvent(_Event):
    type: Literal["response.output_item.added", "response.output_item.done"]
    output_index: int
    item: OutputItem


class _OfAnItem(_Event):
    item_id: str
    output_index: int


class PartEvent(_OfAnItem):
    type: Literal["response.content_part.added", "response.content_part.done"]
    content_index: int
    part: Annotated[OutputText | ReasoningText, Field(discriminator="type")]


class OtherTokenTold(Part):
    token: str
    logprob: float


class TokenTold(OtherTokenTold):
    top_logprobs: list[OtherTokenTold]


class TextDelta(_OfAnItem):
    type: Literal["response.output_text.delta"]
    content_index: int
    delta: str
    logprobs: list[TokenTold]


class TextDone(_OfAnItem):
    type: Literal["response.output_text.done"]
    content_index: int
    text: str
    logprobs: list[TokenTold]


class ArgumentsDelta(_OfAnItem):
    type: Literal["response.function_call_arguments.delta"]
    delta: str


class ArgumentsDone(_OfAnItem):
    type: Literal["response.function_call_arguments.done"]
    arguments: str


class ReasoningTextDelta(_OfAnItem):
    type: Literal["response.reasoning_text.delta"]
    content_index: int
    delta: str


class ReasoningTextDone(_OfAnItem):
    type: Literal["response.reasoning_text.done"]
    content_index: int
    text: str


class SummaryPartEvent(_OfAnItem):
    type: Literal["response.reasoning_summary_part.added", "response.reasoning_summary_part.done"]
    summary_index: int
    part: SummaryText


class SummaryDelta(_OfAnItem):
    type: Literal["response.reasoning_summary_text.delta"]
    summary_index: int
    delta: str


class SummaryDone(_OfAnItem):
    type: Literal["response.reasoning_summary_text.done"]
    summary_index: int
    text: str


class ProgressEvent(_Event):
    """With stream_options.include_progress: an event of our own."""

    type: Literal["response.progress"]
    response_id: str
    progress: ProgressReport


class ResponseStreamEvent(
    RootModel[
        Annotated[
            WholeEvent
            | ItemEvent
            | PartEvent
            | TextDelta
            | TextDone
            | ArgumentsDelta
            | ArgumentsDone
            | ReasoningTextDelta
            | ReasoningTextDone
            | SummaryPartEvent
            | SummaryDelta
            | SummaryDone
            | ProgressEvent,
            Field(discriminator="type"),
        ]
    ]
):
    """The data of an event of a stream."""


class InputTokenCount(Part):
    """The tokens of a prompt."""

    object: Literal["response.input_tokens"]
    input_tokens: int


class ResponseErrorBody(Part):
    """Every refusal."""

    error: Error
    usage: ResponseUsage | None = Field(default=None, description="Where tokens were made all the same")
