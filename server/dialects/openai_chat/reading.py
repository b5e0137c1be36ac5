"""OpenAI's chat request as it comes in: bytes to a checked `ChatRequest`, and that to a request of our own.

Errors are `RequestError` and name the field as OpenAI does.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any, cast

from ponder.compute.errors import RequestError
from ponder.compute.text import Message, Tool, ToolCall
from ponder.server.bounds import too_many
from ponder.server.cost import nano
from ponder.server.dialects.openai_chat import customs, slips
from ponder.server.dialects.openai_chat import schema as wire
from ponder.server.dialects.openai_chat.schema import ChatRequest, WireMessage
from ponder.server.dialects.openai_chat.thinking import conflict, wished
from ponder.server.request import Asked, Document, Request, SamplingWish, ToolChoice
from ponder.server.settings import Limits
from ponder.server.strict_json import loads
from ponder.server.validation import checked

NAMES: Mapping[str, str] = {
    "document": "response_format",
    "document.schema": "response_format.json_schema.schema",
    "messages.*.tool_calls.*.arguments": "messages.*.tool_calls.*.function.arguments",
    "tools.*.parameters": "tools.*.function.parameters",
    "tool_choice.name": "tool_choice.function.name",
    "answer_tokens": "max_answer_tokens",
    "total_tokens": "max_completion_tokens",
    "max_cost": "max_cost_usd",
    "logprobs": "top_logprobs",
    "show_thought": "include_reasoning",
}
"""What OpenAI calls the fields of our request, where that is something else."""


def chat_request(raw: bytes, limits: Limits) -> tuple[ChatRequest, Sequence[slips.Stray]]:
    """A checked request, and the keys of it that nobody knows. Raises `RequestError`."""
    value = loads(raw, limits.json_depth, limits.json_values)
    if not isinstance(value, dict):
        raise RequestError("the body must be a JSON object", code="invalid_type")
    body = customs.understood(cast("dict[str, Any]", value))
    slips.misspelt(body)
    # Before each entry is checked, and complained of.
    for field, most in _counted(limits):
        if isinstance(given := body.get(field), list | dict):
            too_many(field, len(cast("list[Any]", given)), most)
    request = checked(ChatRequest, body)
    strays = list(slips.strays(request))
    slips.misplaced(request, strays)
    _together(request)
    return request, slips.told(strays)


def _counted(limits: Limits) -> Sequence[tuple[str, int]]:
    """Fields with entries, and how many each may have."""
    return (
        ("messages", limits.messages),
        ("tools", limits.tools),
        ("logit_bias", limits.logit_bias),
        ("metadata", limits.metadata),
        ("stop", limits.stop),
    )


def _together(request: ChatRequest) -> None:
    """Raises `RequestError` for fields that want others, and for what only this dialect has."""
    if request.top_logprobs and not request.logprobs:
        raise RequestError("top_logprobs wants logprobs: true", param="top_logprobs", code="invalid_value")
    if request.stream_options is not None and not request.stream:
        raise RequestError("stream_options wants stream: true", param="stream_options", code="invalid_value")
    if request.metadata and any(len(k) > 64 or len(v) > 512 for k, v in request.metadata.items()):
        raise RequestError(
            "metadata holds keys of at most 64 and values of at most 512 characters",
            param="metadata",
            code="invalid_value",
        )
    if request.logit_bias and not all(re.fullmatch(r"[0-9]{1,9}", token) for token in request.logit_bias):
        raise RequestError("the keys of logit_bias are token ids", param="logit_bias", code="invalid_value")
    form = request.response_format
    if form and form.type == "json_schema" and (form.json_schema is None or form.json_schema.schema_ is None):
        raise RequestError(
            "a response_format of type json_schema wants json_schema.schema",
            param="response_format.json_schema",
            code="missing_required_parameter",
        )
    most, older = request.max_completion_tokens, request.max_tokens
    if most is not None and older is not None and most != older:
        raise conflict("max_completion_tokens", "max_tokens")


def ours(request: ChatRequest) -> Request:
    """The request in our words. Raises `RequestError`."""
    return Request(
        model=request.model,
        messages=tuple(message(m, f"messages.{i}") for i, m in enumerate(request.messages)),
        thinking=wished(request),
        strategy=_asked(request.strategy),
        verifier=_asked(request.verifier),
        tools=tuple(map(_tool, request.tools or ())),
        tool_choice=_tool_choice(request),
        document=_document(request.response_format),
        answer_tokens=request.max_answer_tokens,
        total_tokens=request.max_completion_tokens or request.max_tokens,
        max_cost=None if request.max_cost_usd is None else nano(Decimal(repr(request.max_cost_usd))),
        timeout=request.timeout,
        n=request.n or 1,
        stream=bool(request.stream),
        sampling=SamplingWish(
            temperature=request.temperature,
            top_p=request.top_p,
            top_k=request.top_k,
            min_p=request.min_p,
            presence_penalty=request.presence_penalty,
            frequency_penalty=request.frequency_penalty,
            seed=request.seed,
        ),
        stop=_stop(request.stop),
        logit_bias=tuple((int(token), bias) for token, bias in (request.logit_bias or {}).items()),
        logprobs=(request.top_logprobs or 0) if request.logprobs else None,
        user=request.user,
        metadata=request.metadata or {},
        show_thought=bool(request.include_reasoning),
    )


def _asked(wish: str | wire.Choice | None) -> Asked | None:
    if wish is None or isinstance(wish, str):
        return None if wish is None else Asked(wish)
    return Asked(wish.name, wish.model_extra or {})


def _stop(stop: str | list[str] | None) -> tuple[str, ...]:
    """The stop strings, whichever way they were written."""
    if stop is None:
        return ()
    return (stop,) if isinstance(stop, str) else tuple(stop)


def _document(form: wire.ResponseFormat | None) -> Document | None:
    if form is None or form.type == "text":
        return None
    # The order of properties is the caller's: it is the order in which the model is to write them.
    return Document(json.dumps(form.json_schema.schema_) if form.type == "json_schema" and form.json_schema else None)


def _tool(tool: wire.WireTool) -> Tool:
    function = tool.function
    parameters = function.parameters or {"type": "object", "properties": {}}
    return Tool(function.name, function.description or "", json.dumps(parameters))


def _tool_choice(request: ChatRequest) -> ToolChoice:
    choice, parallel = request.tool_choice, request.parallel_tool_calls is not False
    if isinstance(choice, wire.ToolChoice):
        return ToolChoice("required", choice.function.name, parallel)
    return ToolChoice(choice, parallel=parallel)


def message(given: WireMessage, param: str) -> Message:
    """A turn of the conversation. Raises `RequestError` for parts this server has no model for."""
    calls = tuple(ToolCall(c.id, c.function.name, c.function.arguments) for c in given.tool_calls or ())
    if calls and given.role != "assistant":
        raise RequestError("only an assistant message has tool_calls", param=f"{param}.tool_calls")
    if given.role == "tool" and given.tool_call_id is None:
        raise RequestError(
            "a tool message wants tool_call_id", param=f"{param}.tool_call_id", code="missing_required_parameter"
        )
    content = given.content
    if content is None:
        if given.role != "assistant":
            raise RequestError(
                f"{param}.content is required", param=f"{param}.content", code="missing_required_parameter"
            )
        content = given.refusal or ""
    if not isinstance(content, str):
        content = "".join(_part(part, f"{param}.content.{i}") for i, part in enumerate(content))
    if given.role == "assistant":
        content = customs.without_thought(content)
    return Message(given.role, content, given.name, calls, given.tool_call_id)


def _part(part: Mapping[str, Any], param: str) -> str:
    kind = part.get("type")
    text = customs.text_of(part)
    if text is not None:
        return text
    if kind in customs.TEXTS:
        field = f"{param}.{'refusal' if kind == 'refusal' else 'text'}"
        raise RequestError(f"{field} should be a string", param=field, code="invalid_type")
    known = kind in ("image_url", "input_image", "image", "input_audio", "file", "input_file", "video_url")
    raise RequestError(
        "this model reads text parts only",
        param=f"{param}.type",
        code="unsupported_content_part" if known else "invalid_value",
    )
