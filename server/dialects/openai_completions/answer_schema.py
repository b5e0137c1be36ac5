"""OpenAI's completion as pydantic models, with our `thinking` in it: for `/openapi.json`.

Answers are written without them (`writing.py`); the tests hold what is written to these.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ponder.server.dialects.described import Part
from ponder.server.dialects.openai_usage import CompletionUsage
from ponder.server.dialects.thinking_report import ThinkingReport

FinishReason = Literal["stop", "length"]


class TextLogprobs(Part):
    """Of the tokens that were written, none of the prompt's."""

    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]] = Field(description="The token itself, and the others asked for")
    text_offset: list[int] = Field(description="Where in the text each token begins, in characters")


class TextChoice(Part):
    index: int = Field(description="Those of the first prompt come first")
    text: str
    logprobs: TextLogprobs | None
    finish_reason: FinishReason = Field(description="length only where the visible answer was cut")
    reasoning: str = Field(default="", description="The thought, with include_reasoning")
    reasoning_content: str = Field(default="", description="The same, as others call it")


class TextCompletion(Part):
    """The answer to a request that is not streamed."""

    id: str
    object: Literal["text_completion"]
    created: int = Field(description="Unix time in seconds")
    model: str
    choices: list[TextChoice]
    usage: CompletionUsage
    thinking: ThinkingReport


class TextChunkChoice(Part):
    index: int
    text: str = Field(description="The text that is new")
    logprobs: TextLogprobs | None
    finish_reason: FinishReason | None
    reasoning: str = Field(default="", description="The thought, with include_reasoning")
    reasoning_content: str = Field(default="", description="The same, as others call it")


class TextCompletionChunk(Part):
    """The data of an event of a stream, whose last is `[DONE]`, or an error."""

    id: str
    object: Literal["text_completion"]
    created: int = Field(description="Unix time in seconds")
    model: str
    choices: list[TextChunkChoice]
    usage: CompletionUsage | None = Field(default=None, description="In the last chunk, with include_usage")
    thinking: ThinkingReport | None = Field(default=None, description="In the last chunk; else left out")
