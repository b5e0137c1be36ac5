"""Ledgers in tests: what they are told of, and their rows as another process reads them."""

from __future__ import annotations

import resource
from collections.abc import AsyncGenerator, Callable, Generator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import insert, select, text

from ponder.compute.account import Intent
from ponder.metering.database import database
from ponder.metering.ledger import Ledger, open_ledger
from ponder.metering.tables import limit_leases, limit_windows, requests, servers


@dataclass
class Watched:
    """What a ledger tells its metrics."""

    rows: list[Mapping[str, Any]] = field(default_factory=list[Mapping[str, Any]])
    drift: list[int] = field(default_factory=list[int])
    commits: int = 0
    left: dict[tuple[str, str], int] = field(default_factory=dict[tuple[str, str], int])
    """By key and kind of limit."""

    def settled(self, row: Mapping[str, Any]) -> None:
        self.rows.append(row)

    def drifted(self, tokens: int) -> None:
        self.drift.append(tokens)

    def committed(self, seconds: float) -> None:
        self.commits += 1

    def limited(self, key: str, kind: str, limit: int, left: int) -> None:
        self.left[key, kind] = left


@asynccontextmanager
async def a_ledger(address: str, watched: Watched | None = None, **more: Any) -> AsyncGenerator[Ledger]:
    ledger = await open_ledger(database(address), watched or Watched(), **more)
    try:
        yield ledger
    finally:
        await ledger.close()


@contextmanager
def files_of_at_most(size: int) -> Generator[None]:
    """No file of this process may grow beyond so many bytes: what the system says then is what a full disk makes it
    say."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def intent(request: str = "req_1", **more: Any) -> Intent:
    facts: dict[str, Any] = {"prompt": 12, "thinking": 1000, "answer": 100, "timeout": 60.0}
    return Intent(request, "alice", "demo", "direct", **(facts | more))


def rows(address: str) -> dict[str, dict[str, Any]]:
    """All rows, by the ids of their requests."""
    engine = database(address).engine(reads=True)
    with engine.connect() as connection:
        found = {row["id"]: dict(row) for row in connection.execute(select(requests)).mappings()}
    engine.dispose()
    return found


def leases(address: str) -> Mapping[str, tuple[int, int]]:
    """By kind and begin of the window: what is leased in all, and what is spent."""
    engine = database(address).engine(reads=True)
    found: dict[str, tuple[int, int]] = {}
    with engine.connect() as connection:
        for row in connection.execute(select(limit_windows)).mappings():
            found[f"{row['kind']} {row['begun_ms']}"] = row["before"], row["before"]
        for row in connection.execute(select(limit_leases)).mappings():
            assert 0 <= row["spent"] <= row["leased"]
            leased, spent = found[f"{row['kind']} {row['begun_ms']}"]
            found[f"{row['kind']} {row['begun_ms']}"] = leased + row["leased"], spent + row["spent"]
    engine.dispose()
    return found


def processes(address: str) -> Sequence[Mapping[str, Any]]:
    engine = database(address).engine(reads=True)
    with engine.connect() as connection:
        found = [dict(row) for row in connection.execute(select(servers)).mappings()]
    engine.dispose()
    return found


def put(address: str, count: int, each: Callable[[int], dict[str, Any]] = lambda _: {}, **more: Any) -> None:
    """So many settled rows as some server has left them, `req_0` and on; `each` says what is different in one."""
    values = {"owner": "srv_gone", "epoch": 1, "begun_ms": 1000, "settled_ms": 2000, "key": "alice", "model": "demo"}
    values |= {"strategy": "direct", "budget": 100, "reserved": 120, "thinking": 10, "outcome": "answered"}
    engine = database(address).engine(long=True)
    with engine.begin() as connection:
        connection.execute(insert(requests), [{"id": f"req_{i}"} | values | more | each(i) for i in range(count)])
    engine.dispose()


def execute(address: str, statement: str, **values: Any) -> None:
    """What somebody else does to the database."""
    engine = database(address).engine(long=True)
    with engine.begin() as connection:
        connection.execute(text(statement), values)
    engine.dispose()
