"""`kill -9` under load: no intent is lost, nothing is counted twice, and what is uncertain is bounded and said."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from pathlib import Path

import pytest

from tests.metering.crashing import CALLERS, servers
from tests.metering.ledgers import Watched, a_ledger, rows
from tests.metering.truth import Truth, truth

CHECKPOINT = 64


@pytest.mark.parametrize("times", [5, pytest.param(100, marks=pytest.mark.soak)])
def test_a_server_that_is_killed_on_sqlite_has_billed_nothing_that_was_not_made(tmp_path: Path, times: int) -> None:
    killed(f"sqlite:///{tmp_path}/ledger.db", tmp_path, times)


@pytest.mark.parametrize("times", [5, pytest.param(30, marks=pytest.mark.soak)])
def test_a_server_that_is_killed_on_postgresql_has_billed_nothing_that_was_not_made(
    a_postgresql: object, tmp_path: Path, times: int
) -> None:
    killed(a_postgresql.new(), tmp_path, times)  # type: ignore[attr-defined]


def killed(address: str, folder: Path, times: int) -> None:
    chance = random.Random(times)
    with truth(folder) as made, servers(address, made.socket, CHECKPOINT) as forked:
        for _ in range(times):
            process = forked.begin()
            _wait(made, made.tokens + chance.randrange(300, 1500))
            os.kill(process, signal.SIGKILL)
        recovered = asyncio.run(_recovered(address))
    produced, found = made.made(), rows(address)
    lost = {name: row for name, row in found.items() if row["outcome"] == "lost"}
    assert 0 < len(lost) <= CALLERS * times
    assert set(recovered) <= lost.keys()
    assert not produced.keys() - found.keys(), "an intent is lost"
    assert all(row["settled_ms"] for row in found.values())
    for name, row in found.items():
        billed = row["thinking"] + row["answer"]
        if row["outcome"] != "lost":
            assert billed == produced[name], row
            assert row["uncertain"] == 0
        else:
            assert billed <= produced[name], row
            assert produced[name] - billed <= row["uncertain"], row
            assert row["uncertain"] <= row["reserved"] - billed
    assert sum(row["thinking"] + row["answer"] for row in lost.values()) > 0, "checkpoints are written"


def _wait(made: Truth, tokens: int) -> None:
    end = time.monotonic() + 120
    while made.tokens < tokens:
        assert time.monotonic() < end
        time.sleep(0.005)


async def _recovered(address: str) -> list[str]:
    """What the next server settles."""
    watched = Watched()
    async with a_ledger(address, watched):
        await asyncio.sleep(0)
    return [str(row["id"]) for row in watched.rows]
