"""Anthropic's request as it comes in: bytes to a checked one, and that to a request of our own.

Errors are `RequestError` and name the field as Anthropic does.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar, cast

from ponder.compute.errors import RequestError
from ponder.compute.text import Tool
from ponder.server.bounds import check_entries
from ponder.server.dialect import Target
from ponder.server.dialects.anthropic import slips
from ponder.server.dialects.anthropic.blocks import Turns
from ponder.server.dialects.anthropic.schema import CountRequest, CustomTool, JsonFormat
from ponder.server.dialects.anthropic.thinking import has_blocks, has_summary, wished
from ponder.server.dialects.customs import understood
from ponder.server.dialects.own_fields import NAMES as OWN_NAMES
from ponder.server.dialects.own_fields import wishes
from ponder.server.dialects.slips import Stray
from ponder.server.dialects.thinking_spellings import conflict
from ponder.server.request import Document, Request, SamplingWish, ToolChoice
from ponder.server.settings import Limits
from ponder.server.strict_json import loads_object
from ponder.server.validation import checked, missing

R = TypeVar("R", bound=CountRequest)

VERSION = "anthropic-version"
NAMES: Mapping[str, str] = {
    "document": "output_config.format",
    "document.schema": "output_config.format.schema",
    "tools.*.parameters": "tools.*.input_schema",
    "total_tokens": "max_tokens",
    "stop": "stop_sequences",
    "user": "metadata.user_id",
    **OWN_NAMES,
}
"""What Anthropic calls the fields of our request, where that is something else. `Turns.names` has the messages, which
are counted in another way."""
WHOLE = ("max_tokens", "max_answer_tokens", "top_k", "seed")
"""Fields that are whole numbers, and may be written with a point."""
MODES = {"auto": "auto", "any": "required", "tool": "required", "none": "none"}


def checked_request(raw: bytes, limits: Limits, target: Target, model: type[R]) -> tuple[R, Sequence[Stray]]:
    """A checked request, and the keys of it that nobody knows. Raises `RequestError`."""
    if not target.headers.get(VERSION):
        raise RequestError(f"the header {VERSION} is required", param=VERSION, code="missing_required_header")
    body = understood(loads_object(raw, limits.json_depth, limits.json_values), WHOLE, ())
    slips.misspelt(body, model)
    check_entries(body, {"messages": limits.messages, "tools": limits.tools, "stop_sequences": limits.stop})
    _offered(body.get("tools"))
    if body.get("max_tokens") == 0:
        raise RequestError(
            "max_tokens should be at least 1: prompts are cached without being asked", param="max_tokens"
        )
    request = checked(model, body)
    unknown = slips.found(request)
    choice = request.tool_choice
    if choice is not None and choice.type == "tool" and choice.name is None:
        raise missing("tool_choice.name")
    return request, unknown


def _offered(tools: Any) -> None:
    """Raises `RequestError` for a tool of Anthropic's own."""
    for i, tool in enumerate(cast("list[Any]", tools) if isinstance(tools, list) else ()):
        kind = cast("dict[str, Any]", tool).get("type") if isinstance(tool, dict) else None
        if isinstance(kind, str) and kind != "custom":
            raise RequestError(
                f"tools.{i}.type: this server has no tools of its own, and no model here knows Anthropic's; describe "
                "yours with name, description and input_schema",
                param=f"tools.{i}.type",
                code="unsupported_parameter",
            )


def ours(request: CountRequest, turns: Turns, target: Target) -> Request:
    """The request in our words. Raises `RequestError`."""
    return Request(
        model=request.model,
        messages=tuple(turns.messages),
        thinking=wished(request, target.headers),
        tools=tuple(map(_tool, request.tools or ())),
        tool_choice=_tool_choice(request),
        document=_document(request),
        total_tokens=request.max_tokens,
        stream=bool(request.stream),
        sampling=SamplingWish(
            temperature=request.temperature, top_p=request.top_p, top_k=request.top_k, seed=request.seed
        ),
        stop=tuple(request.stop_sequences or ()),
        user=request.metadata.user_id if request.metadata else None,
        seals_thought=has_blocks(request),
        summary="auto" if has_summary(request) else None,
        **wishes(request),
    )


def _tool(tool: CustomTool) -> Tool:
    schema = tool.input_schema
    if tool.input_examples:
        schema = {**schema, "examples": tool.input_examples}
    return Tool(tool.name, tool.description or "", json.dumps(schema), bool(tool.strict))


def _tool_choice(request: CountRequest) -> ToolChoice:
    choice = request.tool_choice
    if choice is None:
        return ToolChoice()
    name = choice.name if choice.type == "tool" else None
    return ToolChoice(MODES[choice.type], name, not choice.disable_parallel_tool_use)  # pyright: ignore[reportArgumentType]


def _document(request: CountRequest) -> Document | None:
    """The schema that an answer is held to. Raises `RequestError` where there are two."""
    newer = request.output_config.format if request.output_config else None
    older: JsonFormat | None = request.output_format
    if newer is not None and older is not None and newer != older:
        raise conflict("output_config.format", "output_format")
    form = newer or older
    # The order of properties is the caller's: it is the order in which the model is to write them.
    return None if form is None else Document(json.dumps(form.schema_))
