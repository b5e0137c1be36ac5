"""Gemini's requests as they come in: bytes to a checked model, and that to a request of our own."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar, cast

from ponder.compute.errors import RequestError
from ponder.compute.text import Tool
from ponder.server.bounds import check_entries
from ponder.server.dialects.gemini import refused
from ponder.server.dialects.gemini import schema as wire
from ponder.server.dialects.gemini.contents import Turns, turns
from ponder.server.dialects.gemini.names import alias, understood
from ponder.server.dialects.gemini.refused import refuse
from ponder.server.dialects.gemini.schema import CountRequest, FunctionDeclaration, GenerateRequest, GenerationConfig
from ponder.server.dialects.gemini.schemas import json_schema
from ponder.server.dialects.own_fields import NAMES as OWN_NAMES
from ponder.server.dialects.own_fields import wishes
from ponder.server.dialects.slips import Stray, misplaced, misspelt, strays, told
from ponder.server.dialects.thinking_spellings import agreed, conflict
from ponder.server.request import Document, Request, SamplingWish, ThinkingWish, ToolChoice
from ponder.server.settings import Limits
from ponder.server.strict_json import loads_object
from ponder.server.validation import checked, missing

CONFIG = "generationConfig"
THINKING = f"{CONFIG}.thinkingConfig"
CALLING = "toolConfig.functionCallingConfig"
INNER = "generateContentRequest"
"""Where the count of a prompt's tokens may have a whole request."""
NAMES: Mapping[str, str] = {
    "messages": "contents",
    "total_tokens": f"{CONFIG}.maxOutputTokens",
    "n": f"{CONFIG}.candidateCount",
    "stop": f"{CONFIG}.stopSequences",
    "logprobs": f"{CONFIG}.logprobs",
    "document": f"{CONFIG}.responseMimeType",
    "tool_choice": f"{CALLING}.mode",
    "tool_choice.name": f"{CALLING}.allowedFunctionNames",
    "metadata": "labels",
    "summary": f"{THINKING}.includeThoughts",
    **OWN_NAMES,
}
"""What Gemini calls the fields of our request, where that is something else."""
Checked = TypeVar("Checked", bound=GenerateRequest)


@dataclass(frozen=True)
class Wanted:
    """A request that was read, and what its writer wants to know of it."""

    request: Request
    names: Mapping[str, str]
    strays: Sequence[Stray]
    ignored: Sequence[str]
    """Known fields that have no effect."""
    logprobs: bool

    @property
    def text(self) -> bool:
        """The prompt has nothing but text."""
        return not any(message.images for message in self.request.messages)


def generate_request(raw: bytes, limits: Limits, model: str, *, stream: bool) -> Wanted:
    """Of `generateContent`, or as a stream. Raises `RequestError`."""
    return _wanted(_checked(GenerateRequest, raw, limits), model, stream=stream)


def count_request(raw: bytes, limits: Limits, model: str) -> Wanted:
    """Of `countTokens`: the request whose prompt is counted. Raises `RequestError`."""
    given = _checked(CountRequest, raw, limits)
    if given.generate_content_request is None:
        if not given.contents:
            raise missing("contents")
        return _wanted(given, model, stream=False)
    if given.contents:
        raise conflict(INNER, "contents")
    return _wanted(given.generate_content_request, model, stream=False, place=f"{INNER}.")


def _checked(model: type[Checked], raw: bytes, limits: Limits) -> Checked:
    body = cast("dict[str, Any]", understood(loads_object(raw, limits.json_depth, limits.json_values)))
    misspelt(body, model, refused.REFUSED)
    if isinstance(inner := body.get(INNER), dict) and model is CountRequest:
        refuse(cast("dict[str, Any]", inner), f"{INNER}.", refused.REFUSED)
    check_entries(body, {"contents": limits.messages, "tools": limits.tools, "labels": limits.metadata})
    return checked(model, body)


def _wanted(request: GenerateRequest, model: str, *, stream: bool, place: str = "") -> Wanted:
    found = [Stray(tuple(map(alias, one.place)), one.key, one.holder) for one in strays(request)]
    misplaced(request, request.labels or (), found)
    config = request.generation_config or GenerationConfig()
    _together(request, config, place)
    made = turns(request.system_instruction, request.contents)
    declared = _declared(request)
    choice, usable = _tool_choice(request, declared)
    document, schema_name = _document(config)
    names = {**NAMES, **made.names, **{f"tools.{n}.parameters": where for n, (_, where) in enumerate(usable)}}
    if schema_name is not None:
        names["document.schema"] = f"{CONFIG}.{schema_name}"
    if place:
        names = {ours: place + theirs for ours, theirs in names.items()}
    ours = _ours(request, config, model, made, [tool for tool, _ in usable], choice, document, stream=stream)
    ignored = [alias(name) for name in request.tolerated if getattr(request, name)]
    return Wanted(ours, names, told(found), ignored, bool(config.response_logprobs))


def _ours(
    request: GenerateRequest,
    config: GenerationConfig,
    model: str,
    made: Turns,
    tools: Sequence[Tool],
    choice: ToolChoice,
    document: Document | None,
    *,
    stream: bool,
) -> Request:
    thinking = config.thinking_config
    return Request(
        model=model.removeprefix("models/"),
        messages=tuple(made.messages),
        thinking=_thinking(request, thinking),
        tools=tuple(tools),
        tool_choice=choice,
        document=document,
        total_tokens=config.max_output_tokens,
        n=config.candidate_count or 1,
        stream=stream,
        sampling=SamplingWish(
            temperature=config.temperature,
            top_p=config.top_p,
            top_k=config.top_k,
            presence_penalty=config.presence_penalty,
            frequency_penalty=config.frequency_penalty,
            seed=config.seed,
        ),
        stop=tuple(config.stop_sequences or ()),
        logprobs=(config.logprobs or 0) if config.response_logprobs else None,
        metadata=request.labels or {},
        # A caller whose tools are called comes back with the results, and has the thought in its history then.
        seals_thought=bool(tools),
        summary="auto" if thinking is not None and thinking.include_thoughts else None,
        **wishes(request),
    )


def _thinking(request: GenerateRequest, config: wire.ThinkingConfig | None) -> ThinkingWish:
    tokens = [("thinking_budget", request.tokens), (f"{THINKING}.thinkingBudget", config and config.thinking_budget)]
    level = None if config is None else config.thinking_level
    levels = [] if level in (None, "thinking_level_unspecified") else [(f"{THINKING}.thinkingLevel", level)]
    budgets = [(name, most) for name, most in tokens if most is not None]
    return agreed(budgets, [], levels, exact=request.exact, loop=request.loop)


def _together(request: GenerateRequest, config: GenerationConfig, place: str) -> None:
    """Raises `RequestError` for fields that want others, and for what is not offered. `place`: where the request is."""
    refuse(config.model_extra, f"{place}{CONFIG}.", refused.CONFIG)
    for n, tool in enumerate(request.tools or ()):
        refuse(tool.model_extra, f"{place}tools.{n}.", refused.TOOLS, refused.FUNCTIONS)
    if request.tool_config is not None:
        refuse(request.tool_config.model_extra, f"{place}toolConfig.", refused.TOOL_CONFIG)
        calling = request.tool_config.function_calling_config
        refuse(calling and calling.model_extra, f"{place}{CALLING}.", refused.CALLING)
    if config.logprobs is not None and not config.response_logprobs:
        param = f"{place}{CONFIG}.logprobs"
        raise RequestError(f"{param} wants responseLogprobs: true", param=param, code="invalid_value")
    given = [name for name in ("response_schema", "response_json_schema") if getattr(config, name) is not None]
    if len(given) > 1:
        raise RequestError(
            f"{place}{CONFIG}.responseSchema and responseJsonSchema contradict each other",
            param=f"{place}{CONFIG}.responseJsonSchema",
            code="conflicting_parameters",
        )
    if given and config.response_mime_type != "application/json":
        param = f"{place}{CONFIG}.{alias(given[0])}"
        raise RequestError(f"{param} wants responseMimeType: application/json", param=param, code="invalid_value")


def _document(config: GenerationConfig) -> tuple[Document | None, str | None]:
    """(the shape of the answer, the field that has its schema)."""
    if config.response_mime_type != "application/json":
        return None, None
    if config.response_json_schema is not None:
        return Document(json.dumps(config.response_json_schema)), "responseJsonSchema"
    if config.response_schema is not None:
        return Document(json.dumps(json_schema(config.response_schema))), "responseSchema"
    return Document(), None


def _declared(request: GenerateRequest) -> list[tuple[Tool, str]]:
    """The functions, each with the place of its parameters."""
    found: list[tuple[Tool, str]] = []
    for n, tool in enumerate(request.tools or ()):
        for m, declared in enumerate(tool.function_declarations or ()):
            found.append(_function(declared, f"tools.{n}.functionDeclarations.{m}"))
    return found


def _function(declared: FunctionDeclaration, place: str) -> tuple[Tool, str]:
    plain = declared.parameters_json_schema
    if plain is not None and declared.parameters is not None:
        raise RequestError(
            f"{place}.parameters and parametersJsonSchema contradict each other",
            param=f"{place}.parametersJsonSchema",
            code="conflicting_parameters",
        )
    parameters: Any = plain if plain is not None else json_schema(declared.parameters)
    name = "parameters" if plain is None else "parametersJsonSchema"
    text = json.dumps(parameters or {"type": "object", "properties": {}})
    return Tool(declared.name, declared.description or "", text), f"{place}.{name}"


def _tool_choice(
    request: GenerateRequest, declared: Sequence[tuple[Tool, str]]
) -> tuple[ToolChoice, Sequence[tuple[Tool, str]]]:
    """How the functions may be used, and which: where some are allowed, the model sees those alone."""
    config = request.tool_config and request.tool_config.function_calling_config
    mode = None if config is None or config.mode in (None, "MODE_UNSPECIFIED") else config.mode
    allowed = config.allowed_function_names if config is not None else None
    if allowed and mode not in ("ANY", "VALIDATED"):
        raise RequestError(
            f"{CALLING}.allowedFunctionNames wants mode: ANY or VALIDATED",
            param=f"{CALLING}.allowedFunctionNames",
            code="invalid_value",
        )
    if mode == "NONE":
        return ToolChoice("none"), declared
    if mode in (None, "AUTO") or not (declared or allowed or mode == "ANY"):
        return ToolChoice(None if mode is None else "auto") if declared else ToolChoice(), declared
    usable = [one for one in declared if not allowed or one[0].name in allowed]
    if allowed and set(allowed) - {tool.name for tool, _ in usable}:
        raise RequestError(
            f"{CALLING}.allowedFunctionNames names a function that is not among tools",
            param=f"{CALLING}.allowedFunctionNames",
            code="invalid_value",
        )
    if mode == "ANY":
        return ToolChoice("required"), usable
    return ToolChoice("auto"), [(replace(tool, strict=True), place) for tool, place in usable]
