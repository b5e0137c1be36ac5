"""What a trace looks like, for `/openapi.json`, and a prompt as it is kept with one."""

from __future__ import annotations

import json
from typing import Any, Literal

from pydantic import BaseModel, Field

from ponder.compute.text import Prompt


def asked(prompt: Prompt) -> str:
    """A conversation or a raw text as JSON, without earlier thoughts; of images how many there are."""
    if prompt.raw is not None:
        return json.dumps({"text": prompt.raw.text if isinstance(prompt.raw.text, str) else list(prompt.raw.text)})
    messages: list[dict[str, Any]] = []
    for one in prompt.messages:
        message: dict[str, Any] = {"role": one.role, "content": one.content if isinstance(one.content, str) else ""}
        if one.name is not None:
            message["name"] = one.name
        if one.tool_calls:
            message["tool_calls"] = [
                {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
                for call in one.tool_calls
            ]
        if one.tool_call_id is not None:
            message["tool_call_id"] = one.tool_call_id
        messages.append(message)
    return json.dumps({"messages": messages, "tools": len(prompt.tools), "images": len(prompt.images)})


class HeldTokens(BaseModel):
    """Tokens a call may make at most."""

    thinking: int
    answer: int


class CallTokens(BaseModel):
    """Tokens of a call; `cached` are those of the prompt that were in the prefix cache, `wasted` those made in vain."""

    hidden: int
    visible: int
    prompt: int
    cached: int
    wasted: int


class CallTexts(BaseModel):
    """What a call has written, the chain that it continues included."""

    thought: str
    answer: str
    forced: bool = Field(description="The thought was closed by force")
    own_prompt: bool = Field(description="It answers the request's prompt, and not a question of the strategy's")


class AskedFunction(BaseModel):
    """What a call in a prompt calls."""

    name: str
    arguments: str


class AskedCall(BaseModel):
    """A call of a tool in a prompt."""

    id: str
    type: Literal["function"]
    function: AskedFunction


class AskedMessage(BaseModel):
    """A message of a prompt. What it has not is left out."""

    role: str
    content: str
    name: str | None = None
    tool_calls: list[AskedCall] | None = None
    tool_call_id: str | None = None


class Asked(BaseModel):
    """What was asked: a conversation, without earlier thoughts, or a raw text or its token ids."""

    messages: list[AskedMessage] | None = None
    tools: int | None = Field(default=None, description="How many were offered")
    images: int | None = Field(default=None, description="How many are in it")
    text: str | list[int] | None = None


class ThoughtMarkers(BaseModel):
    """What the model writes around a thought."""

    before: str
    behind: str


class ChainLikelihood(BaseModel):
    """How likely the model found its tokens, of the chain up to the end of a call."""

    window: int = Field(description="Tokens of each window")
    means: list[float] = Field(description="Natural-log probabilities; the last window may be shorter")


class TracedCall(BaseModel):
    """A call to the model."""

    number: int
    parent: int | None = Field(description="The call it continues")
    purpose: str
    held: HeldTokens
    tokens: CallTokens
    calls: int = Field(description="To the engine")
    started: float = Field(description="Seconds after the first call")
    seconds: float | None
    ending: str | None
    score: float | None
    vote: int | None = Field(description="Calls with the same number gave the same answer")
    chosen: bool = Field(description="It belongs to the chain that was answered with")
    forced: bool = Field(description="The engine closed its thought before the model did")
    circled: Literal["thought", "answer"] | None = Field(
        description="Where the model went in circles, so that the engine ended it"
    )
    unseen: bool = Field(
        default=False, description="The end of a call to the engine was not seen: it may have made tokens besides"
    )
    text: CallTexts | None = Field(
        default=None, description="With retain_text, for keys with the scope reveal; else left out"
    )
    likelihood: ChainLikelihood | None = Field(
        default=None, description="Where text is, and the verifier is one that wants it, such as confidence"
    )
    ids: list[int] | None = Field(default=None, description="The tokens it made, where text is; for receipts")


class ModelRead(BaseModel):
    """What a reward model read when it was asked about chains, by their numbers."""

    chains: list[int]
    tokens: int
    cached: int


class AnswerTokens(BaseModel):
    """Tokens of an answer."""

    hidden: int
    visible: int
    verifier: int


class TracedAnswer(BaseModel):
    """One answer. `stopped_by` is left out where the request came to none, `agreement` and `confidence` where there was
    no vote."""

    index: int
    tokens: AnswerTokens
    orchestration_seconds: float = Field(description="Without a call to the engine")
    stopped_by: str | None = None
    agreement: float | None = None
    confidence: float | None = None
    reads: list[ModelRead] | None = Field(default=None, description="Where ids are")
    prompt: Asked | None = Field(default=None, description="Where texts are")
    calls: list[TracedCall]


class RequestTrace(BaseModel):
    """What became of a request."""

    id: str
    object: Literal["trace"]
    model: str
    strategy: str
    budget: int
    ended: str
    seconds: float
    ended_at: int = Field(description="Unix seconds")
    salt: str | None = Field(default=None, description="Of the receipt, where ids are")
    markers: ThoughtMarkers | None = Field(default=None, description="Where texts are")
    choices: list[TracedAnswer]


TOLD: dict[int | str, dict[str, Any]] = {200: {"model": RequestTrace}}
"""The answer of `Traces.one`, as FastAPI's routes are told of it."""
