"""What stands when a server begins to answer."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import AsyncExitStack

from pydantic import SecretStr

from ponder.compute.lengths import Lengths
from ponder.metering.metrics import Metrics
from ponder.server.app import ServedModel
from ponder.server.opening import opened
from ponder.server.pages import Page
from ponder.server.settings import LedgerSettings, ModelSettings, Settings
from tests.server.serving import scripted


def test_all_pages_are_made_before_anybody_is_answered() -> None:
    """Made when it is first asked for, the first would hold up all streams for a tenth of a second."""
    settings = Settings(models={"demo": ModelSettings(path="none")}, ledger=LedgerSettings(url=SecretStr("none")))

    async def start(name: str, model: ModelSettings, stack: AsyncExitStack) -> Mapping[str, ServedModel]:
        return {name: ServedModel(scripted(), Lengths(15, 40), model)}

    async def go() -> None:
        async with opened(settings, start, metrics=Metrics()) as (app, _):
            pages = [route for route in app.routes if isinstance(route, Page)]
            assert pages
            assert all(page.is_made for page in pages)

    asyncio.run(go())
