"""The ledger held against the truth: what servers have written down, and what the model made."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from tests.metering.ledgers import Watched, a_ledger, rows
from tests.metering.truth import Truth

Row = Mapping[str, Any]


async def recovered(address: str) -> list[Row]:
    """What the next server settles. On PostgreSQL the session of one that died may be there a moment longer."""
    watched = Watched()
    async with asyncio.timeout(60):
        while True:
            async with a_ledger(address, watched):
                await asyncio.sleep(0)
            if all(row["settled_ms"] for row in rows(address).values()):
                return watched.rows
            await asyncio.sleep(0.05)


def compared(address: str, made: Truth, *, chains: int, checkpoint: int) -> dict[str, int]:
    """Holds all rows against what was made: no request without its row, none counted twice, never more billed than
    made, and at most one checkpoint of each of its chains missing where its server died. All that is settled is
    compared; the sums."""
    produced, found = made.made(), rows(address)
    assert not produced.keys() - found.keys(), "an intent is lost"
    told = {"requests": len(found), "lost": 0, "produced": 0, "billed": 0, "uncertain": 0, "longest_gap": 0}
    for name, row in found.items():
        assert row["settled_ms"], row
        billed, gap = row["thinking"] + row["answer"], produced[name] - row["thinking"] - row["answer"] - row["wasted"]
        if row["outcome"] == "lost":
            assert 0 <= gap <= row["uncertain"] <= chains * checkpoint, (row, gap)
            assert row["uncertain"] <= row["reserved"] - billed, row
            told["lost"] += 1
        else:
            assert (gap, row["uncertain"]) == (0, 0), (row, gap)
        told["produced"] += produced[name]
        told["billed"] += billed
        told["uncertain"] += row["uncertain"]
        told["longest_gap"] = max(told["longest_gap"], gap)
    return told
