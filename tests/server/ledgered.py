"""A door whose requests are written into a ledger."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx
from fastapi import FastAPI

from ponder.compute.engine import Engine
from ponder.metering.database import database
from ponder.metering.ledger import Ledger, open_ledger
from ponder.metering.metrics import Metrics
from tests.metering.ledgers import rows
from tests.server.serving import ASK, PATH, asked, door, events


@dataclass
class Ledgered:
    """The application, its ledger and where that lies."""

    app: FastAPI
    ledger: Ledger
    address: str

    async def chat(self, headers: Any = None, **body: Any) -> httpx.Response:
        return await asked(self.app, "POST", PATH["path"], json=ASK | body, headers=headers)

    async def get(self, url: str, **more: Any) -> httpx.Response:
        return await asked(self.app, "GET", url, **more)

    @property
    def rows(self) -> dict[str, Any]:
        return rows(self.address)


@asynccontextmanager
async def ledgered(engine: Engine, address: str, *args: Any, **more: Any) -> AsyncGenerator[Ledgered]:
    """More is as for `door`."""
    metrics = Metrics()
    checkpoint = more.pop("checkpoint", 256)
    ledger = await open_ledger(database(address), metrics, checkpoint=checkpoint)
    metrics.follow(ledger)
    try:
        yield Ledgered(door(engine, *args, metrics=metrics, ledger=ledger, **more), ledger, address)
    finally:
        await ledger.close()


def told(response: httpx.Response, stream: bool) -> dict[str, Any]:
    """The last word of an answer: with `usage` and `thinking`. A stream was asked with include_usage."""
    assert response.status_code == 200, response.text
    return events(response.text)[-1] if stream else response.json()


def options(stream: bool) -> dict[str, Any]:
    return {"stream": True, "stream_options": {"include_usage": True}} if stream else {}
