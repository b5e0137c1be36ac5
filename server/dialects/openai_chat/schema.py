"""OpenAI's chat request as pydantic models, with our fields beside theirs, and the bounds of each single field."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from ponder.server.settings.prices import MOST_COST


class _Wire(BaseModel):
    """Strict types (no "5" for 5, no true for 1); unknown keys are let through, and `slips.ignored` reports them."""

    model_config = ConfigDict(strict=True, extra="allow", frozen=True, protected_namespaces=())


Item = TypeVar("Item")
Several = Annotated[list[Item], Field(fail_fast=True)]
"""A list that is complained of once: a complaint of each entry would take longer than reading them."""

Name = Annotated[str, Field(pattern=r"^[a-zA-Z0-9_.-]{1,64}$")]
Tokens = Annotated[int, Field(ge=0, le=2**31)]
SomeTokens = Annotated[int, Field(ge=1, le=2**31)]
WishedTokens = Annotated[int, Field(ge=-1, le=2**31)]
Effort = Name
"""A word for a budget, which the server's configuration turns into tokens."""


class Function(_Wire):
    name: Name
    arguments: str


class Call(_Wire):
    id: str
    type: Literal["function"] = "function"
    function: Function


class WireMessage(_Wire):
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | Several[dict[str, Any]] | None = None
    name: str | None = None
    refusal: str | None = None
    tool_calls: Several[Call] | None = None
    tool_call_id: str | None = None


class StreamOptions(_Wire):
    include_usage: bool | None = None


class JsonSchema(_Wire):
    name: Name
    description: str | None = None
    schema_: dict[str, Any] | None = Field(default=None, alias="schema")
    strict: bool | None = None


class ResponseFormat(_Wire):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None


class FunctionTool(_Wire):
    name: Name
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class WireTool(_Wire):
    type: Literal["function"]
    function: FunctionTool


class ChosenFunction(_Wire):
    name: Name


class ToolChoice(_Wire):
    type: Literal["function"]
    function: ChosenFunction


class Reasoning(_Wire):
    max_tokens: Tokens | None = None
    effort: Effort | None = None
    enabled: bool | None = None


class Thinking(_Wire):
    type: Literal["enabled", "disabled", "adaptive"] | None = None
    budget_tokens: Tokens | None = None


class ThinkingConfig(_Wire):
    thinking_budget: WishedTokens | None = None
    thinking_level: Effort | None = None


class Google(_Wire):
    thinking_config: ThinkingConfig | None = None


class ExtraBody(_Wire):
    google: Google | None = None


class TemplateArguments(_Wire):
    enable_thinking: bool | None = None
    thinking: bool | None = None


class Choice(_Wire):
    """A strategy or verifier by name, with parameters beside it that its own schema checks."""

    name: Name


class ChatRequest(_Wire):
    """`POST /v1/chat/completions`."""

    model_config = ConfigDict(title="ChatCompletionRequest")

    model: str = Field(description="A model of /v1/models, or MODEL:STRATEGY")
    messages: Several[WireMessage] = Field(min_length=1)
    thinking_budget: WishedTokens | Literal["auto"] | None = Field(
        default=None, description="Hidden tokens at most; 0 is off, -1 or auto leaves it to the server"
    )
    strategy: str | Choice | None = Field(default=None, description="How the budget is spent; see /v1/strategies")
    verifier: str | Choice | None = Field(default=None, description="Who judges candidates")
    max_answer_tokens: SomeTokens | None = Field(default=None, description="Visible tokens at most")
    max_cost_usd: Annotated[float, Field(gt=0, le=MOST_COST, allow_inf_nan=False)] | None = Field(
        default=None, description="USD that all of it costs at most: prompt, thoughts, answer and verifier"
    )
    on_overflow: Literal["clamp", "error"] | None = Field(
        default=None, description="What happens to a budget above the ceiling; clamp unless said"
    )
    include_reasoning: bool | None = Field(default=None, description="Show the thought; keys with scope reveal only")
    timeout: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = Field(
        default=None, description="Seconds until the best so far is the answer"
    )

    thinking_token_budget: WishedTokens | None = Field(default=None, description="thinking_budget, as vLLM calls it")
    thinking_budget_tokens: Tokens | None = Field(default=None, description="thinking_budget, as others call it")
    reasoning: Reasoning | None = Field(default=None, description="thinking_budget, as OpenRouter writes it")
    thinking: Thinking | None = Field(default=None, description="thinking_budget, as Anthropic writes it")
    extra_body: ExtraBody | None = Field(default=None, description="thinking_budget, as Gemini writes it")
    google: Google | None = Field(default=None, description="The same, where OpenAI's client puts it")
    thinking_config: ThinkingConfig | None = Field(default=None, description="thinking_budget, as Gemini calls it")
    enable_thinking: bool | None = Field(default=None, description="false: no thinking")
    think: bool | Effort | None = Field(default=None, description="false: no thinking; as Ollama writes it")
    chat_template_kwargs: TemplateArguments | None = Field(
        default=None, description="enable_thinking, as vLLM takes it"
    )
    reasoning_effort: Effort | None = Field(
        default=None, description="A word for a budget; the server's configuration says how many tokens it is"
    )

    max_completion_tokens: SomeTokens | None = None
    max_tokens: SomeTokens | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1, le=2**31 - 1)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    stop: str | Several[str] | None = None
    logit_bias: dict[str, Annotated[float, Field(ge=-100, le=100)]] | None = None
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
    store: bool | None = None
    modalities: Several[Literal["text"]] | None = None


FIELDS = frozenset(ChatRequest.model_fields)
