"""Models as Anthropic's clients list them: `GET /v1/models` and `/v1/models/{id}` with the header
`anthropic-version`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Literal

from pydantic import Field

from ponder.server.dialects.described import Part
from ponder.server.query import number, place
from ponder.server.registry import ServedModel

USUAL, MOST = 20, 1000
"""Models of a page, where nothing is said and at most."""


class Support(Part):
    supported: bool


class ContextManagement(Support):
    """Edits of the context."""


class Effort(Support):
    """Words for how much to think."""

    low: Support
    medium: Support
    high: Support
    xhigh: Support
    max: Support


class ServerTools(Support):
    """Tools of the server's own."""

    code_execution: Support
    web_search: Support


class ThinkingTypes(Part):
    adaptive: Support
    between_tools: Support
    disabled: Support
    enabled: Support


class ThinkingSupport(Support):
    types: ThinkingTypes


class Capabilities(Part):
    """What a model can be asked for."""

    batch: Support
    citations: Support
    code_execution: Support
    context_management: ContextManagement
    effort: Effort
    image_input: Support
    pdf_input: Support
    server_tools: ServerTools
    structured_outputs: Support
    thinking: ThinkingSupport


class MessageModel(Part):
    """A model that may be asked, in Anthropic's words, or one with a strategy: `MODEL:STRATEGY`."""

    type: Literal["model"]
    id: str
    display_name: str
    created_at: str = Field(description="RFC 3339")
    lifecycle: Literal["active"]
    max_input_tokens: int = Field(description="Tokens of prompt and output together")
    max_tokens: int = Field(description="The same")
    capabilities: Capabilities


class MessageModels(Part):
    """A page of what a key may ask."""

    data: list[MessageModel]
    has_more: bool
    first_id: str | None
    last_id: str | None


def one(id: str, served: ServedModel) -> MessageModel:
    """A model."""
    card = served.engine.card
    no, yes, thinks = Support(supported=False), Support(supported=True), Support(supported=card.thinks)
    return MessageModel(
        type="model",
        id=id,
        display_name=id,
        created_at=datetime.fromtimestamp(card.created, UTC).isoformat().replace("+00:00", "Z"),
        lifecycle="active",
        max_input_tokens=card.context,
        max_tokens=card.context,
        capabilities=Capabilities(
            batch=no,
            citations=no,
            code_execution=no,
            context_management=ContextManagement(supported=False),
            effort=Effort(supported=card.thinks, low=thinks, medium=thinks, high=thinks, xhigh=thinks, max=thinks),
            image_input=Support(supported="image" in card.modalities),
            pdf_input=no,
            server_tools=ServerTools(supported=False, code_execution=no, web_search=no),
            structured_outputs=yes,
            thinking=ThinkingSupport(
                supported=card.thinks,
                types=ThinkingTypes(adaptive=thinks, between_tools=no, disabled=yes, enabled=thinks),
            ),
        ),
    )


def several(found: Sequence[tuple[str, ServedModel]], query: Mapping[str, str]) -> MessageModels:
    """A page of them: `limit` models behind `after_id`, or before `before_id`, or the first. Raises `RequestError`."""
    limit, ids = number("limit", query.get("limit"), USUAL, least=1, most=MOST), [name for name, _ in found]
    first, last = 0, limit
    if (after := query.get("after_id")) is not None:
        first = place("after_id", after, ids, "model") + 1
        last = first + limit
    elif (before := query.get("before_id")) is not None:
        last = place("before_id", before, ids, "model")
        first = max(0, last - limit)
    page = found[first:last]
    return MessageModels(
        data=[one(name, served) for name, served in page],
        has_more=first > 0 if "before_id" in query and "after_id" not in query else last < len(found),
        first_id=page[0][0] if page else None,
        last_id=page[-1][0] if page else None,
    )
