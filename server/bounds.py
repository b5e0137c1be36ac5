"""Bounds on what one request may bring: the operator's, the same for every dialect."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NoReturn, cast

from ponder.compute.errors import RequestError
from ponder.server.errors import TooLarge
from ponder.server.request import Request
from ponder.server.settings import Limits
from ponder.server.strict_json import deeper, half_characters


def check(request: Request, limits: Limits) -> None:
    """Raises `RequestError` for what is of the right type and too much, or nothing at all."""
    if not request.messages and not request.raw:
        raise RequestError("messages have nothing to answer", param="messages", code="invalid_value")
    too_many("messages", len(request.messages), limits.messages)
    _images(request, limits)
    for i, message in enumerate(request.messages):
        for j, call in enumerate(message.tool_calls):
            _arguments(call.arguments, f"messages.{i}.tool_calls.{j}.arguments", limits)
    if request.n > limits.n:
        raise RequestError(f"n is above this server's limit of {limits.n}", param="n", code="above_max_value")
    if request.answers > limits.n:
        raise RequestError(
            f"{len(request.raw)} prompts with {request.n} answers each are more than the {limits.n} answers allowed",
            param="raw",
            code="too_many",
        )
    too_many("stop", len(request.stop), limits.stop)
    if any(not 0 < len(s) <= limits.stop_chars for s in request.stop):
        raise RequestError(
            f"each stop string must have 1 to {limits.stop_chars} characters", param="stop", code="invalid_value"
        )
    if (request.logprobs or 0) > limits.logprobs:
        raise RequestError(
            f"logprobs is above the limit of {limits.logprobs}", param="logprobs", code="above_max_value"
        )
    too_many("logit_bias", len(request.logit_bias), limits.logit_bias)
    too_many("metadata", len(request.metadata), limits.metadata)
    too_many("tools", len(request.tools), limits.tools)
    for i, tool in enumerate(request.tools):
        if deeper(tool.parameters, limits.schema_depth):
            _too_deep(f"tools.{i}.parameters", limits)
    if len({tool.name for tool in request.tools}) < len(request.tools):
        raise RequestError("two tools have the same name", param="tools", code="invalid_value")
    document = request.document
    if document and document.schema and deeper(document.schema, limits.schema_depth):
        _too_deep("document.schema", limits)


def check_size(raw: bytes, request: Request, limits: Limits) -> None:
    """Raises `TooLarge` for a body whose text is longer than it may be, its escapes read and its images left out."""
    if len(raw) <= limits.body_bytes:
        return
    images = sum(4 * -(-len(image.data) // 3) for message in request.messages for _, image in message.images)
    if text_size(raw) - images > limits.body_bytes:
        raise TooLarge(f"the body is larger than the {limits.body_bytes} bytes allowed", code="body_too_large")


def check_conversation(request: Request, most: int) -> None:
    """Raises `TooLarge` for a conversation of more than so many characters, its images left out: what is kept may be
    named by a few bytes, and over and over."""
    if (size := characters(request)) > most:
        raise TooLarge(
            f"messages have {size} characters with what they go on with, more than the {most} allowed",
            param="messages",
            code="conversation_too_large",
        )


def characters(request: Request) -> int:
    """Characters of a conversation, its images left out."""
    return sum(
        len(text)
        for message in request.messages
        for text in (message.content, message.sealed, *(call.arguments for call in message.tool_calls))
        if isinstance(text, str)
    )


def text_size(raw: bytes) -> int:
    """Bytes of a JSON text with each `\\uXXXX` of it written as the character it stands for."""
    if b"\\u" not in raw:
        return len(raw)
    # Every byte that is no escape becomes one character, of which those beyond ASCII would be two bytes.
    text = raw.decode("raw_unicode_escape", "replace")
    beyond = len(raw) - len(raw.translate(None, _BEYOND))
    return len(text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace").encode()) - beyond


_BEYOND = bytes(range(128, 256))


def _images(request: Request, limits: Limits) -> None:
    """How many images there are, and how large they are together."""
    found = [image for message in request.messages for _, image in message.images]
    if len(found) > limits.images:
        raise RequestError(
            f"the request has {len(found)} images, more than the {limits.images} allowed",
            param=found[limits.images].param,
            code="too_many",
        )
    if (size := sum(len(image.data) for image in found)) > limits.image_bytes:
        raise RequestError(
            f"the images have {size} bytes, more than the {limits.image_bytes} allowed for a request: make them "
            "smaller",
            param=max(found, key=lambda image: len(image.data)).param,
            code="image_file_too_large",
        )


def too_many(field: str, found: int, most: int) -> None:
    """Raises `RequestError` where a field has more entries than `most`."""
    if found > most:
        raise RequestError(f"{field} has {found} entries, more than the {most} allowed", param=field, code="too_many")


def check_entries(body: Mapping[str, Any], most: Mapping[str, int]) -> None:
    """Raises `RequestError` for a field of a body that has more entries than it may have (`most`, by their names). For
    bodies as they come: before each entry is checked, and complained of."""
    for field, bound in most.items():
        if isinstance(given := body.get(field), list | dict):
            too_many(field, len(cast("list[Any]", given)), bound)


def _arguments(text: str, param: str, limits: Limits) -> None:
    """Raises `RequestError` for arguments of a call that are JSON no template could put into a prompt. What is no JSON
    is text: models write such, and clients send it back."""
    if deeper(text, limits.schema_depth):
        _too_deep(param, limits)
    if "\\u" not in text:
        return
    try:
        value = json.loads(text)
    except ValueError:
        return
    if half_characters(value):
        raise RequestError(
            f"{param} holds half of a surrogate pair (\\ud800 to \\udfff)", param=param, code="invalid_unicode"
        )


def _too_deep(param: str, limits: Limits) -> NoReturn:
    raise RequestError(f"{param} nests deeper than {limits.schema_depth}", param=param, code="too_deep")
