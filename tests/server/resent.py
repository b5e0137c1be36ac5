"""What tests of `Idempotency-Key` share: a connection that sends one, a model that waits, rows that are kept."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import select

from ponder.compute.identity import CallIdentity
from ponder.metering.database import database
from ponder.metering.tables import idempotency
from ponder.testing import ScriptedEngine, always
from tests.server.serving import CHAIN, PATH, Line

NAME = "order-1"
KEY = {"idempotency-key": NAME}


def kept(address: str) -> list[dict[str, Any]]:
    """The rows of all keys."""
    engine = database(address).engine(reads=True)
    with engine.connect() as connection:
        found = [dict(row) for row in connection.execute(select(idempotency)).mappings()]
    engine.dispose()
    return found


@dataclass
class Held(ScriptedEngine):
    """Makes so many tokens, and then none until it is told to go on."""

    script: Any = field(default_factory=lambda: always(CHAIN))
    at: int = 10
    held: asyncio.Event = field(default_factory=asyncio.Event)
    on: asyncio.Event = field(default_factory=asyncio.Event)

    async def wait(self, call: CallIdentity) -> None:
        if self.produced >= self.at and not self.on.is_set():
            self.held.set()
            await self.on.wait()
        await super().wait(call)


class Keyed(Line):
    """A connection that sends a key."""

    def __init__(self, key: str = NAME, timeout: str = "500", **body: Any) -> None:
        super().__init__(**body)
        self._headers = [(b"idempotency-key", key.encode()), (b"x-request-timeout", timeout.encode())]

    async def call(self, app: Any, key: str | None = None) -> None:
        headers = [(b"content-type", b"application/json"), *self._headers]
        await app(PATH | {"headers": headers}, self.receive, self.send)

    @property
    def status(self) -> int:
        return self.sent[0]["status"]

    @property
    def headers(self) -> dict[str, str]:
        return {name.decode(): value.decode() for name, value in self.sent[0]["headers"]}

    @property
    def code(self) -> str:
        return json.loads(self.text)["error"]["code"]


async def turns(n: int = 20) -> None:
    for _ in range(n):
        await asyncio.sleep(0)


async def soon(true: Callable[[], bool]) -> None:
    """Waits for what another task or thread does."""
    async with asyncio.timeout(60):
        while not true():  # noqa: ASYNC110 - there is no event of it
            await asyncio.sleep(0.001)
