"""How much to think, as Anthropic's clients and ours say it, as one wish."""

from __future__ import annotations

from collections.abc import Mapping

from ponder.server.dialects.anthropic.schema import CountRequest
from ponder.server.dialects.thinking_spellings import agreed
from ponder.server.request import ThinkingWish
from ponder.server.validation import missing

INTERLEAVED = "interleaved-thinking-"
"""What the name of a beta begins with by which a budget is for all thoughts of a turn, those between its calls of tools
too."""


def wished(request: CountRequest, headers: Mapping[str, str]) -> ThinkingWish:
    """`thinking_budget`, `thinking` and `output_config.effort` as one wish. `headers` finds names in lower case. Raises
    `RequestError` where two disagree."""
    thinking, config = request.thinking, request.output_config
    if thinking is not None and thinking.type == "enabled" and thinking.budget_tokens is None:
        raise missing("thinking.budget_tokens")
    budgets = [
        (name, tokens)
        for name, tokens in (
            ("thinking_budget", request.tokens),
            ("thinking.budget_tokens", None if thinking is None else thinking.budget_tokens),
        )
        if tokens is not None
    ]
    switches = [] if thinking is None else [("thinking.type", thinking.type != "disabled")]
    efforts = [] if config is None or config.effort is None else [("output_config.effort", config.effort)]
    betas = [beta.strip() for beta in headers.get("anthropic-beta", "").split(",")]
    loop = request.loop
    if request.thinking_budget_scope is None:
        loop = any(beta.startswith(INTERLEAVED) for beta in betas)
    return agreed(budgets, switches, efforts, exact=request.exact, loop=loop)


def has_blocks(request: CountRequest) -> bool:
    """The answer has a block for its thought: where `thinking` asks for it. Who does not write that may take the first
    block for the answer."""
    return request.thinking is not None and request.thinking.type != "disabled"


def has_summary(request: CountRequest) -> bool:
    """And a summary of the thought is in it."""
    return has_blocks(request) and request.thinking is not None and request.thinking.display == "summarized"
