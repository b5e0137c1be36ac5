"""Keys of Anthropic's requests that have no effect: those that would change the result are refused by name, and so are
those that were meant for a budget; the others are reported."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, cast

from ponder.compute.errors import RequestError
from ponder.server.dialects.anthropic.schema import CountRequest, OutputConfig, ThinkingConfig, Turn
from ponder.server.dialects.slips import OTHER_WORDS, Refused, Stray, misplaced, nearest, strays, told
from ponder.server.dialects.slips import misspelt as slipped

REFUSED = Refused(
    instead={
        "container": "this server runs no code",
        "mcp_servers": "this server fetches nothing",
        "inference_geo": "the server is where its operator has put it",
        "fallbacks": "the model that is named answers",
        "compaction": "send the conversation as the model is to read it",
        "max_tokens_to_sample": "use max_tokens",
        "max_completion_tokens": "use max_tokens",
        "prompt": "use messages",
        "stop": "use stop_sequences",
        "response_format": "use output_config.format",
        "reasoning_effort": "use output_config.effort",
        "reasoning": "use thinking",
        "functions": "use tools",
        "n": "an answer is one message: ask again for another",
        "min_p": "use top_p or top_k",
        "presence_penalty": "POST /v1/chat/completions has it",
        "frequency_penalty": "POST /v1/chat/completions has it",
        "logit_bias": "POST /v1/chat/completions has it",
        "logprobs": "POST /v1/chat/completions has them",
        "top_logprobs": "POST /v1/chat/completions has them",
        "repetition_penalty": "no route of this server has it",
    },
    off={
        "n": (1,),
        "logprobs": (False,),
        "presence_penalty": (0, 0.0),
        "frequency_penalty": (0, 0.0),
        "repetition_penalty": (1, 1.0),
        "inference_geo": ("global",),
    },
)
KEYS = frozenset(
    {"type", "text", "cache_control", "citations", "source", "title", "context", "content", "is_error", "tool_use_id"}
    | {"id", "name", "input", "caller", "toolset_name", "thinking", "signature", "data"}
)
"""What blocks of a turn have."""
NO_THREADS = "thread_unsupported_request"
"""The code by which Anthropic's clients know that a server keeps no conversations, and send them whole."""
CLEARED = "clear_thinking_20251015"
"""An edit of the context without effect: which of its thoughts a model reads again is for its profile to say."""


def misspelt(body: dict[str, Any], model: type[CountRequest]) -> None:
    """Raises `RequestError` for a key that is not offered, or nearly is one of ours."""
    slipped(body, model, REFUSED)
    if body.get("thread") is not None:
        raise RequestError("thread is not supported: send the whole conversation", param="thread", code=NO_THREADS)
    wanted = body.get("context_management")
    edits: Any = cast("dict[str, Any]", wanted).get("edits") if isinstance(wanted, dict) else wanted
    given = cast("list[Any]", edits) if isinstance(edits, list) else []
    harmless = [isinstance(one, dict) and cast("dict[str, Any]", one).get("type") == CLEARED for one in given]
    if (edits and not given) or not all(harmless):
        raise RequestError(
            f"of context_management only {CLEARED} is taken, without effect: send the conversation as the model is to "
            "read it",
            param="context_management",
            code="unsupported_parameter",
        )


def found(request: CountRequest) -> Sequence[Stray]:
    """Keys nobody knows. Raises `RequestError` for one inside an object that can only have been meant for a budget."""
    unknown = [*strays(request), *_of_blocks(request)]
    for stray in unknown:
        if words := _meant(stray):
            raise RequestError(words, param=stray.param, code="unknown_parameter")
    misplaced(request, (), unknown)
    return told(unknown)


def _of_blocks(request: CountRequest) -> Iterator[Stray]:
    for i, turn in enumerate(request.messages):
        if not isinstance(turn.content, str):
            for j, block in enumerate(turn.content):
                for key in block.keys() - KEYS:
                    yield Stray(("messages", str(i), "content", str(j)), key, Turn)


def _meant(stray: Stray) -> str | None:
    """What to say of a key of `thinking` or `output_config` that would bound the thinking."""
    if stray.holder is ThinkingConfig and (
        stray.key in OTHER_WORDS or stray.key in ("budget", "max_tokens") or nearest(stray.key, ["budget_tokens"])
    ):
        return "there is no such field; did you mean thinking.budget_tokens?"
    if stray.holder is OutputConfig and stray.key == "task_budget":
        return "output_config.task_budget is not supported: thinking_budget and max_cost_usd bound each request"
    return None
