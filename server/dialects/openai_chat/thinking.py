"""The many spellings of a thinking budget, as one wish.

Every vendor has its own. They are read here in one order of precedence and must agree; no other file knows that there
is more than one.
"""

from __future__ import annotations

from collections.abc import Iterator

from ponder.compute.errors import RequestError
from ponder.server.dialects.openai_chat.schema import ChatRequest, ThinkingConfig
from ponder.server.request import AUTO, ThinkingWish


def wished(request: ChatRequest) -> ThinkingWish:
    """All spellings of a thinking budget as one wish. Raises `RequestError` where two disagree."""
    exact = request.on_overflow == "error"
    thinking_budget = AUTO if request.thinking_budget == "auto" else request.thinking_budget
    reasoning, thinking, think = request.reasoning, request.thinking, request.think
    configs = [(name, config) for name, config in _thinking_configs(request) if config is not None]
    given: list[tuple[str, int]] = [
        (name, tokens)
        for name, tokens in (
            ("thinking_budget", thinking_budget),
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
    for group in (given, switches, efforts):
        for name, value in group[1:]:
            if value != group[0][1]:
                raise conflict(group[0][0], name)
    off = next((name for name, on in switches if not on), None)
    if given:
        name, tokens = given[0]
        if off and tokens != 0:
            raise conflict(name, off)
        return ThinkingWish(tokens, source=name, exact=exact)
    if off:
        return ThinkingWish(0, source=off)
    if efforts:
        name, effort = efforts[0]
        return ThinkingWish(effort=effort, source=name, exact=exact)
    return ThinkingWish(on=bool(switches))


def _thinking_configs(request: ChatRequest) -> Iterator[tuple[str, ThinkingConfig | None]]:
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
