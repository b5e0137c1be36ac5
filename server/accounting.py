"""The ledger of a server that is starting: opened before the first request, closed behind the last."""

from __future__ import annotations

import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from ponder.metering.ledger import Ledger, open_ledger
from ponder.metering.metrics import Metrics
from ponder.server.settings import LedgerSettings


@asynccontextmanager
async def keeping_account(settings: LedgerSettings, metrics: Metrics) -> AsyncGenerator[Ledger | None]:
    """The ledger that the settings name, for as long as the block lasts; None where there is to be none. Raises
    `NoLedger`."""
    place = settings.database
    if place is None:
        sys.stderr.write(
            "ponder: no ledger ([ledger] url is none): usage is known to /metrics alone and forgotten at the end, "
            "nothing can be billed from it, and GET /v1/usage has nothing to tell\n"
        )
        yield None
        return
    ledger = await open_ledger(place, metrics, checkpoint=settings.checkpoint, days=settings.retention_days)
    metrics.follow(ledger)
    sys.stderr.write(f"ponder: ledger: {place}\n")
    try:
        yield ledger
    finally:
        await ledger.close()
