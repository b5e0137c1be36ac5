"""OpenAI's chat request as it comes in: bytes to a checked `ChatRequest`, and that to a request of our own.

Errors are `RequestError` and name the field as OpenAI does.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, cast

from ponder.compute.errors import RequestError
from ponder.compute.text import Image, Images, Message, Tool, ToolCall, joined
from ponder.server.bounds import check_entries
from ponder.server.dialects.customs import checked_text, understood, without_thought
from ponder.server.dialects.images import image_of_url, not_of_users, other_media
from ponder.server.dialects.openai_chat import reasoning_details
from ponder.server.dialects.openai_chat import schema as wire
from ponder.server.dialects.openai_chat.refused import REFUSED
from ponder.server.dialects.openai_chat.schema import ChatRequest, WireMessage
from ponder.server.dialects.openai_chat.schemas import placed
from ponder.server.dialects.openai_sampling import biases, sampling, stops
from ponder.server.dialects.openai_together import together
from ponder.server.dialects.own_fields import NAMES as OWN_NAMES
from ponder.server.dialects.own_fields import wishes
from ponder.server.dialects.slips import Stray, misplaced, misspelt, strays, told
from ponder.server.dialects.thinking_spellings import conflict, wished
from ponder.server.request import Document, Request, ToolChoice
from ponder.server.settings import Limits
from ponder.server.strict_json import loads_object
from ponder.server.validation import checked, missing

NAMES: Mapping[str, str] = {
    "document": "response_format",
    "document.schema": "response_format.json_schema.schema",
    "messages.*.tool_calls.*.arguments": "messages.*.tool_calls.*.function.arguments",
    "tools.*.parameters": "tools.*.function.parameters",
    "tool_choice.name": "tool_choice.function.name",
    "total_tokens": "max_completion_tokens",
    "logprobs": "top_logprobs",
    "messages.*.sealed": "messages.*.reasoning_details",
    "summary": "reasoning.summary",
    "progress": "stream_options.include_progress",
    **OWN_NAMES,
}
"""What OpenAI calls the fields of our request, where that is something else."""
WHOLE = (
    "max_tokens",
    "max_completion_tokens",
    "max_answer_tokens",
    "n",
    "seed",
    "top_k",
    "top_logprobs",
)
"""Fields that are whole numbers, and may be written with a point."""
UNLIMITED = ("max_tokens", "max_completion_tokens")
"""Limits that are none at -1."""


IMAGES = ("image_url", "input_image")
"""Parts that hold an image; the second is that of the Responses API."""
SEE = ("user", "tool")
"""Who may show a model images."""


def chat_request(raw: bytes, limits: Limits) -> tuple[ChatRequest, Sequence[Stray]]:
    """A checked request, and the keys of it that nobody knows. Raises `RequestError`."""
    body = understood(loads_object(raw, limits.json_depth, limits.json_values), WHOLE, UNLIMITED)
    placed(body)
    misspelt(body, ChatRequest, REFUSED)
    check_entries(
        body,
        {
            "messages": limits.messages,
            "tools": limits.tools,
            "logit_bias": limits.logit_bias,
            "metadata": limits.metadata,
            "stop": limits.stop,
        },
    )
    request = checked(ChatRequest, body)
    found = list(strays(request))
    misplaced(request, request.metadata or (), found)
    _together(request)
    return request, told(found)


def _together(request: ChatRequest) -> None:
    """Raises `RequestError` for fields that want others, and for what only this dialect has."""
    if request.top_logprobs and not request.logprobs:
        raise RequestError("top_logprobs wants logprobs: true", param="top_logprobs", code="invalid_value")
    together(stream=request.stream, stream_options=request.stream_options, metadata=request.metadata)
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
    messages = tuple(message(m, f"messages.{i}") for i, m in enumerate(request.messages))
    return Request(
        model=request.model,
        messages=messages,
        thinking=wished(request),
        tools=tuple(map(_tool, request.tools or ())),
        tool_choice=_tool_choice(request),
        document=_document(request.response_format),
        total_tokens=request.max_completion_tokens or request.max_tokens,
        n=request.n or 1,
        stream=bool(request.stream),
        progress=bool(request.stream_options and request.stream_options.include_progress),
        sampling=sampling(request),
        stop=stops(request),
        logit_bias=biases(request),
        logprobs=(request.top_logprobs or 0) if request.logprobs else None,
        user=request.user,
        metadata=request.metadata or {},
        # Who sends one back wants the next one, too.
        seals_thought=bool(request.include) or any(one.sealed for one in messages),
        summary=request.reasoning and request.reasoning.summary,
        **wishes(request),
    )


def _document(form: wire.ResponseFormat | None) -> Document | None:
    if form is None or form.type == "text":
        return None
    # The order of properties is the caller's: it is the order in which the model is to write them.
    return Document(json.dumps(form.json_schema.schema_) if form.type == "json_schema" and form.json_schema else None)


def _tool(tool: wire.WireTool) -> Tool:
    function = tool.function
    parameters = function.parameters or {"type": "object", "properties": {}}
    return Tool(function.name, function.description or "", json.dumps(parameters), bool(function.strict))


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
            raise missing(f"{param}.content")
        content = given.refusal or ""
    images: Images = ()
    if not isinstance(content, str):
        content, images = joined([_part(part, f"{param}.content.{i}") for i, part in enumerate(content)])
    if images and given.role not in SEE:
        raise not_of_users(images)
    if given.role == "assistant":
        content = without_thought(content)
    sealed = reasoning_details.sealed(given.reasoning_details, f"{param}.reasoning_details")
    return Message(given.role, content, given.name, calls, given.tool_call_id, sealed=sealed, images=images)


def _part(part: Mapping[str, Any], param: str) -> str | Image:
    kind, text = part.get("type"), checked_text(part, param)
    if text is not None:
        return text
    if kind in IMAGES:
        field = f"{param}.image_url"
        held = part.get("image_url")
        if isinstance(held, dict):
            held, field = cast("dict[str, Any]", held).get("url"), f"{field}.url"
        return image_of_url(held, field)
    raise other_media(kind, f"{param}.type") or RequestError(
        f"{param}.type is none that is known; there are text and image_url", param=f"{param}.type", code="invalid_value"
    )
