"""OpenAI's request for a response as it comes in: bytes to a checked `ResponsesRequest`, and that to a request of our
own.

Errors are `RequestError` and name the field as OpenAI does.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from ponder.compute.errors import RequestError
from ponder.compute.outcome import SummaryLength
from ponder.compute.text import Message, Tool
from ponder.server.bounds import check_entries
from ponder.server.dialects.customs import understood
from ponder.server.dialects.openai_responses.items import Conversation, Items, OneItem, of_this_turn
from ponder.server.dialects.openai_responses.refused import REFUSED, offered
from ponder.server.dialects.openai_responses.schema import (
    AllowedTools,
    ChosenTool,
    HeldToSchema,
    ResponsesRequest,
    ResponseTool,
)
from ponder.server.dialects.openai_sampling import biases, sampling, stops
from ponder.server.dialects.openai_together import together
from ponder.server.dialects.own_fields import NAMES as OWN_NAMES
from ponder.server.dialects.own_fields import wishes
from ponder.server.dialects.slips import Stray, misplaced, misspelt, strays, told
from ponder.server.dialects.thinking_spellings import conflict, wished
from ponder.server.request import Document, Request, ToolChoice
from ponder.server.settings import Limits
from ponder.server.strict_json import loads_object
from ponder.server.validation import checked

NAMES: Mapping[str, str] = {
    "messages": "input",
    "document": "text.format",
    "document.schema": "text.format.schema",
    "total_tokens": "max_output_tokens",
    "logprobs": "top_logprobs",
    "summary": "reasoning.summary",
    "progress": "stream_options.include_progress",
    "seals_thought": "include",
    **OWN_NAMES,
}
"""What this API calls the fields of our request, where that is something else."""
WHOLE = ("max_output_tokens", "max_answer_tokens", "max_tool_calls", "seed", "top_k", "top_logprobs")
"""Fields that are whole numbers, and may be written with a point."""
UNLIMITED = ("max_output_tokens",)
"""Limits that are none at -1."""
SEALED = "reasoning.encrypted_content"
LOGPROBS = "message.output_text.logprobs"
"""What `include` calls sealed thoughts, and log-probabilities."""


def responses_request(raw: bytes, limits: Limits) -> tuple[ResponsesRequest, Sequence[Stray]]:
    """A checked request, and the keys of it that nobody knows. Raises `RequestError`."""
    body = understood(loads_object(raw, limits.json_depth, limits.json_values), WHOLE, UNLIMITED)
    misspelt(body, ResponsesRequest, REFUSED)
    check_entries(
        body,
        {
            "input": limits.messages,
            "tools": limits.tools,
            "logit_bias": limits.logit_bias,
            "metadata": limits.metadata,
            "stop": limits.stop,
        },
    )
    offered(body)
    request = checked(ResponsesRequest, body)
    found = list(strays(request))
    misplaced(request, request.metadata or (), found)
    _together(request)
    return request, told(found)


def _together(request: ResponsesRequest) -> None:
    """Raises `RequestError` for fields that want others, and for what is known and not offered."""
    together(stream=request.stream, stream_options=request.stream_options, metadata=request.metadata)
    if request.truncation == "auto":
        raise RequestError(
            "truncation auto is not offered: nothing is left out of a conversation. Leave it out, and send the items "
            "that the model is to read",
            param="truncation",
            code="unsupported_parameter",
        )
    reasoning = request.reasoning
    one, other = (reasoning.summary, reasoning.generate_summary) if reasoning else (None, None)
    if one and other and one != other:
        raise conflict("reasoning.summary", "reasoning.generate_summary")


def ours(
    request: ResponsesRequest, earlier: Items = (), named: Mapping[str, OneItem] | None = None
) -> tuple[Request, Mapping[str, str]]:
    """The request in our words, and what its fields are called in the caller's. `earlier`: the items of the
    conversation it goes on with; `named`: those of answers that it only names, by their ids; None: they are yet to be
    looked for. Raises `RequestError`."""
    talk = Conversation(named)
    if request.instructions is not None:
        talk.say(Message("system", request.instructions), "instructions", "instructions")
    for item in earlier:
        talk.add(item, "previous_response_id")
    if isinstance(request.input, str):
        talk.say(Message("user", request.input), "input", "input")
    else:
        for i, item in enumerate(request.input):
            talk.add(item, f"input.{i}")
        talk.close()
    reasoning = request.reasoning
    messages = talk.messages
    if reasoning and reasoning.context == "current_turn":
        messages = of_this_turn(messages)
    tools = _tools(request)
    pro = bool(reasoning and reasoning.mode == "pro")
    names = {f"tools.{n}": f"tools.{i}" for n, (i, _) in enumerate(tools) if n != i}
    if pro and request.strategy is None:
        names["strategy"] = "reasoning.mode"
    made = Request(
        model=request.model,
        messages=tuple(messages),
        thinking=wished(request),
        pro=pro,
        tools=tuple(_tool(tool) for _, tool in tools),
        tool_choice=_tool_choice(request),
        document=_document(request),
        total_tokens=request.max_output_tokens,
        stream=bool(request.stream),
        sampling=sampling(request),
        stop=stops(request),
        logit_bias=biases(request),
        logprobs=(request.top_logprobs or 0) if gives_logprobs(request) else None,
        user=request.user or request.safety_identifier,
        metadata=request.metadata or {},
        seals_thought=gives_sealed(request),
        summary=summary_length(request),
        progress=bool(request.stream_options and request.stream_options.include_progress),
        **wishes(request),
    )
    return made, {**NAMES, **talk.names, **names}


def gives_logprobs(request: ResponsesRequest) -> bool:
    """The answer has log-probabilities."""
    return bool(request.top_logprobs) or LOGPROBS in (request.include or ())


def gives_sealed(request: ResponsesRequest) -> bool:
    """The answer has its thought, sealed."""
    return SEALED in (request.include or ())


def summary_length(request: ResponsesRequest) -> SummaryLength | None:
    """How long a summary of the thought is to be, whichever way it was asked for; None: there is to be none."""
    return request.reasoning and (request.reasoning.summary or request.reasoning.generate_summary)


def _tools(request: ResponsesRequest) -> list[tuple[int, ResponseTool]]:
    """The tools that the model is shown, with their place: of those that are allowed, where only some are. Raises
    `RequestError`."""
    tools, choice = list(enumerate(request.tools or ())), request.tool_choice
    if not isinstance(choice, AllowedTools):
        return tools
    known = {tool.name for _, tool in tools}
    for i, one in enumerate(choice.tools):
        if one.name not in known:
            raise RequestError(
                f"tool_choice.tools.{i} names a tool that is not among tools",
                param=f"tool_choice.tools.{i}.name",
                code="invalid_value",
            )
    allowed = {one.name for one in choice.tools}
    return [(i, tool) for i, tool in tools if tool.name in allowed]


def _tool(tool: ResponseTool) -> Tool:
    parameters = tool.parameters or {"type": "object", "properties": {}}
    return Tool(tool.name, tool.description or "", json.dumps(parameters), bool(tool.strict))


def _tool_choice(request: ResponsesRequest) -> ToolChoice:
    choice, parallel = request.tool_choice, request.parallel_tool_calls is not False
    if isinstance(choice, ChosenTool):
        return ToolChoice("required", choice.name, parallel)
    return ToolChoice(choice.mode if isinstance(choice, AllowedTools) else choice, parallel=parallel)


def _document(request: ResponsesRequest) -> Document | None:
    form = request.text and request.text.format
    if form is None or form.type == "text":
        return None
    # The order of properties is the caller's: it is the order in which the model is to write them.
    return Document(json.dumps(form.schema_) if isinstance(form, HeldToSchema) else None)
