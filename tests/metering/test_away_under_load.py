"""The database goes away under load and comes back: who comes meanwhile is refused, and nothing that was made is
lost."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest

from ponder.compute.lengths import Lengths
from ponder.testing import Chain, always
from tests.metering.comparing import compared
from tests.metering.crashing import ASKED, CALLERS, CHAINS
from tests.metering.databases import PostgreSQL, postgresql
from tests.metering.ledgers import files_of_at_most
from tests.metering.truth import DistantEngine, truth
from tests.server.ledgered import Ledgered, ledgered
from tests.server.serving import Line

CHECKPOINT = 64
Away = Callable[[], AbstractAsyncContextManager[None]]
"""The database is away for as long as the block lasts."""


@asynccontextmanager
async def full() -> AsyncGenerator[None]:
    """As on a disk without room."""
    with files_of_at_most(1024):
        yield


def stopped(server: PostgreSQL, *, now: bool) -> Away:
    @asynccontextmanager
    async def away() -> AsyncGenerator[None]:
        await asyncio.to_thread(server.stop, now=now)
        yield
        await asyncio.to_thread(server.start)

    return away


def frozen(server: PostgreSQL) -> Away:
    @asynccontextmanager
    async def away() -> AsyncGenerator[None]:
        server.freeze()
        try:
            yield
        finally:
            server.thaw()

    return away


@pytest.mark.parametrize("times", [2, pytest.param(30, marks=[pytest.mark.soak, pytest.mark.timeout(7200)])])
def test_a_disk_that_is_full_under_load_loses_nothing(
    tmp_path: Path, times: int, record_property: Callable[[str, object], None]
) -> None:
    asyncio.run(taken_away(f"sqlite:///{tmp_path}/ledger.db", tmp_path, [full] * times, record_property))


@pytest.mark.parametrize("times", [1, pytest.param(20, marks=[pytest.mark.soak, pytest.mark.timeout(7200)])])
def test_a_postgresql_that_is_stopped_killed_and_frozen_under_load_loses_nothing(
    tmp_path: Path, times: int, record_property: Callable[[str, object], None]
) -> None:
    # What it has acknowledged must survive its death.
    with postgresql(durable=True) as server:
        ways = [stopped(server, now=False), stopped(server, now=True), frozen(server)] * times
        asyncio.run(taken_away(server.new(), tmp_path, ways, record_property))


async def taken_away(address: str, folder: Path, ways: list[Away], told: Callable[[str, object], None]) -> None:
    with truth(folder) as made:
        engine = DistantEngine(
            always(*(Chain("think about it\n" * n, f"It is {n}.") for n in (3, 9, 20))), socket=made.socket
        )
        answers, refused = list[int](), 0
        async with ledgered(engine, address, checkpoint=CHECKPOINT, lengths=Lengths(60, 300)) as on:
            async with asyncio.TaskGroup() as group:
                over = asyncio.Event()
                for number in range(CALLERS):
                    group.create_task(calling(on, number, answers, over))
                for away in ways:
                    await until(answered(answers, 200, CALLERS))
                    async with away():
                        before = len(answers)
                        await until(lambda: on.ledger.away)
                        await until(answered(answers, 503, 1))
                    await until(lambda: not on.ledger.away)
                    refused += answers[before:].count(503)
                over.set()
            writer = on.ledger._writer  # pyright: ignore[reportPrivateUsage]
            await until(lambda: not (on.ledger.unsettled or writer.pending))
            assert on.ledger.reserved == 0
        found = compared(address, made, chains=CHAINS, checkpoint=CHECKPOINT)
    assert set(answers) == {200, 503}
    assert found["lost"] == 0
    told("away", len(ways))
    told("refused", refused)
    for name in ("requests", "produced", "billed"):
        told(name, found[name])


async def calling(on: Ledgered, number: int, answers: list[int], over: asyncio.Event) -> None:
    chance = random.Random(number)
    while not over.is_set():
        line = Line(stream=bool(number % 2), **chance.choice(ASKED))
        if chance.random() < 0.2:
            asyncio.get_running_loop().call_later(chance.random() / 20, line.gone.set)
        await line.call(on.app)
        if line.sent:
            answers.append(line.sent[0]["status"])
        if answers[-1:] == [503]:
            await asyncio.sleep(0.05)


def answered(answers: list[int], status: int, times: int) -> Callable[[], bool]:
    """It was answered so, so many times from now on."""
    before = len(answers)
    return lambda: answers[before:].count(status) >= times


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(120):
        while not true():  # noqa: ASYNC110 - other threads and processes do it
            await asyncio.sleep(0.005)
