"""The many spellings of a thinking budget, as one wish.

Every vendor has its own. They are read here in one order of precedence and must agree; no other file knows that there
is more than one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

from pydantic import Field

from ponder.compute.errors import RequestError
from ponder.compute.outcome import SummaryLength
from ponder.server.dialects.own_fields import OwnFields
from ponder.server.dialects.wire import Effort, Tokens, Wire, WishedTokens
from ponder.server.request import ThinkingWish


class Reasoning(Wire):
    max_tokens: Tokens | None = None
    effort: Effort | None = None
    enabled: bool | None = None
    summary: SummaryLength | None = Field(
        default=None, description="A summary of the thought, in the model's own words, paid from its budget"
    )


class Thinking(Wire):
    type: Literal["enabled", "disabled", "adaptive"] | None = None
    budget_tokens: Tokens | None = None


class ThinkingConfig(Wire):
    thinking_budget: WishedTokens | None = None
    thinking_level: Effort | None = None


class Google(Wire):
    thinking_config: ThinkingConfig | None = None


class ExtraBody(Wire):
    google: Google | None = None


class TemplateArguments(Wire):
    enable_thinking: bool | None = None
    thinking: bool | None = None


class Spellings(OwnFields):
    """Inherited by the request of a dialect that takes all of them."""

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


def wished(request: Spellings) -> ThinkingWish:
    """All spellings of a thinking budget as one wish. Raises `RequestError` where two disagree."""
    reasoning, thinking, think = request.reasoning, request.thinking, request.think
    configs = [(name, config) for name, config in _thinking_configs(request) if config is not None]
    given: list[tuple[str, int]] = [
        (name, tokens)
        for name, tokens in (
            ("thinking_budget", request.tokens),
            ("thinking_token_budget", request.thinking_token_budget),
            ("thinking_budget_tokens", request.thinking_budget_tokens),
            ("reasoning.max_tokens", reasoning and reasoning.max_tokens),
            ("thinking.budget_tokens", thinking and thinking.budget_tokens),
            *((f"{name}.thinking_budget", config.thinking_budget) for name, config in configs),
        )
        if tokens is not None
    ]
    template = request.chat_template_kwargs
    kind = thinking and thinking.type
    switches: list[tuple[str, bool]] = [
        (name, on)
        for name, on in (
            ("enable_thinking", request.enable_thinking),
            ("think", think if isinstance(think, bool) else None),
            ("chat_template_kwargs.enable_thinking", template and template.enable_thinking),
            ("chat_template_kwargs.thinking", template and template.thinking),
            ("reasoning.enabled", reasoning and reasoning.enabled),
            ("thinking.type", None if kind is None else kind != "disabled"),
        )
        if on is not None
    ]
    efforts: list[tuple[str, str]] = [
        (name, effort)
        for name, effort in (
            ("reasoning.effort", reasoning and reasoning.effort),
            ("reasoning_effort", request.reasoning_effort),
            ("think", think if isinstance(think, str) else None),
            *((f"{name}.thinking_level", config.thinking_level) for name, config in configs),
        )
        if effort is not None
    ]
    return agreed(given, switches, efforts, exact=request.exact, loop=request.loop)


def agreed(
    tokens: Sequence[tuple[str, int]],
    switches: Sequence[tuple[str, bool]],
    efforts: Sequence[tuple[str, str]],
    *,
    exact: bool,
    loop: bool = False,
) -> ThinkingWish:
    """The one wish of what fields say, each with its name, in the order of precedence: numbers of tokens, whether to
    think at all, and words for how much. Raises `RequestError` where two disagree."""
    for group in (tokens, switches, efforts):
        for name, value in group[1:]:
            if value != group[0][1]:
                raise conflict(group[0][0], name)
    off = next((name for name, on in switches if not on), None)
    if tokens:
        name, most = tokens[0]
        if off and most != 0:
            raise conflict(name, off)
        return ThinkingWish(most, source=name, exact=exact, loop=loop)
    if off:
        return ThinkingWish(0, source=off)
    if efforts:
        name, effort = efforts[0]
        return ThinkingWish(effort=effort, source=name, exact=exact, loop=loop)
    return ThinkingWish(on=bool(switches), loop=loop)


def _thinking_configs(request: Spellings) -> Iterator[tuple[str, ThinkingConfig | None]]:
    """Gemini's field, where its documents put it and where OpenAI's client puts what is in its `extra_body`."""
    for name, google in (
        ("extra_body.google", request.extra_body and request.extra_body.google),
        ("google", request.google),
    ):
        yield f"{name}.thinking_config", google and google.thinking_config
    yield "thinking_config", request.thinking_config


def conflict(one: str, other: str) -> RequestError:
    """Two fields that do not go together, the second of which is to be mended."""
    return RequestError(f"{one} and {other} contradict each other", param=other, code="conflicting_parameters")
