"""A door whose keys stand in the settings and in the database of a ledger."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx
from fastapi import FastAPI
from sqlalchemy import Engine, select

from ponder.compute.engine import Engine as Model
from ponder.compute.lengths import Lengths
from ponder.metering import api_keys
from ponder.metering.audit import acts
from ponder.metering.database import database
from ponder.metering.ledger import open_ledger
from ponder.metering.metrics import Metrics
from ponder.metering.tables import requests
from ponder.server.app import ServedModel, create_app
from ponder.server.auth.keys import Keyring, digest, make, new_id
from ponder.server.auth.stored_keys import following
from ponder.server.settings import KeySettings, ModelSettings, Settings
from tests.server.serving import ASK, PATH, asked, scripted

ROOT = KeySettings(name="root", hash=digest("pk-root"), scopes=frozenset({"usage", "admin"}))
ALICE = KeySettings(name="alice", hash=digest("pk-alice"))


@dataclass
class Keyed:
    """The application, its keys and where its ledger lies."""

    app: FastAPI
    keyring: Keyring
    address: str
    metrics: Metrics

    async def ask(self, secret: str | None, method: str, url: str, **more: Any) -> httpx.Response:
        """One request with a secret."""
        headers: Mapping[str, str] = more.pop("headers", {})
        own = {} if secret is None else {"authorization": f"Bearer {secret}"}
        return await asked(self.app, method, url, headers={**own, **headers}, **more)

    async def chat(self, secret: str | None, **body: Any) -> httpx.Response:
        return await self.ask(secret, "POST", PATH["path"], json=ASK | body)

    async def root(self, method: str, url: str, **more: Any) -> httpx.Response:
        """The same by an administrator."""
        return await self.ask("pk-root", method, url, **more)

    async def made(self, **wish: Any) -> dict[str, Any]:
        """A new key, as its maker is told of it."""
        answer = await self.root("POST", "/v1/keys", json=wish)
        assert answer.status_code == 201, answer.text
        return answer.json()

    async def until(self, secret: str | None, status: int, method: str = "GET", url: str = "/v1/models") -> None:
        """Returns when this secret is answered so: by then the server has heard of what somebody else did."""
        async with asyncio.timeout(60):
            while (await self.ask(secret, method, url)).status_code != status:  # noqa: ASYNC110
                await asyncio.sleep(0.02)


@asynccontextmanager
async def keyed(
    address: str,
    settings: Settings | None = None,
    *,
    engine: Model | None = None,
    source: Callable[[], Settings] | None = None,
    clock: Callable[[], float] = time.time,
) -> AsyncGenerator[Keyed]:
    """Serves one model; `clock` is what keys expire by."""
    settings, metrics = settings or Settings(keys=[ROOT, ALICE]), Metrics()
    ledger = await open_ledger(database(address), metrics, owners=settings.owners)
    keyring = Keyring(settings.keys, required=settings.require_key, clock=clock)
    try:
        async with following(ledger, keyring) as stored:
            served = {"demo": ServedModel(engine or scripted(), Lengths(20, 40), ModelSettings(path="scripted"))}
            app = create_app(
                settings, served, metrics=metrics, ledger=ledger, keyring=keyring, stored=stored, source=source
            )
            yield Keyed(app, keyring, address, metrics)
    finally:
        await ledger.close()


def elsewhere(address: str, work: Callable[[Engine], Any]) -> Any:
    """What another process does to the database."""
    engine = database(address).engine(long=True)
    try:
        return work(engine)
    finally:
        engine.dispose()


def put(address: str, name: str, **more: Any) -> tuple[str, str]:
    """A key that another process makes: its secret and its id."""
    secret, hash = make()
    id = new_id()
    words: dict[str, Any] = {"scopes": ["infer", "usage"], **more}
    elsewhere(address, lambda engine: api_keys.create(engine, "somebody", id=id, hash=hash, name=name, **words))
    return secret, id


def audited(address: str) -> list[dict[str, Any]]:
    """What the audit has."""
    return elsewhere(address, lambda engine: list(acts(engine)))


def owners(address: str) -> list[tuple[str, str]]:
    """Whose the rows of the ledger are: names and ids, in the order of their requests."""

    def read(engine: Engine) -> list[tuple[str, str]]:
        with engine.connect() as connection:
            wanted = select(requests.c.key, requests.c.key_id).order_by(requests.c.begun_ms, requests.c.id)
            return [(row.key, row.key_id) for row in connection.execute(wanted)]

    return elsewhere(address, read)
