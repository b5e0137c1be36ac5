"""The ledger of a simulation decides and writes as the one of a server does, whose writer is a thread and whose rows
lie in a file."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path
from typing import Any

import pytest

from ponder.compute.account import Bill, Intent
from ponder.compute.errors import NotNow
from ponder.compute.price import Price
from ponder.compute.quota import Quota
from ponder.compute.usage import Usage
from ponder.metering.database import database
from ponder.metering.ledger import Ledger, open_ledger
from ponder.metering.metrics import Metrics
from tests.metering.ledgers import rows
from tests.simulation.database import Disk, SimulatedLedger
from tests.simulation.loop import SeededLoop
from tests.simulation.world import World, drawn

OPERATIONS = 60
AT = 1_770_000_000_000
"""The machine's clock, in milliseconds since 1970."""
QUOTAS = (None, Quota(inflight=2), Quota(minute=4000), Quota(day=9000, inflight=3), Quota(nano_usd=30_000))
PRICE = Price("book", prompt=1_000_000, cached=500_000, thinking=4_000_000, answer=4_000_000, verifier=0)
COMPARED = (
    "key",
    "prompt",
    "thinking",
    "answer",
    "wasted",
    "outcome",
    "reserved",
    "cost_nano_usd",
    "uncertain",
    "chains",
)


async def history(ledger: Ledger, seed: int) -> list[str]:
    """Random operations, one after the other, and what each came to."""
    chance, told = random.Random(seed), list[str]()
    open_: list[tuple[str, int, Bill]] = []
    for number in range(OPERATIONS):
        if open_ and chance.random() < 0.45:
            id, most, bill = open_.pop(chance.randrange(len(open_)))
            used = chance.randint(0, most)
            ending = chance.choice(("answered", "failed", "disconnected"))
            await bill.settle(Usage(prompt=10, hidden=used, visible=chance.randint(0, 50), wasted=used // 9), ending)
            told.append(f"{id} settled")
            continue
        which, most = chance.randrange(len(QUOTAS)), chance.choice((100, 1000, 3000))
        intent = Intent(
            f"req_{number}",
            f"key{which}",
            "demo",
            "direct",
            prompt=10,
            thinking=most,
            answer=50,
            timeout=600,
            price=PRICE,
            quota=QUOTAS[which],
            whole=chance.random() < 0.5,
        )
        try:
            bill = await ledger.reserve(intent)
        except NotNow as refusal:
            told.append(f"req_{number} {refusal.code}")
        else:
            told.append(f"req_{number} begun")
            open_.append((f"req_{number}", most, bill))
    for _, _, bill in open_:
        await bill.settle(Usage(), "cancelled")
    return told


def kept(found: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """What does not depend on when it was."""
    return {id: {name: row[name] for name in COMPARED} for id, row in found.items()}


@pytest.mark.parametrize("seed", range(4))
def test_the_same_operations_come_to_the_same(seed: int, tmp_path: Path) -> None:
    address = f"sqlite:///{tmp_path}/ledger.db"

    async def real() -> list[str]:
        ledger = await open_ledger(database(address), Metrics(), clock=lambda: AT)
        try:
            return await history(ledger, seed)
        finally:
            await ledger.close()

    async def simulated(loop: SeededLoop) -> tuple[list[str], dict[str, Any]]:
        world = World(drawn(seed).without(*drawn(seed).faults), loop)
        disk = Disk(world)
        ledger = SimulatedLedger(disk, Metrics(), 256)
        await ledger.start()
        told = await history(ledger, seed)
        await ledger.close()
        return told, disk.rows()

    loop = SeededLoop(random.Random(seed))
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        told, written = runner.run(simulated(loop))
    assert told == asyncio.run(real())
    assert kept(written) == kept(rows(address))
    refused = {line.split()[1] for line in told}
    assert "begun" in refused
    assert len(refused) > 2, "no limit was reached"
