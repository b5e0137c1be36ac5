"""The ledger of a server that is starting: opened before the first request, closed behind the last."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager

from sqlalchemy.exc import SQLAlchemyError

from ponder.metering import upkeep
from ponder.metering.database import Database, WrongAddress
from ponder.metering.ledger import Ledger, NoLedger, open_ledger
from ponder.metering.metrics import Metrics
from ponder.metering.migrate import OtherVersion
from ponder.server.settings import LedgerSettings

log = logging.getLogger("ponder.server")


@asynccontextmanager
async def keeping_account(
    settings: LedgerSettings, metrics: Metrics, owners: Mapping[str, str] | None = None, *, follows: bool = False
) -> AsyncGenerator[Ledger | None]:
    """The ledger that the settings name, for as long as the block lasts; None where there is to be none. `owners` are
    as for `migrate`. `follows`: an older process writes to it, so it is of this version or not opened. Raises
    `NoLedger`."""
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
    if follows:
        await asyncio.to_thread(_of_this_version, place)
    ledger = await open_ledger(
        place, metrics, checkpoint=settings.checkpoint, days=settings.retention_days, owners=owners
    )
    metrics.follow(ledger)
    log.info("ledger: %s", place)
    try:
        yield ledger
    finally:
        await ledger.close()


def _of_this_version(place: Database) -> None:
    """Raises `NoLedger` for a ledger that would be brought to this version under the process that writes to it. What
    else may be wrong with it is found when it is opened."""
    try:
        upkeep.readable(place).dispose()
    except OtherVersion as error:
        raise NoLedger(f"{error} when the process before this one has ended, or restart the server") from None
    except (upkeep.NoSuchLedger, SQLAlchemyError, OSError):
        pass
