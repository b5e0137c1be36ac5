"""How near API keys are to their limits: `GET /v1/limits`.

Counted from the rows of the ledger, as bills are, and not from what servers have leased: so it is the same on each of
them. A key sees its own limits, one with the scope `admin` those of all keys.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, Field
from sqlalchemy import Engine, func, select

from ponder.compute.price import NANO
from ponder.metering.leases import Kind, Window, window
from ponder.metering.ledger import Ledger
from ponder.metering.report import Question, sums
from ponder.metering.tables import requests
from ponder.server.auth.access import Caller
from ponder.server.auth.keys import Key, Keyring
from ponder.server.usage import UsageReports

MOST = 1000
"""Limits that are told."""

Unit = Literal["tokens", "usd", "requests"]
UNITS: Mapping[Kind, Unit] = {
    "inflight": "requests",
    "minute": "tokens",
    "day": "tokens",
    "month": "tokens",
    "usd": "usd",
}
NAMES: Mapping[Kind, str] = {
    "inflight": "max_inflight",
    "minute": "thinking_tokens_per_minute",
    "day": "thinking_tokens_per_day",
    "month": "thinking_tokens_per_month",
    "usd": "usd_per_month",
}
"""What they are called in the limits of a key."""


class KeyLimit(BaseModel):
    """A limit of an API key, and how near the key is to it."""

    object: Literal["limit"] = "limit"
    key: str = Field(description="The name of the key")
    name: str = Field(description="What the limit is called in the limits of a key")
    unit: Unit
    limit: float
    used: float = Field(description="By requests of the window that have ended; of max_inflight by those that run")
    share: float = Field(description="Used, of the limit: 1 is all of it")
    began_at: int | None = Field(description="When the window began, in Unix seconds; null where there is none")
    ends_at: int | None = Field(description="When it ends, and the next one begins")


class KeyLimits(BaseModel):
    """Those that are nearest first, a thousand at most."""

    object: Literal["list"] = "list"
    data: list[KeyLimit]


@dataclass(frozen=True, slots=True)
class _Limit:
    """A limit as it is counted."""

    window: Window
    amount: int


class LimitsPage:
    """The endpoint."""

    def __init__(self, keyring: Keyring, ledger: Ledger | None, reports: UsageReports) -> None:
        self._keyring, self._ledger, self._reports = keyring, ledger, reports

    async def limits(self, key: Caller) -> KeyLimits:
        """Lists the limits of this key, with the scope `admin` those of all keys, and how much of each is used. What
        running requests have reserved is not in it."""
        keys = self._keyring.callers if key.may("admin") else [key]
        found = await self._reports.read(lambda engine: self._found(engine, keys))
        found.sort(key=lambda one: -one.share)
        return KeyLimits(data=found[:MOST])

    def _found(self, engine: Engine, keys: Sequence[Key]) -> list[KeyLimit]:
        at_ms = self._ledger.now_ms if self._ledger is not None else 0
        limits = [one for key in keys for one in _limits(key, at_ms)]
        used: dict[tuple[str, Kind], int] = {}
        for kind in UNITS:
            of = [one.window for one in limits if one.window.kind == kind]
            if not of:
                continue
            used |= {(name, kind): amount for name, amount in _used(engine, kind, of[0], [one.key for one in of])}
        return [_told(one, used.get((one.window.key, one.window.kind), 0)) for one in limits]


def _limits(key: Key, at_ms: int) -> Iterator[_Limit]:
    if (quota := key.quota) is None:
        return
    amounts: Mapping[Kind, int | None] = {
        "inflight": quota.inflight,
        "minute": quota.minute,
        "day": quota.day,
        "month": quota.month,
        "usd": quota.nano_usd,
    }
    for kind, amount in amounts.items():
        if amount is not None:
            yield _Limit(window(key.name, kind, at_ms), amount)


def _used(engine: Engine, kind: Kind, of: Window, keys: Sequence[str]) -> Iterator[tuple[str, int]]:
    """What these keys have used of a limit of this kind, whose windows are alike."""
    if kind == "inflight":
        wanted = (
            select(requests.c.key, func.count())
            .where(requests.c.settled_ms.is_(None), requests.c.key.in_(keys))
            .group_by(requests.c.key)
        )
        with engine.connect() as connection:
            yield from ((row[0], int(row[1])) for row in connection.execute(wanted))
        return
    column = "cost_nano_usd" if kind == "usd" else "thinking"
    for line in sums(engine, Question(of.begun_ms, of.ends_ms, ("key",), {"key": keys})):
        yield line["key"], line[column]


def _told(one: _Limit, used: int) -> KeyLimit:
    kind, unit = one.window.kind, NANO if one.window.kind == "usd" else 1
    return KeyLimit(
        key=one.window.key,
        name=NAMES[kind],
        unit=UNITS[kind],
        limit=one.amount / unit,
        used=used / unit,
        share=round(used / one.amount, 6) if one.amount else 1.0,
        began_at=None if one.window.ends_ms is None else one.window.begun_ms // 1000,
        ends_at=None if one.window.ends_ms is None else one.window.ends_ms // 1000,
    )
