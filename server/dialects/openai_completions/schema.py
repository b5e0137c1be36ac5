"""OpenAI's completions request as a pydantic model, with our fields beside theirs."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from ponder.server.dialects.openai_sampling import SamplingFields
from ponder.server.dialects.refused_sampling import INSTEAD, OFF
from ponder.server.dialects.slips import Refused
from ponder.server.dialects.thinking_spellings import Spellings
from ponder.server.dialects.wire import WITHOUT_EFFECT, SomeTokens, Wire

TokenIds = Annotated[list[Annotated[int, Field(ge=0, le=2**31)]], Field(fail_fast=True, min_length=1)]
Text = Annotated[str, Field(min_length=1)]
Texts = Annotated[list[Text], Field(fail_fast=True, min_length=1)]
Lists = Annotated[list[TokenIds], Field(fail_fast=True, min_length=1)]

DEFAULT_TOKENS = 16
"""`max_tokens` where it is not said, as OpenAI has it."""


class StreamOptions(Wire):
    include_usage: bool | None = None
    include_obfuscation: bool | None = Field(default=None, json_schema_extra=WITHOUT_EFFECT)


class CompletionRequest(Spellings, SamplingFields):
    """`POST /v1/completions`."""

    model_config = ConfigDict(title="CompletionRequest")

    model: str = Field(description="A model of /v1/models; the strategy is always direct")
    prompt: Text | Texts | TokenIds | Lists = Field(
        description="A text that the model goes on with, or its token ids, or several of either"
    )
    max_tokens: SomeTokens | Literal[-1] | None = Field(
        default=None, description="Hidden and visible tokens of an answer at most; -1: no limit but the model's"
    )
    n: Annotated[int, Field(ge=1)] | None = None
    best_of: Annotated[int, Field(ge=0)] | None = Field(default=None, description="n, or 0; others are refused")
    echo: bool | None = Field(default=None, description="The answer begins with the prompt")
    suffix: str | None = Field(
        default=None, description="What comes behind the answer, for models that fill in a middle"
    )
    logprobs: Annotated[int, Field(ge=0)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: str | None = None


_INSTEAD = {
    "messages": "use /v1/chat/completions for conversations",
    "response_format": "use /v1/chat/completions for JSON",
    "guided_json": "use response_format of /v1/chat/completions",
    "guided_choice": "use response_format of /v1/chat/completions",
    "guided_regex": "use response_format of /v1/chat/completions",
    "guided_grammar": "use response_format of /v1/chat/completions",
    "structured_outputs": "use response_format of /v1/chat/completions",
    "tools": "use /v1/chat/completions for tools",
    "tool_choice": "use /v1/chat/completions for tools",
    "max_completion_tokens": "use max_tokens",
    "prompt_embeds": "send the prompt as text or as token ids",
    "top_logprobs": "logprobs is the number of others here",
    "chat_template": "there is none around a raw text",
}
REFUSED = Refused(INSTEAD | _INSTEAD, OFF | {"add_special_tokens": (True,)})
"""What is not offered, and where it is."""
