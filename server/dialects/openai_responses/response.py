"""A response as it is told: what was asked, and the items of its answer."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from ponder.compute.text import TokenLogprob
from ponder.server.answers import Failure
from ponder.server.dialects.openai_errors import kind
from ponder.server.dialects.openai_responses.reading import summary_length
from ponder.server.dialects.openai_responses.schema import AllowedTools, ResponsesRequest, ResponseTool, TextWish
from ponder.server.dialects.openai_writing import token_logprobs
from ponder.server.dialects.wire import Wire
from ponder.server.plan import ResolvedRequest

Item = dict[str, Any]
EFFORTS = frozenset({"none", "minimal", "low", "medium", "high", "xhigh", "max"})
"""Words that OpenAI has; an operator may have made others."""
CODES = {429: "rate_limit_exceeded", 400: "invalid_prompt"}
"""`error.code` by HTTP status: OpenAI's words for what is wrong; for all others it is `server_error`."""


def asked(id: str, request: ResponsesRequest, resolved: ResolvedRequest) -> dict[str, Any]:
    """What a response says from its beginning to its end. What does not apply is left out."""
    sampling = resolved.plans[0].sampling
    told: dict[str, Any] = {
        "id": id,
        "object": "response",
        "created_at": int(time.time()),
        "status": "in_progress",
        "background": bool(request.background),
        "error": None,
        "incomplete_details": None,
        "instructions": request.instructions,
        "metadata": request.metadata or {},
        "model": resolved.model,
        "output": [],
        "parallel_tool_calls": request.parallel_tool_calls is not False,
        "reasoning": _reasoning(request),
        "temperature": sampling.temperature,
        "text": _text(request.text),
        "tool_choice": _tool_choice(request),
        "tools": [_tool(tool) for tool in request.tools or ()],
        "top_logprobs": request.top_logprobs or 0,
        "top_p": sampling.top_p,
        "truncation": "disabled",
    }
    if request.service_tier is not None:
        told["service_tier"] = "default"
    for name in (
        "max_output_tokens",
        "max_tool_calls",
        "previous_response_id",
        "prompt_cache_key",
        "safety_identifier",
        "user",
    ):
        if (value := getattr(request, name)) is not None:
            told[name] = value
    return told


def _reasoning(request: ResponsesRequest) -> dict[str, Any]:
    wish = request.reasoning
    effort = (wish and wish.effort) or request.reasoning_effort
    told: dict[str, Any] = {"effort": effort if effort in EFFORTS else None, "summary": summary_length(request)}
    if wish and wish.mode:
        told["mode"] = wish.mode
    if wish and wish.context:
        told["context"] = wish.context
    return told


def _text(wish: TextWish | None) -> dict[str, Any]:
    form = wish and wish.format
    told: dict[str, Any] = {"format": {"type": "text"} if form is None else _known(form)}
    if wish and wish.verbosity:
        told["verbosity"] = wish.verbosity
    return told


def _tool_choice(request: ResponsesRequest) -> str | dict[str, Any]:
    choice = request.tool_choice
    if choice is None or isinstance(choice, str):
        return choice or "auto"
    if isinstance(choice, AllowedTools):
        return {"type": choice.type, "mode": choice.mode, "tools": [_known(tool) for tool in choice.tools]}
    return _known(choice)


def _known(given: Wire) -> dict[str, Any]:
    """What was said, of what is known."""
    return given.model_dump(by_alias=True, exclude_none=True, include=set(type(given).model_fields))


def _tool(tool: ResponseTool) -> dict[str, Any]:
    told: dict[str, Any] = {
        "type": "function",
        "name": tool.name,
        "parameters": tool.parameters,
        "strict": bool(tool.strict),
    }
    return told if tool.description is None else {**told, "description": tool.description}


def reasoning_item(
    id: str, *, sealed: str | None = None, summary: str | None = None, thought: str | None = None
) -> Item:
    """A thought: none of its text but what the caller may see."""
    told: Item = {"id": id, "type": "reasoning", "summary": [summary_part(summary)] if summary is not None else []}
    if thought is not None:
        told["content"] = [{"type": "reasoning_text", "text": thought}]
    if sealed is not None:
        told["encrypted_content"] = sealed
    return told


def summary_part(text: str) -> Item:
    """A part of a summary."""
    return {"type": "summary_text", "text": text}


def text_part(text: str, logprobs: Sequence[TokenLogprob] | None) -> Item:
    """A part of a message. `logprobs`: None where they were not asked for."""
    told: Item = {"type": "output_text", "text": text, "annotations": []}
    if logprobs is not None:
        told["logprobs"] = token_logprobs(logprobs)["content"]
    return told


def message_item(id: str, status: str, parts: Sequence[Item]) -> Item:
    """What the model says."""
    return {"id": id, "type": "message", "status": status, "role": "assistant", "content": list(parts)}


def call_item(id: str, status: str, call_id: str, name: str, arguments: str) -> Item:
    """A function that the model wants called."""
    return {
        "id": id,
        "type": "function_call",
        "status": status,
        "call_id": call_id,
        "name": name,
        "arguments": arguments,
    }


def error_of(failure: Failure) -> Mapping[str, Any]:
    """Why a response has failed, in the words that its type has."""
    code = CODES.get(400 if 400 <= failure.status < 429 else failure.status, "server_error")
    told: dict[str, Any] = {"code": code, "message": failure.message, "type": kind(failure)}
    return told if failure.field is None else {**told, "param": failure.field}
