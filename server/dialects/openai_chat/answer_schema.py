"""OpenAI's chat completion as pydantic models, with our `thinking` in it: for `/openapi.json`.

Answers are written without them (`writing.py`); the tests hold what is written to these.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field


def _may_be_left_out(schema: dict[str, Any]) -> None:
    """A default stands for a field that is left out where it does not apply: no value is meant."""
    for field in schema["properties"].values():
        field.pop("default", None)


class _Part(BaseModel):
    """A piece of an answer."""

    model_config = ConfigDict(json_schema_extra=_may_be_left_out)


FinishReason = Literal["stop", "length", "tool_calls"]


class PromptTokens(_Part):
    cached_tokens: int = Field(description="Of the prompt, in the prefix cache")
    audio_tokens: int


class CompletionTokens(_Part):
    reasoning_tokens: int = Field(description="Hidden ones; a part of completion_tokens")
    accepted_prediction_tokens: int
    rejected_prediction_tokens: int
    audio_tokens: int


class CompletionUsage(_Part):
    """Tokens, the prompt once and all that the model made, for whichever chain."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokens
    completion_tokens_details: CompletionTokens


class Judged(_Part):
    """How an answer was chosen. What does not apply is left out."""

    agreement: float = Field(default=0, description="The answer's share of the vote, where there was one")
    verifier: str = Field(default="", description="Who judged the answer")
    score: float = Field(default=0, description="How the verifier judged the answer, from 0 to 1")
    verifier_degraded: Literal[True] = Field(
        default=True, description="The verifier asked for failed, and the one named judged instead"
    )
    verifier_truncated: Literal[True] = Field(
        default=True, description="The chain was too long for the reward model, and only a part was judged"
    )
    ungrouped: Literal[True] = Field(
        default=True, description="No answer could be compared with another, so there was no vote"
    )
    deterministic: Literal[True] = Field(
        default=True, description="At temperature 0 all chains are the same: one was drawn"
    )
    reduced_by_load: Literal[True] = Field(
        default=True, description="Fewer chains were drawn because calls of others waited for the model"
    )


StoppedBy = Literal[
    "finished", "early_agreement", "budget", "cost", "quota", "deadline", "draining", "engine_error", "repetition"
]


class ChoiceThinking(Judged):
    """The thinking behind one of several choices."""

    index: int
    spent: int = Field(description="Hidden tokens")
    samples: int = Field(description="Finished candidates")
    stopped_by: StoppedBy


class ThinkingReport(Judged):
    """What was decided about the thinking, and what came of it."""

    strategy: str
    budget: int = Field(description="Hidden tokens at most")
    budget_source: str = Field(description="The field or setting that decided the budget")
    budget_clamped_from: int = Field(default=0, description="The budget asked for, where it was lowered")
    spent: int = Field(description="Hidden tokens: reasoning_tokens of usage")
    samples: int = Field(description="Finished candidates")
    samples_requested: int = Field(description="Candidates the strategy wanted")
    stopped_by: StoppedBy
    verifier_tokens: int = Field(description="Read by a reward model; not part of usage")
    discarded_tokens: int = Field(description="Generated, and not part of the answer or its own chain")
    program_seconds: float = Field(default=0, description="Processor time of programs that the verifier ran")
    cost_usd: float = Field(default=0, description="What the request costs, where its model has a price")
    max_cost_usd: float = Field(
        default=0, description="What it may cost at most: max_cost_usd of the request, or the operator's"
    )
    receipt: str = Field(default="", description="Signed over what was used, where the server makes receipts")
    choices: list[ChoiceThinking] = Field(default=[], description="With n above 1: the same for each choice")


class AnswerFunction(_Part):
    name: str
    arguments: str = Field(description="JSON text")


class AnswerCall(_Part):
    id: str
    type: Literal["function"]
    function: AnswerFunction


class AlternativeToken(_Part):
    token: str
    bytes: list[int]
    logprob: float


class TokenChances(AlternativeToken):
    top_logprobs: list[AlternativeToken]


class Logprobs(_Part):
    content: list[TokenChances]
    refusal: None


class AnswerMessage(_Part):
    role: Literal["assistant"]
    content: str | None
    refusal: None
    tool_calls: list[AnswerCall] = Field(default=[], min_length=1)
    reasoning: str = Field(default="", description="The thought, with include_reasoning")
    reasoning_content: str = Field(default="", description="The same, as others call it")


class AnswerChoice(_Part):
    index: int
    message: AnswerMessage
    logprobs: Logprobs | None
    finish_reason: FinishReason = Field(description="length only where the visible answer was cut")


class ChatCompletion(_Part):
    """The answer to a request that is not streamed."""

    id: str
    object: Literal["chat.completion"]
    created: int = Field(description="Unix time in seconds")
    model: str
    choices: list[AnswerChoice]
    usage: CompletionUsage
    thinking: ThinkingReport


class DeltaCall(AnswerCall):
    index: int


class Delta(_Part):
    role: Literal["assistant"] = "assistant"
    content: str = Field(default="", description="The text that is new")
    tool_calls: list[DeltaCall] = Field(default=[], min_length=1)
    reasoning: str = Field(default="", description="The thought, with include_reasoning")
    reasoning_content: str = Field(default="", description="The same, as others call it")


class ChunkChoice(_Part):
    index: int
    delta: Delta
    logprobs: Logprobs = Field(default=Logprobs(content=[], refusal=None), description="Where they were asked for")
    finish_reason: FinishReason | None


class ChatCompletionChunk(_Part):
    """The data of an event of a stream, whose last is `[DONE]`, or an error."""

    id: str
    object: Literal["chat.completion.chunk"]
    created: int = Field(description="Unix time in seconds")
    model: str
    choices: list[ChunkChoice]
    usage: CompletionUsage | None = Field(default=None, description="In the last chunk, with include_usage")
    thinking: ThinkingReport | None = Field(default=None, description="In the last chunk; else left out")
