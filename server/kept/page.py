"""Kept responses over HTTP: one of them, as it is or as a stream, its input, and an end to it.

They are OpenAI's routes and shapes. A response is its API key's: to any other it is not there.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Annotated, Any, Literal

from fastapi import Query
from pydantic import BaseModel, WithJsonSchema
from starlette.responses import Response

from ponder.compute.errors import RequestError
from ponder.metering.metrics import Metrics
from ponder.server.auth.access import Caller
from ponder.server.kept.event_stream import HEADERS, EventStream, follow
from ponder.server.kept.responses import KeptResponses
from ponder.server.kept.shapes import THOUGHTS, joined, listed
from ponder.server.query import number, place, word
from ponder.server.settings import Settings

MOST = 100
"""Items on a page."""
ITEM = "item of this response"
INCLUDABLE = (THOUGHTS, "message.output_text.logprobs", "message.input_image.image_url")
"""What `include` may name: what else OpenAI has is of tools that are not offered here."""


Include = Annotated[
    list[str] | None,
    WithJsonSchema({"type": "array", "items": {"enum": list(INCLUDABLE)}}),
    Query(description="What is given beside, such as sealed thoughts"),
]
Includes = Annotated[list[str] | None, Query(alias="include[]", include_in_schema=False)]
Stream = Annotated[
    str | None,
    WithJsonSchema({"type": "boolean"}),
    Query(description="true: its events, where it ran in the background"),
]
StartingAfter = Annotated[
    str | None,
    WithJsonSchema({"type": "integer", "minimum": 0}),
    Query(description="The number of the event behind which they begin"),
]
Limit = Annotated[
    str | None,
    WithJsonSchema({"type": "integer", "minimum": 1, "maximum": MOST}),
    Query(description="Items of a page; 20 where it is left out"),
]
Order = Annotated[
    str | None, WithJsonSchema({"enum": ["asc", "desc"]}), Query(description="Left out: desc, the newest first")
]
Place = Annotated[str | None, Query(description="The id of an item that the page ends before, or begins behind")]
"""Parameters are checked here, for the messages, and described so."""

RESPONSE = {"schema": {"$ref": "#/components/schemas/ResponseObject"}}
EVENTS = {"schema": {"$ref": "#/components/schemas/ResponseStreamEvent"}}
GIVEN: dict[int | str, dict[str, Any]] = {
    200: {"description": "The response", "content": {"application/json": RESPONSE}},
}
"""The answer of routes that give a response, for `/openapi.json`: the schemas are the dialect's."""
STREAMED: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The response, or its events",
        "content": {"application/json": RESPONSE, "text/event-stream": EVENTS},
    }
}


class DeletedResponse(BaseModel):
    """It is gone."""

    id: str
    object: Literal["response"] = "response"
    deleted: Literal[True] = True


class InputItems(BaseModel):
    """A page of what a response was made from."""

    object: Literal["list"] = "list"
    data: list[dict[str, Any]]
    first_id: str
    last_id: str
    has_more: bool


class ResponsesPage:
    """The routes below `/v1/responses/{id}`."""

    def __init__(self, kept: KeptResponses, settings: Callable[[], Settings], metrics: Metrics) -> None:
        self._kept, self._settings, self._metrics = kept, settings, metrics

    async def retrieve_response(
        self,
        id: str,
        key: Caller,
        include: Include = None,
        includes: Includes = None,
        stream: Stream = None,
        starting_after: StartingAfter = None,
    ) -> Response:
        """Finds a response that is kept. `stream`: true gives the events of one that runs, or ran, in the background,
        behind the one whose number is `starting_after`."""
        included = _included(include, includes)
        after = number("starting_after", starting_after, -1, most=1 << 53)
        streamed = word("stream", stream, False, {"false": False, "true": True})
        if not streamed and starting_after is not None:
            raise RequestError("starting_after goes with stream=true", param="starting_after")
        found, content = await self._kept.find(id, key.id)
        if not streamed:
            response = content.response(found.status)
            output = joined(response["output"], content.sealed)
            return _json({**response, "output": listed(output, included)})
        if not found.background:
            raise RequestError(
                "only a response that was asked for with background: true has a stream that can be gone on with",
                param="stream",
                code="not_streamable",
            )
        settings = self._settings()
        return EventStream(
            follow(self._kept, id, key.id, after + 1),
            HEADERS,
            self._metrics,
            keepalive=settings.keepalive,
            send_timeout=settings.limits.send_timeout,
        )

    async def delete_response(self, id: str, key: Caller) -> DeletedResponse:
        """Forgets a response; one that runs in the background ends."""
        await self._kept.delete(id, key.id)
        return DeletedResponse(id=id)

    async def cancel_response(self, id: str, key: Caller) -> Response:
        """Ends a response that runs in the background, and gives it as it is then. One that is over stays as it is."""
        found, _ = await self._kept.find(id, key.id)
        if not found.background:
            raise RequestError(
                "only a response that was asked for with background: true can be cancelled; close the connection of "
                "another",
                param="id",
                code="not_in_background",
            )
        found, content = await self._kept.cancel(id, key.id)
        response = content.response(found.status)
        return _json(response)

    async def response_input_items(
        self,
        id: str,
        key: Caller,
        include: Include = None,
        includes: Includes = None,
        limit: Limit = None,
        order: Order = None,
        after: Place = None,
        before: Place = None,
    ) -> InputItems:
        """Lists what a response was made from, the conversation it goes on with among it: the newest first, or with
        `order`: asc the oldest. `after` and `before` are ids of items between which a page lies; `limit` is 1 to
        100."""
        included = _included(include, includes)
        size = number("limit", limit, 20, least=1, most=MOST)
        descending = word("order", order, True, {"desc": True, "asc": False})
        _, content = await self._kept.find(id, key.id)
        items = list(content.items)
        if descending:
            items.reverse()
        ids = [str(item["id"]) for item in items]
        begin = 0 if after is None else place("after", after, ids, ITEM) + 1
        end = len(items) if before is None else place("before", before, ids, ITEM)
        # Before an item and with nothing to begin behind, a page is the nearest one.
        begin = max(begin, end - size) if after is None and before is not None else begin
        page = items[begin : min(end, begin + size)]
        return InputItems(
            data=[dict(item) for item in listed(page, included)],
            first_id=page[0]["id"] if page else "",
            last_id=page[-1]["id"] if page else "",
            has_more=begin > 0 if before is not None and after is None else begin + len(page) < end,
        )


def _json(value: Any) -> Response:
    return Response(json.dumps(value), media_type="application/json")


def _included(*given: list[str] | None) -> set[str]:
    words = {word for some in given for word in some or ()}
    if not words <= set(INCLUDABLE):
        raise RequestError(f"include may name {', '.join(INCLUDABLE)}", param="include")
    return words
