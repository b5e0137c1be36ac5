"""From settings to the application with all that it stands on, until the block ends: ledger, keys, models, receipts.

`ponder serve` serves it by its own HTTP server, a deployment of Ray Serve by Serve's.
"""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

from fastapi import FastAPI

from ponder.metering.metrics import Metrics
from ponder.server.accounting import keeping_account
from ponder.server.app import ServedModel, create_app
from ponder.server.auth.keys import Keyring
from ponder.server.auth.stored_keys import following
from ponder.server.dialect import Dialect
from ponder.server.pages import Page
from ponder.server.receipts import signing
from ponder.server.sealed_thoughts import sealing
from ponder.server.settings import ModelSettings, Settings
from ponder.server.tracing import tracing_if_wanted

log = logging.getLogger("ponder.server")

Start = Callable[[str, ModelSettings, AsyncExitStack], Awaitable[Mapping[str, ServedModel]]]
"""Starts one model with its adapters and its reward model, until the stack ends: what is served, by name."""


@asynccontextmanager
async def opened(
    settings: Settings,
    start: Start,
    *,
    metrics: Metrics,
    dialects: Sequence[Dialect] | None = None,
    engine_metrics: Callable[[], bytes] | None = None,
    source: Callable[[], Settings] | None = None,
    follows: bool = False,
) -> AsyncGenerator[tuple[FastAPI, Mapping[str, ServedModel]]]:
    """The application and its models, until the block ends. `follows`: another process of this server is still at
    work. What else is given is as for `create_app`. Raises `PonderError`."""
    models: dict[str, ServedModel] = {}
    async with AsyncExitStack() as stack:
        tracing = await stack.enter_async_context(tracing_if_wanted())
        account = keeping_account(settings.ledger, metrics, settings.owners, follows=follows)
        ledger = await stack.enter_async_context(account)
        keyring = Keyring(settings.keys, required=settings.require_key)
        stored = await stack.enter_async_context(following(ledger, keyring))
        signer = await signing(settings.receipts, ledger)
        seals = await asyncio.to_thread(sealing, settings.sealed_thoughts)
        for name, model in settings.served().items():
            log.info("loading %s (%s)", name, model.path)
            models |= await start(name, model, stack)
        # A million objects of the libraries are here to stay: no collection need look at them again.
        gc.collect()
        gc.freeze()
        app = create_app(
            settings,
            models,
            metrics=metrics,
            engine_metrics=engine_metrics,
            dialects=dialects,
            ledger=ledger,
            tracing=tracing,
            keyring=keyring,
            stored=stored,
            source=source,
            signer=signer,
            seals=seals,
        )
        for route in app.routes:
            if isinstance(route, Page):
                route.make()
        yield app, models
