"""What was used and what it cost, added up from settled rows: by key, model, time, or what callers wrote down."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import ColumnElement, Engine, and_, func, literal_column, or_, select

from ponder.metering.tables import COUNTS, requests

HOUR = 3_600_000
"""Milliseconds."""
DAY = 24 * HOUR
TIMES = {"hour": HOUR, "day": DAY}
"""Groups of time, in UTC; a request belongs to the time at which it came."""
NAMES = ("key", "model", "strategy", "verifier", "user")
METADATA = re.compile(r"metadata\.([A-Za-z0-9_.-]{1,64})")
SUMS = ("requests", "unseen_requests", *COUNTS)
"""What every line of a report adds up: requests, those of them whose counts are the least that is certain, and all that
they used."""


@dataclass(frozen=True, slots=True)
class Question:
    """Which rows, and what they are grouped by. Times are milliseconds since 1970, from `begin_ms` and before
    `end_ms`."""

    begin_ms: int | None = None
    end_ms: int | None = None
    group_by: tuple[str, ...] = ()
    """Of `NAMES`, `TIMES` and `metadata.NAME`."""
    among: Mapping[str, Sequence[str]] = field(default_factory=dict[str, Sequence[str]])
    """By column, the values that count; a column that is not named counts with all."""
    width: int | None = None
    """Milliseconds of a bucket of time, which is a group of its own called `bucket`."""


def may_group(word: str) -> bool:
    """The word is one that rows can be grouped by."""
    return word in NAMES or word in TIMES or METADATA.fullmatch(word) is not None


def _group(word: str) -> ColumnElement[Any]:
    if word in NAMES:
        return requests.c[word]
    if word in TIMES:
        return bucket(TIMES[word])
    found = METADATA.fullmatch(word)
    if found is None:
        raise ValueError(word)
    return requests.c.metadata[found[1]].as_string()


def bucket(width: int) -> ColumnElement[Any]:
    """The beginning of the time a row belongs to."""
    return requests.c.begun_ms - requests.c.begun_ms % width


def asked(question: Question, wanted: Any) -> Any:
    """A selection, narrowed to the settled rows that a question is about."""
    wanted = wanted.where(requests.c.settled_ms.is_not(None))
    if question.begin_ms is not None:
        wanted = wanted.where(requests.c.begun_ms >= question.begin_ms)
    if question.end_ms is not None:
        wanted = wanted.where(requests.c.begun_ms < question.end_ms)
    for column, values in question.among.items():
        wanted = wanted.where(requests.c[column].in_(values))
    return wanted


Place = tuple[str | int | None, ...]
"""Where a line stands in a report: the values of its groups, the bucket first."""


def place(question: Question, line: Mapping[str, Any]) -> Place:
    """Where a line of `sums` stands."""
    bucket = () if question.width is None else (line["bucket"],)
    return (*bucket, *(line[word] for word in question.group_by))


def _behind(places: Sequence[ColumnElement[Any]], after: Place) -> ColumnElement[bool]:
    """Rows of lines that stand behind a place, in the order of `sums`."""
    ways: list[ColumnElement[bool]] = []
    for i, value in enumerate(after):
        same = [places[j].is_not_distinct_from(after[j]) for j in range(i)]
        ways.append(and_(*same, places[i].is_not(None) if value is None else places[i] > value))
    return or_(*ways)


def sums(
    engine: Engine, question: Question, *, after: Place | None = None, limit: int | None = None
) -> list[dict[str, Any]]:
    """The lines of a report, ordered by their groups: each has its groups by name and `SUMS`. Without groups it is one
    line. Times of groups are milliseconds since 1970. `after`: only lines behind that place, so that none comes twice
    and none is left out between two pages, whatever is written meanwhile."""
    groups = [_group(word) for word in question.group_by]
    if question.width is not None:
        groups.insert(0, bucket(question.width))
    wanted = asked(question, select())
    if after is not None:
        wanted = wanted.where(_behind(groups, after))
    names = [
        *(["bucket"] if question.width is not None else []),
        *(f"group_{i}" for i in range(len(question.group_by))),
    ]
    groups = [group.label(name) for group, name in zip(groups, names, strict=True)]
    totals = [func.coalesce(func.sum(requests.c[name]), 0).label(name) for name in COUNTS]
    unseen = func.count().filter(requests.c.unseen_calls > 0)
    wanted = wanted.add_columns(*groups, func.count().label("requests"), unseen.label("unseen_requests"), *totals)
    if groups:
        # By their names: the same parameter twice is not the same expression to PostgreSQL. Where there is nothing to
        # group by comes first, in both databases.
        places: list[ColumnElement[Any]] = [literal_column(name) for name in names]
        wanted = wanted.group_by(*places).order_by(*(place.nulls_first() for place in places))
    wanted = wanted.limit(limit) if limit is not None else wanted
    with engine.connect() as connection:
        found = connection.execute(wanted).mappings().all()
    return [_line(row, question) for row in found]


def _line(row: Mapping[Any, Any], question: Question) -> dict[str, Any]:
    line: dict[str, Any] = {} if question.width is None else {"bucket": int(row["bucket"])}
    for i, word in enumerate(question.group_by):
        value = row[f"group_{i}"]
        line[word] = int(value) if word in TIMES else value
    return line | {name: int(row[name]) for name in SUMS}


def dearest(engine: Engine, question: Question, limit: int) -> list[dict[str, Any]]:
    """The settled rows that cost most, of those a question is about; where nothing had a price, those with the most
    tokens. Its groups do not matter."""
    order = requests.c.cost_nano_usd.desc(), (requests.c.thinking + requests.c.answer).desc(), requests.c.id
    wanted = asked(question, select(requests)).order_by(*order).limit(limit)
    with engine.connect() as connection:
        return [dict(row) for row in connection.execute(wanted).mappings()]


def one(engine: Engine, request: str, key: str | None = None) -> dict[str, Any] | None:
    """The row of one request, settled or open; with `key`, the id of an API key, only where it is that key's."""
    wanted = select(requests).where(requests.c.id == request)
    if key is not None:
        wanted = wanted.where(requests.c.key_id == key)
    with engine.connect() as connection:
        found = connection.execute(wanted).mappings().one_or_none()
    return None if found is None else dict(found)
