"""What tests of kept responses share: a server that keeps them, and what is asked of it."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import httpx

from ponder.compute.engine import Engine
from ponder.compute.lengths import Lengths
from ponder.metering.database import database
from ponder.metering.ledger import open_ledger
from ponder.metering.metrics import Metrics
from ponder.server.app import ServedModel, create_app
from ponder.server.settings import ModelSettings, Settings
from tests.server.ledgered import Ledgered
from tests.server.resent import turns
from tests.server.serving import Line, asked, its_door

CREATE = "/v1/responses"
ASK: dict[str, Any] = {"model": "demo", "input": "What is 3 + 4?"}


class Server(Ledgered):
    """One that keeps responses."""

    async def create(self, headers: Mapping[str, str] | None = None, **body: Any) -> httpx.Response:
        return await asked(self.app, "POST", CREATE, json=ASK | body, headers=headers)

    async def created(self, **body: Any) -> dict[str, Any]:
        response = await self.create(**body)
        assert response.status_code == 200, response.text
        return response.json()

    async def one(self, id: str, path: str = "", **more: Any) -> httpx.Response:
        return await self.get(f"{CREATE}/{id}{path}", **more)

    async def response(self, id: str, **more: Any) -> dict[str, Any]:
        found = await self.one(id, **more)
        assert found.status_code == 200, found.text
        return found.json()

    async def cancel(self, id: str, **more: Any) -> httpx.Response:
        return await asked(self.app, "POST", f"{CREATE}/{id}/cancel", **more)

    async def delete(self, id: str, **more: Any) -> httpx.Response:
        return await asked(self.app, "DELETE", f"{CREATE}/{id}", **more)

    async def ended(self) -> None:
        """Returns when nothing runs behind its callers."""
        kept = its_door(self.app).kept
        while kept.runs:
            for run in list(kept.runs.values()):
                while not run.over:
                    await run.news()
            await turns(1)


@asynccontextmanager
async def keeping(
    engine: Engine, address: str, settings: Settings | None = None, **more: Any
) -> AsyncGenerator[Server]:
    """A server on a ledger. More is as for `create_app`."""
    metrics = Metrics()
    ledger = await open_ledger(database(address), metrics, checkpoint=more.pop("checkpoint", 256))
    metrics.follow(ledger)
    try:
        app = app_of(engine, settings, metrics=metrics, ledger=ledger, **more)
        try:
            yield Server(app, ledger, address)
        finally:
            await its_door(app).kept.close(20)
    finally:
        await ledger.close()


def app_of(engine: Engine, settings: Settings | None = None, **more: Any) -> Any:
    served = {"demo": ServedModel(engine, Lengths(20, 40), ModelSettings(path="scripted"))}
    return create_app(settings or Settings(), served, **more)


def events_of(text: str | bytes) -> list[dict[str, Any]]:
    """The events of a stream; what is between them is left out."""
    text = text.decode() if isinstance(text, bytes) else text
    blocks = [block for block in text.split("\n\n") if block and not block.startswith(":")]
    events = [json.loads(block.partition("\ndata: ")[2]) for block in blocks]
    assert [block.partition("\n")[0] for block in blocks] == [f"event: {event['type']}" for event in events]
    return events


def numbers(events: Sequence[Mapping[str, Any]]) -> list[int]:
    return [event["sequence_number"] for event in events]


def text_of(response: Mapping[str, Any]) -> str:
    said = [item for item in response["output"] if item["type"] == "message"]
    return "".join(part["text"] for item in said for part in item["content"])


class Reader(Line):
    """A connection that reads the stream of a response, or asks for one."""

    def __init__(self, method: str = "GET", path: str = CREATE, query: str = "", **body: Any) -> None:
        super().__init__()
        self._body = json.dumps(ASK | body).encode() if method == "POST" else b""
        self._scope = {
            "type": "http",
            "method": method,
            "path": path,
            "query_string": query.encode(),
            "http_version": "1.1",
            "headers": [(b"content-type", b"application/json")],
        }

    async def call(self, app: Any, key: str | None = None) -> None:
        await app(dict(self._scope), self.receive, self.send)

    @property
    def events(self) -> list[dict[str, Any]]:
        """Those that have come whole."""
        return events_of(self.text.rpartition(b"\n\n")[0])
