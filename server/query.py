"""The parameters of a query, read in one place: each is a text, and what it must be is said in the same words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TypeVar

from starlette.datastructures import QueryParams

from ponder.compute.errors import RequestError
from ponder.metering.ledger import storable

Value = TypeVar("Value")


def wrong(param: str, words: str) -> RequestError:
    """What is raised where a parameter is not what it must be."""
    return RequestError(f"{param} is {words}", param=param, code="invalid_value")


def number(param: str, given: str | None, default: int, *, least: int = 0, most: int) -> int:
    """A whole number; `default`, which may be outside of that, where none is given. Raises `RequestError`."""
    if given is None:
        return default
    if not (given.isascii() and given.isdecimal() and len(given) <= 16 and least <= int(given) <= most):
        raise wrong(param, f"a whole number from {least} to {most}")
    return int(given)


def word(param: str, given: str | None, default: Value, meanings: Mapping[str, Value]) -> Value:
    """What one of some words means; `default` where none is given. Raises `RequestError`."""
    if given is None:
        return default
    if given not in meanings:
        raise wrong(param, " or ".join(meanings))
    return meanings[given]


def place(param: str, given: str, ids: Sequence[str], what: str) -> int:
    """Where an id stands among those of `what` there is. Raises `RequestError` where it is none of them."""
    if given not in ids:
        raise wrong(param, f"the id of no {what}")
    return ids.index(given)


def instant(param: str, given: str | None) -> int | None:
    """A moment in milliseconds since 1970, None where none is given. Raises `RequestError`."""
    return None if given is None else moment(param, given)


def moment(param: str, given: str) -> int:
    """A day, a moment (ISO 8601; UTC where it says nothing) or seconds since 1970, in milliseconds. Raises
    `RequestError`."""
    try:
        if given.isascii() and given.isdecimal() and len(given) <= 11:
            return int(given) * 1000
        found = datetime.fromisoformat(given.replace(" ", "+"))
        return int((found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp() * 1000)
    except (ValueError, OverflowError):
        raise wrong(param, "a day (2026-01-31), a moment (2026-01-31T12:00:00Z) or seconds since 1970") from None


def several(query: QueryParams, param: str) -> list[str]:
    """A list, in any of the ways in which clients write one; words as rows have them."""
    given = [*query.getlist(param), *query.getlist(f"{param}[]")]
    return [storable(word) for one in given for word in one.split(",") if word]
