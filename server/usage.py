"""What was used and what it cost: `GET /v1/usage`, one request of it, and OpenAI's own two reports in OpenAI's shapes.

Everything here is read from settled rows of the ledger, in a thread. A key sees what was asked with it; one with the
scope `admin` sees all.
"""

from __future__ import annotations

import asyncio
import csv
import io
import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Literal, TypeVar, cast

from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError
from starlette.requests import Request
from starlette.responses import Response

from ponder.compute.errors import NotFound, RequestError, Unavailable
from ponder.compute.price import NANO
from ponder.metering.ledger import Ledger, storable
from ponder.metering.report import DAY, HOUR, SUMS, TIMES, Place, Question, dearest, may_group, one, place, sums
from ponder.server import query
from ponder.server.auth.access import Caller
from ponder.server.auth.keys import Key
from ponder.server.validation import missing

T = TypeVar("T")

MOST = 1000
"""Lines of a page."""
AT_ONCE = 4
"""Reports that are read at the same time; the others wait."""
MOST_DEAREST = 100
"""Requests that are listed by what they cost."""
MOST_RESULTS = 10_000
"""Results of all buckets of a page; those that are left of a bucket come with the next."""
INSIDE = ("owner", "epoch", "chains")
"""Columns that are of use to servers alone."""
WIDTHS = {"1m": (60_000, 60, 1440), "1h": (HOUR, 24, 168), "1d": (DAY, 7, 31)}
"""`bucket_width`: its milliseconds, and how many buckets a page has, usually and at most."""
MOST_COSTS = 180
OF_OPENAI = {"model": "model", "api_key_id": "key", "user_id": "user"}
"""Groups of OpenAI's that rows have, and their columns; the others are the same for all rows."""
ALIKE = ("project_id", "batch", "service_tier", "api_source")


class UsageLine(BaseModel):
    """What a group has used, beside the names of the group."""

    model_config = ConfigDict(extra="allow")

    requests: int
    unseen_requests: int = Field(description="Those of them with unseen_calls: their counts are the least")
    prompt: int = Field(description="Tokens of prompts, once a request")
    cached: int = Field(description="Those of them that the first chain found in the prefix cache")
    thinking: int = Field(description="Hidden tokens")
    answer: int = Field(description="Visible tokens")
    verifier_tokens: int = Field(description="Read by reward models")
    discarded: int = Field(description="Of thinking: of chains that are no part of an answer")
    wasted: int = Field(description="Made a second time after a model went away; billed to nobody")
    unseen_calls: int = Field(description="Chains of which a call's end was not seen; only what came is counted")
    samples: int = Field(description="Finished candidates")
    uncertain: int = Field(description="Tokens that a server that died may have made beside these, at most")
    cost_nano_usd: int
    cost_usd: float


class UsagePage(BaseModel):
    """Lines of a report, ordered by their groups."""

    object: Literal["page"] = "page"
    group_by: list[str]
    data: list[UsageLine]
    has_more: bool
    next_page: str | None


class BilledRequest(BaseModel):
    """One request as it is billed."""

    model_config = ConfigDict(extra="allow")

    id: str
    key: str
    model: str
    strategy: str
    outcome: str | None = Field(description="Empty while it runs. lost: its server died, and this was seen last")
    cost_usd: float


class DearestRequests(BaseModel):
    """The requests that cost most, the dearest first."""

    object: Literal["list"] = "list"
    data: list[BilledRequest]


class Bucket(BaseModel):
    """A bucket of time in a report of OpenAI's."""

    object: Literal["bucket"] = "bucket"
    start_time: int
    end_time: int
    results: list[dict[str, Any]]


class Buckets(BaseModel):
    """A page of a report of OpenAI's."""

    object: Literal["page"] = "page"
    data: list[Bucket]
    has_more: bool
    next_page: str | None


class UsageReports:
    """The endpoints."""

    def __init__(self, ledger: Ledger | None) -> None:
        self._engine = None if ledger is None else ledger.place.engine(reads=True)
        self._threads = ThreadPoolExecutor(AT_ONCE, "usage")
        """Of their own: a report may take long, and requests are read in the others."""

    @property
    def keeps(self) -> bool:
        """There is a ledger."""
        return self._engine is not None

    async def usage(
        self,
        request: Request,
        key: Caller,
        start: str | None = None,
        end: str | None = None,
        group_by: str | None = None,
        limit: str | None = None,
        page: str | None = None,
        format: str | None = None,
    ) -> Any:
        """Adds up what was used, grouped by any of key, model, strategy, verifier, day, hour, user and metadata.NAME
        (with commas between them). Times are days, moments (ISO 8601) or seconds since 1970. `format`: json or csv."""
        groups = _groups(request)
        for group in groups:
            if not may_group(group):
                raise query.wrong("group_by", "key, model, strategy, verifier, day, hour, user or metadata.NAME")
        written = query.word("format", format, None, {"json": "json", "csv": "csv"})
        size = query.number("limit", limit, 100, least=1, most=MOST)
        question = Question(query.instant("start", start), query.instant("end", end), groups, _own(key))
        found, after = await self._page(question, _place(question, page), size)
        lines = [shown(line) for line in found]
        if written == "csv" or (written is None and "text/csv" in request.headers.get("accept", "")):
            text = as_csv(lines, [*groups, *SUMS, "cost_usd"])
            headers = {} if after is None else {"x-next-page": after}
            return Response(text, media_type="text/csv; charset=utf-8", headers=headers)
        return UsagePage(
            group_by=list(groups),
            data=[UsageLine(**line) for line in lines],
            has_more=after is not None,
            next_page=after,
        )

    async def dearest_requests(
        self, key: Caller, start: str | None = None, end: str | None = None, limit: str | None = None
    ) -> DearestRequests:
        """Lists the requests that cost most, each as it is billed. Times are as for `/v1/usage`. `limit`: how many, 10
        where it is left out."""
        question = Question(query.instant("start", start), query.instant("end", end), (), _own(key))
        size = query.number("limit", limit, 10, least=1, most=MOST_DEAREST)
        rows = await self.read(lambda engine: dearest(engine, question, size))
        return DearestRequests(data=[_billed(row) for row in rows])

    async def usage_of_request(self, id: str, key: Caller) -> BilledRequest:
        """Finds one request by its id, the `x-request-id` of its answer."""
        return _billed(await self.row(id, key))

    async def row(self, id: str, key: Key) -> dict[str, Any]:
        """The row of a request that a key may see. Raises `NotFound`."""
        row = await self.read(lambda engine: one(engine, storable(id), None if key.may("admin") else key.id))
        if row is None:
            raise NotFound("no request of this key has that id", param="id", code="request_not_found")
        return row

    async def organization_usage(
        self,
        request: Request,
        key: Caller,
        start_time: str | None = None,
        end_time: str | None = None,
        bucket_width: str | None = None,
        limit: str | None = None,
        page: str | None = None,
    ) -> Buckets:
        """Reports usage as OpenAI's `GET /v1/organization/usage/completions` does. An API key's id is its name, a
        user's what requests say in `user`."""
        width, usual, most = query.word("bucket_width", bucket_width or None, WIDTHS["1d"], WIDTHS)
        groups = self._openai_groups(request, (*OF_OPENAI, *ALIKE))

        def result(line: Mapping[str, Any]) -> dict[str, Any]:
            return {
                "object": "organization.usage.completions.result",
                "input_tokens": line["prompt"],
                "output_tokens": line["thinking"] + line["answer"],
                "input_cached_tokens": line["cached"],
                "input_audio_tokens": 0,
                "output_audio_tokens": 0,
                "num_model_requests": line["requests"],
            } | {name: line.get(OF_OPENAI.get(name, "")) if name in groups else None for name in (*OF_OPENAI, *ALIKE)}

        size = query.number("limit", limit, usual, least=1, most=most)
        columns = tuple(OF_OPENAI[name] for name in groups if name in OF_OPENAI)
        among = {column: query.several(request.query_params, f"{name}s") for name, column in OF_OPENAI.items()}
        question = Question(group_by=columns, among=_both(_own(key), among), width=width)
        found, times, after = await self._buckets(question, start_time, end_time, page, size, width)
        return _paged(times, width, {at: [result(line) for line in lines] for at, lines in found.items()}, after)

    async def organization_costs(
        self,
        request: Request,
        key: Caller,
        start_time: str | None = None,
        end_time: str | None = None,
        bucket_width: str | None = None,
        limit: str | None = None,
        page: str | None = None,
    ) -> Buckets:
        """Reports costs as OpenAI's `GET /v1/organization/costs` does; a line item is a model."""
        query.word("bucket_width", bucket_width, DAY, {"1d": DAY})
        named = OF_OPENAI | {"line_item": "model"}
        groups = self._openai_groups(request, ("project_id", "line_item", "user_id", "api_key_id", "api_source"))

        def result(line: Mapping[str, Any]) -> dict[str, Any]:
            told = {
                name: line.get(named.get(name, "")) if name in groups else None for name in ("line_item", "api_key_id")
            }
            amount = {"value": line["cost_nano_usd"] / NANO, "currency": "usd"}
            more = {"user_id": line["user"]} if "user_id" in groups else {}
            return {"object": "organization.costs.result", "amount": amount, "project_id": None, **told, **more}

        size = query.number("limit", limit, 7, least=1, most=MOST_COSTS)
        columns = tuple(named[name] for name in groups if name in named)
        among = {
            "key": query.several(request.query_params, "api_key_ids"),
            "user": query.several(request.query_params, "user_ids"),
            "model": query.several(request.query_params, "line_items"),
        }
        question = Question(group_by=columns, among=_both(_own(key), among), width=DAY)
        found, times, after = await self._buckets(question, start_time, end_time, page, size, DAY)
        return _paged(times, DAY, {at: [result(line) for line in lines] for at, lines in found.items()}, after)

    # -- inside -------------------------------------------------------------------------------------------------------

    def _openai_groups(self, request: Request, known: Sequence[str]) -> tuple[str, ...]:
        groups = _groups(request)
        for group in groups:
            if group not in known:
                raise query.wrong("group_by", ", ".join(known))
        return groups

    async def _buckets(
        self, question: Question, start: str | None, end: str | None, page: str | None, size: int, width: int
    ) -> tuple[dict[int, list[dict[str, Any]]], list[int], str | None]:
        """The lines of each bucket of a page, the beginnings of its buckets, and where the next page begins."""
        begin = query.instant("start_time", start)
        if begin is None:
            raise missing("start_time")
        last = query.instant("end_time", end)
        if last is None:
            last = int(datetime.now(UTC).timestamp() * 1000)
        first, behind = begin - begin % width, _place(question, page, bare=True)
        if behind is not None:
            at = int(behind[0] or 0)
            first = max(first, at - at % width)
        times = [first + i * width for i in range(size) if first + i * width < last]
        over, after, lines = first + size * width, None, list[dict[str, Any]]()
        if times:
            span = {"begin_ms": max(begin, first), "end_ms": min(last, over)}
            whole = behind is None or len(behind) == 1
            lines, after = await self._page(replace(question, **span), None if whole else behind, MOST_RESULTS)
        if after is not None:
            times = [at for at in times if at <= lines[-1]["bucket"]]
        elif over < last:
            after = _token((over,))
        found: dict[int, list[dict[str, Any]]] = {}
        for line in lines:
            found.setdefault(line["bucket"], []).append(line)
        return found, times, after

    async def _page(
        self, question: Question, behind: Place | None, size: int
    ) -> tuple[list[dict[str, Any]], str | None]:
        """Lines of a report behind a place, and the word for where the next ones begin."""
        found = await self.read(lambda engine: sums(engine, question, after=behind, limit=size + 1))
        lines = found[:size]
        return lines, _token(place(question, lines[-1])) if len(found) > size else None

    async def read(self, work: Callable[[Engine], T]) -> T:
        """What a question to the ledger comes to, in a thread. Raises `NotFound` where there is none, and
        `Unavailable`."""
        if self._engine is None:
            raise NotFound("this server keeps no ledger ([ledger] url is none)", code="no_ledger")
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, work, self._engine)
        except SQLAlchemyError:
            raise Unavailable(
                "the ledger of this server cannot be read: try again later", code="ledger_unavailable", retry_after=5
            ) from None


def _paged(times: list[int], width: int, results: Mapping[int, list[dict[str, Any]]], after: str | None) -> Buckets:
    data = [
        Bucket(start_time=at // 1000, end_time=(at + width) // 1000, results=list(results.get(at, ()))) for at in times
    ]
    return Buckets(data=data, has_more=after is not None, next_page=after)


def _token(place: Place) -> str:
    """The word for a place in a report."""
    return urlsafe_b64encode(json.dumps(place, ensure_ascii=False, separators=(",", ":")).encode()).decode().rstrip("=")


def _place(question: Question, token: str | None, *, bare: bool = False) -> Place | None:
    """The place that a word stands for; with `bare` the bucket alone may be one. Raises `RequestError`."""
    if token is None:
        return None
    try:
        found = json.loads(urlsafe_b64decode(token + "=" * (-len(token) % 4)))
    except (ValueError, RecursionError):
        found = None
    times = [*(["bucket"] if question.width is not None else []), *question.group_by]
    kinds = [int if word == "bucket" or word in TIMES else str for word in times]
    known: list[Any] = cast("list[Any]", found) if isinstance(found, list) else []
    fits = len(known) == len(kinds) or (bare and len(known) == 1)
    if not fits or not known or not all(map(_fits, known, kinds)):
        raise query.wrong("page", "what next_page of the page before said, asked with the same groups")
    return tuple(known)


def _fits(value: Any, kind: type) -> bool:
    """It is a value that a group of this kind may have."""
    if kind is int:
        return type(value) is int and 0 <= value < 1 << 53
    return value is None or (isinstance(value, str) and storable(value) == value)


def _billed(row: Mapping[str, Any]) -> BilledRequest:
    told = {name: value for name, value in row.items() if name not in INSIDE}
    return BilledRequest(**told, cost_usd=row["cost_nano_usd"] / NANO)


def _own(key: Key) -> dict[str, Sequence[str]]:
    """Whose rows a key may see."""
    return {} if key.may("admin") else {"key_id": [key.id]}


def _both(own: Mapping[str, Sequence[str]], asked: Mapping[str, Sequence[str]]) -> dict[str, Sequence[str]]:
    """What may be seen of what is asked for."""
    among = {column: values for column, values in asked.items() if values}
    for column, values in own.items():
        among[column] = [value for value in values if value in among.get(column, values)]
    return among


def shown(line: Mapping[str, Any]) -> dict[str, Any]:
    """A line as people read it: days and hours by name, and the cost in USD, too."""
    told = dict(line)
    for word, form in (("day", "%Y-%m-%d"), ("hour", "%Y-%m-%dT%H:00:00Z")):
        if word in told:
            told[word] = datetime.fromtimestamp(told[word] / 1000, UTC).strftime(form)
    return told | {"cost_usd": line["cost_nano_usd"] / NANO}


def as_csv(lines: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> str:
    """Lines under a head. A text that a spreadsheet would take for a formula is quoted."""
    out = io.StringIO()
    table = csv.writer(out, lineterminator="\n")
    table.writerow(columns)
    for line in lines:
        table.writerow([harmless(line[name]) for name in columns])
    return out.getvalue()


def harmless(value: Any) -> Any:
    """A cell that no spreadsheet runs, as OWASP advises."""
    return "'" + value if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r") else value


def _groups(request: Request) -> tuple[str, ...]:
    groups = tuple(dict.fromkeys(query.several(request.query_params, "group_by")))
    if len(groups) > 8:
        raise RequestError("group_by has more than 8 groups", param="group_by", code="too_many")
    return groups
