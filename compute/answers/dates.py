"""Dates and times of day as people write them, read only where one thing can be meant.

`dateutil` guesses: it takes `5am` for a day and `03/05/2024` for a month of its choice. Here what can be read in two
ways is compared as it is written.
"""

from __future__ import annotations

import re
from collections.abc import Hashable
from datetime import date
from typing import Final

from ponder.compute.answers.tables import listed

_MONTHS: Final = {
    name[:length]: number
    for number, name in enumerate(
        listed("january february march april may june july august september october november december"),
        1,
    )
    for length in (3, len(name))
} | {"sept": 9}
_MONTH = rf"({'|'.join(sorted(_MONTHS, key=len, reverse=True))})\.?"
_DAYS = r"(?:(?:mon|tues|wednes|thurs|fri|satur|sun)day,?\s+)?(?:the\s+)?"
_PATTERNS: Final = tuple(
    (re.compile(pattern, re.IGNORECASE), order)
    for pattern, order in (
        (rf"{_DAYS}{_MONTH}\s+(\d{{1,2}})(?:st|nd|rd|th)?(?:\s*,?\s*(\d{{4}}))?", "mdy"),
        (rf"{_DAYS}(\d{{1,2}})(?:st|nd|rd|th)?\s+(?:of\s+)?{_MONTH}(?:\s*,?\s*(\d{{4}}))?", "dmy"),
        (rf"(\d{{1,2}})-{_MONTH}-(\d{{4}})", "dmy"),
        (rf"{_MONTH}\s*,?\s+(\d{{4}})", "my"),
        (r"(\d{4})[-/.](\d{1,2})[-/.](\d{1,2})", "ymd"),
        (r"(\d{4})\s?年\s?(\d{1,2})\s?月\s?(\d{1,2})\s?[日号]?", "ymd"),
        (r"(\d{4})\s?년\s?(\d{1,2})\s?월\s?(\d{1,2})\s?일", "ymd"),
        (r"(\d{1,2})\s?月\s?(\d{1,2})\s?[日号]", "md"),
    )
)
_SLASHED = re.compile(r"(\d{1,2})([/.-])(\d{1,2})\2(\d{4})")
_TIME = re.compile(r"(\d{1,2})(?:[:.h](\d\d))?(?::(\d\d))?\s?(a\.?\s?m\.?|p\.?\s?m\.?|noon|midnight)", re.IGNORECASE)
_CLOCK = re.compile(r"(\d{1,2}):(\d\d)(?::(\d\d))?(?:\s?(?:h|hours|hrs|uhr))?", re.IGNORECASE)
_TIME_ZONE = re.compile(r"\s+(UTC|GMT|EST|EDT|CST|CDT|MST|MDT|PST|PDT|CET|CEST|Z)$")


def moment(text: str) -> Hashable | None:
    """What a date or a time of day is compared by; None for any other text."""
    zone = _TIME_ZONE.search(text)
    if zone is not None:
        found = _time(text[: zone.start()])
        return None if found is None else (found, zone[1])
    return _date(text) or _time(text)


def _date(text: str) -> Hashable | None:
    for pattern, order in _PATTERNS:
        if (found := pattern.fullmatch(text)) is None:
            continue
        parts = dict(zip(order, found.groups(), strict=True))
        month = parts["m"].casefold().rstrip(".")
        return _day(parts.get("y"), _MONTHS.get(month) or int(month), parts.get("d"))
    if (found := _SLASHED.fullmatch(text)) is not None:
        first, second, year = int(found[1]), int(found[3]), found[4]
        if first > 12 or second > 12 or first == second:
            month, day = (second, first) if first > 12 else (first, second)
            return _day(year, month, str(day))
        return "date, in either order", first, second, year
    return None


def _day(year: str | None, month: int, day: str | None) -> Hashable | None:
    try:
        date(int(year or 2000), month, int(day or 1))
    except ValueError:
        return None
    return "date", year and int(year), month, day and int(day)


def _time(text: str) -> Hashable | None:
    if (found := _TIME.fullmatch(text)) is not None:
        hour, minute, second = (int(part or 0) for part in found.groups()[:3])
        half = found[4].casefold()[0]
        if not 1 <= hour <= 12 or minute > 59 or second > 59:
            return None
        return "time", hour % 12 + (12 if half in "pn" else 0), minute, second
    if text.casefold() in ("noon", "midnight", "midday"):
        return "time", 0 if text.casefold() == "midnight" else 12, 0, 0
    if (found := _CLOCK.fullmatch(text)) is not None:
        hour, minute, second = (int(part or 0) for part in found.groups())
        if hour > 23 or minute > 59 or second > 59:
            return None
        # Whether 3:30 is in the morning is not said; 15:30 and 00:30 say it.
        return ("time", hour, minute, second) if hour > 12 or not hour else ("clock", hour, minute, second)
    return None
