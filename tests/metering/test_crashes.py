"""`kill -9` under load: no intent is lost, nothing is counted twice, and what is uncertain is bounded and said."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.metering.comparing import compared, recovered
from tests.metering.crashing import CALLERS, CHAINS, servers
from tests.metering.databases import PostgreSQL
from tests.metering.ledgers import leases, rows
from tests.metering.truth import Truth, truth

CHECKPOINT = 64


@pytest.mark.parametrize("times", [5, pytest.param(100, marks=[pytest.mark.soak, pytest.mark.timeout(7200)])])
def test_a_server_that_is_killed_on_sqlite_has_billed_nothing_that_was_not_made(
    tmp_path: Path, times: int, record_property: Callable[[str, object], None]
) -> None:
    killed(f"sqlite:///{tmp_path}/ledger.db", tmp_path, times, record_property)


@pytest.mark.parametrize("times", [5, pytest.param(30, marks=[pytest.mark.soak, pytest.mark.timeout(7200)])])
def test_a_server_that_is_killed_on_postgresql_has_billed_nothing_that_was_not_made(
    a_postgresql: PostgreSQL, tmp_path: Path, times: int, record_property: Callable[[str, object], None]
) -> None:
    killed(a_postgresql.new(), tmp_path, times, record_property)


def killed(address: str, folder: Path, times: int, told: Callable[[str, object], None]) -> None:
    chance, counted, found = random.Random(times), 0, dict[str, int]()
    with truth(folder) as made, servers(address, made.socket, CHECKPOINT) as forked:
        for _ in range(times):
            process = forked.begin()
            _wait(made, made.tokens + chance.randrange(300, 1500))
            os.kill(process, signal.SIGKILL)
            forked.ended()
            # A server is started again, and settles what the dead one has left.
            counted += len(asyncio.run(recovered(address)))
            found = compared(address, made, chains=CHAINS, checkpoint=CHECKPOINT)
    assert counted == found["lost"], "each is told once"
    assert 0 < found["lost"] <= CALLERS * times
    assert found["billed"] > found["requests"]
    # Of the limits of their key, the servers have left what their rows say.
    spent = sum(row["thinking"] for row in rows(address).values())
    for kind in ("day", "month"):
        taken = [pair for name, pair in leases(address).items() if name.startswith(kind)]
        assert (sum(pair[0] for pair in taken), sum(pair[1] for pair in taken)) == (spent, spent)
    told("kills", times)
    for name, value in found.items():
        told(name, value)


def _wait(made: Truth, tokens: int) -> None:
    end = time.monotonic() + 120
    while made.tokens < tokens:
        assert time.monotonic() < end
        time.sleep(0.005)
