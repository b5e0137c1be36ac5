"""Which requests a server has traces of: `GET /v1/traces`, page by page, so that what wants many of them (`ponder
export`) finds them without having written down every `x-request-id`."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import Query
from pydantic import BaseModel, Field, WithJsonSchema

from ponder.compute.errors import NotFound
from ponder.metering.traces import StoredTrace
from ponder.server.auth.access import Caller
from ponder.server.auth.keys import Key
from ponder.server.query import number, word
from ponder.server.traces import GONE, Trace, Traces

USUAL, MOST = 100, 1000
"""Traces of a page."""

Limit = Annotated[
    str | None,
    WithJsonSchema({"type": "integer", "minimum": 1, "maximum": MOST}),
    Query(description=f"Traces of a page; {USUAL} where it is left out"),
]
After = Annotated[str | None, Query(description="The id of the last trace of the page before")]
Own = Annotated[
    str | None,
    WithJsonSchema({"type": "boolean"}),
    Query(description="true: those of this key alone, also where it has the scope admin"),
]
"""Parameters are checked here, for the messages, and described so."""


class ListedTrace(BaseModel):
    """A request that there is a trace of."""

    id: str
    object: Literal["trace"] = "trace"
    model: str
    strategy: str
    budget: int
    ended: str
    seconds: float
    ended_at: int = Field(description="Unix seconds")
    text: bool = Field(description="Its texts are kept, and this key is shown them")


class ListedTraces(BaseModel):
    """A page of traces, the newest first."""

    object: Literal["list"] = "list"
    data: list[ListedTrace]
    has_more: bool


class TraceList:
    """The endpoint."""

    def __init__(self, traces: Traces) -> None:
        self._traces = traces

    async def traces(self, key: Caller, limit: Limit = None, after: After = None, own: Own = None) -> ListedTraces:
        """Lists the traces that are kept, the newest first. A key sees its own requests, with the scope `admin` all.
        Where the trace `after` is gone meanwhile, so are all that would follow: that is a 404."""
        size = number("limit", limit, USUAL, least=1, most=MOST)
        own_alone = word("own", own, False, {"false": False, "true": True})
        every = key.may("admin") and not own_alone
        if self._traces.shared is not None:
            rows = await self._traces.shared.latest(None if every else key.id, after, size + 1)
            return ListedTraces(data=[_listed(row.id, row, key) for row in rows[:size]], has_more=len(rows) > size)
        found = [(id, trace) for id, trace in self._traces.latest() if every or trace.key_id == key.id]
        if after is not None:
            places = [i for i, (id, _) in enumerate(found) if id == after]
            if not places:
                raise NotFound(GONE, param="after", code="trace_not_found")
            found = found[places[0] + 1 :]
        page = [_listed(id, trace, key) for id, trace in found[:size]]
        return ListedTraces(data=page, has_more=len(found) > size)


def _listed(id: str, trace: Trace | StoredTrace, key: Key) -> ListedTrace:
    return ListedTrace(
        id=id,
        model=trace.model,
        strategy=trace.strategy,
        budget=trace.budget,
        ended=trace.ended,
        seconds=round(trace.seconds, 6),
        ended_at=trace.at_ms // 1000,
        text=key.may("reveal") and trace.has_text,
    )
