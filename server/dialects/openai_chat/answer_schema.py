"""OpenAI's chat completion as pydantic models, with our `thinking` in it: for `/openapi.json`.

Answers are written without them (`writing.py`); the tests hold what is written to these.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ponder.server.dialects.described import Part
from ponder.server.dialects.openai_usage import CompletionUsage
from ponder.server.dialects.progress_report import ProgressReport
from ponder.server.dialects.thinking_report import ThinkingReport

FinishReason = Literal["stop", "length", "tool_calls"]


class AnswerFunction(Part):
    name: str
    arguments: str = Field(description="JSON text")


class AnswerCall(Part):
    id: str
    type: Literal["function"]
    function: AnswerFunction


class AlternativeToken(Part):
    token: str
    bytes: list[int]
    logprob: float


class TokenChances(AlternativeToken):
    top_logprobs: list[AlternativeToken]


class Logprobs(Part):
    content: list[TokenChances]
    refusal: None


class ReasoningDetail(Part):
    """What may be told of a thought."""

    type: Literal["reasoning.encrypted", "reasoning.summary"]
    data: str = Field(default="", description="Of the first type: the thought, sealed, to be sent back with its turn")
    summary: str = Field(default="", description="Of the second")
    format: Literal["unknown"]
    index: int


class AnswerMessage(Part):
    role: Literal["assistant"]
    content: str | None
    refusal: None
    tool_calls: list[AnswerCall] = Field(default=[], min_length=1)
    reasoning: str = Field(default="", description="The thought, with include_reasoning; else its summary")
    reasoning_content: str = Field(default="", description="The same, as others call it")
    reasoning_details: list[ReasoningDetail] = Field(
        default=[], min_length=1, description="The thought sealed, and its summary, where they were asked for"
    )


class AnswerChoice(Part):
    index: int
    message: AnswerMessage
    logprobs: Logprobs | None
    finish_reason: FinishReason = Field(description="length only where the visible answer was cut")


class ChatCompletion(Part):
    """The answer to a request that is not streamed."""

    id: str
    object: Literal["chat.completion"]
    created: int = Field(description="Unix time in seconds")
    model: str
    choices: list[AnswerChoice]
    usage: CompletionUsage
    thinking: ThinkingReport


class DeltaFunction(Part):
    name: str = Field(default="", description="When the call begins")
    arguments: str = Field(description="What is new of the JSON text")


class DeltaCall(Part):
    index: int
    id: str = Field(default="", description="When the call begins")
    type: Literal["function"] = Field(default="function", description="When the call begins")
    function: DeltaFunction


class Delta(Part):
    role: Literal["assistant"] = "assistant"
    content: str = Field(default="", description="The text that is new")
    tool_calls: list[DeltaCall] = Field(default=[], min_length=1)
    reasoning: str = Field(default="", description="The thought, with include_reasoning; else its summary")
    reasoning_content: str = Field(default="", description="The same, as others call it")
    reasoning_details: list[ReasoningDetail] = Field(
        default=[], min_length=1, description="The thought sealed, and its summary, where they were asked for"
    )


class ChunkChoice(Part):
    index: int
    delta: Delta
    logprobs: Logprobs = Field(default=Logprobs(content=[], refusal=None), description="Where they were asked for")
    finish_reason: FinishReason | None


class ChoiceProgress(ProgressReport):
    """How far the work on a choice is."""

    index: int = Field(description="Of the choice")


class ChatCompletionChunk(Part):
    """The data of an event of a stream, whose last is `[DONE]`, or an error."""

    id: str
    object: Literal["chat.completion.chunk"]
    created: int = Field(description="Unix time in seconds")
    model: str
    choices: list[ChunkChoice]
    usage: CompletionUsage | None = Field(default=None, description="In the last chunk, with include_usage")
    thinking: ThinkingReport | None = Field(default=None, description="In the last chunk; else left out")
    progress: ChoiceProgress | None = Field(
        default=None, description="With include_progress, in chunks without choices; else left out"
    )
