"""The ledger of a server that is starting: opened before the first request, closed behind the last."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager

from ponder.metering.database import WrongAddress
from ponder.metering.ledger import Ledger, NoLedger, open_ledger
from ponder.metering.metrics import Metrics
from ponder.server.settings import LedgerSettings

log = logging.getLogger("ponder.server")


@asynccontextmanager
async def keeping_account(
    settings: LedgerSettings, metrics: Metrics, owners: Mapping[str, str] | None = None
) -> AsyncGenerator[Ledger | None]:
    """The ledger that the settings name, for as long as the block lasts; None where there is to be none. `owners` are
    as for `migrate`. Raises `NoLedger`."""
    try:
        place = settings.database
    except WrongAddress as error:
        raise NoLedger(str(error)) from None
    if place is None:
        log.warning(
            "no ledger ([ledger] url is none): usage is known to /metrics alone and forgotten at the end, nothing can "
            "be billed from it, and GET /v1/usage has nothing to tell"
        )
        yield None
        return
    ledger = await open_ledger(
        place, metrics, checkpoint=settings.checkpoint, days=settings.retention_days, owners=owners
    )
    metrics.follow(ledger)
    log.info("ledger: %s", place)
    try:
        yield ledger
    finally:
        await ledger.close()
