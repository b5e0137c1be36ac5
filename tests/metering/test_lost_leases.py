"""The database goes away while a server leases from a limit or gives back: nobody knows whether it has heard of that.
What was leased in vain must not be missing for good."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from ponder.compute.account import Intent
from ponder.compute.errors import Unavailable
from ponder.compute.quota import Quota
from ponder.metering.leases import Ask, Kind, Lease, Window
from ponder.metering.limits import IDLE, Limits
from ponder.testing import in_virtual_time


def nothing() -> None:
    """Nobody wants to know."""


@dataclass
class Away:
    """What the database has of the one limit of one server. It may go away before it hears of something, or behind."""

    leased: int = 0
    before: int = 0
    """So many are not heard of."""
    behind: int = 0
    """So many are done, and nobody is told."""
    epoch: int = 1

    def _hears(self) -> bool:
        self.before -= 1
        return self.before < 0

    def _tells(self) -> bool:
        self.behind -= 1
        return self.behind < 0

    def lease(self, ask: Ask, heard: Callable[[Lease | None, int], None]) -> None:
        if not self._hears():
            heard(None, self.epoch)
            return
        added = min(ask.amount, ask.limit - self.leased)
        self.leased += added
        told = Lease(added, self.leased, 0, 0, 0) if self._tells() else None
        asyncio.get_running_loop().call_soon(heard, told, self.epoch)

    def give_back(self, window: Window, amount: int, epoch: int, lost: Callable[[], None] = nothing) -> None:
        if self._hears():
            self.leased -= amount
            if self._tells():
                return
        lost()


def intent() -> Intent:
    return Intent("req_1", "key", "demo", "direct", prompt=1, thinking=0, answer=1, timeout=60, quota=Quota(inflight=1))


def untold(key: str, kind: Kind, limit: int, left: int) -> None:
    """Nor how much is left."""


def limits_of(database: Away) -> Limits:
    return Limits(database, lambda: 0, untold)


async def one(limits: Limits) -> None:
    """A request that comes and goes."""
    holding = await limits.begin(intent(), 0)
    assert holding is not None
    holding.drop()


def test_a_place_is_given_back_as_soon_the_second_time_as_the_first() -> None:
    async def asking() -> None:
        database = Away()
        limits = limits_of(database)
        for _ in range(3):
            await one(limits)
            assert database.leased == 1
            await asyncio.sleep(2.5 * IDLE)
            assert database.leased == 0, "other servers miss it"

    in_virtual_time(asking())


def test_a_server_that_was_taken_for_dead_and_has_no_place_leases_one_anew() -> None:
    async def asking() -> None:
        database = Away()
        limits = limits_of(database)
        await one(limits)
        await asyncio.sleep(2.5 * IDLE)
        database.epoch = 2
        await one(limits)

    in_virtual_time(asking())


def test_a_place_that_was_given_back_in_vain_is_given_back_again() -> None:
    async def asking() -> None:
        database = Away()
        limits = limits_of(database)
        await one(limits)
        database.before = 2
        await asyncio.sleep(8 * IDLE)
        assert database.leased == 0, "other servers miss it"
        await one(limits)

    in_virtual_time(asking())


def test_a_place_that_was_given_back_and_nobody_said_so_is_there() -> None:
    async def asking() -> None:
        database = Away()
        limits = limits_of(database)
        await one(limits)
        database.behind = 1
        await asyncio.sleep(8 * IDLE)
        assert database.leased == 0
        await one(limits)
        assert database.leased == 1

    in_virtual_time(asking())


def test_a_place_that_was_leased_and_nobody_said_so_is_used_or_given_back() -> None:
    async def asking() -> None:
        database = Away(behind=1)
        limits = limits_of(database)
        try:
            await one(limits)
        except Unavailable:
            assert database.leased == 1
        await asyncio.sleep(8 * IDLE)
        assert database.leased == 0, "other servers miss it"
        await one(limits)
        # The same where the server knows the limit already.
        await asyncio.sleep(8 * IDLE)
        database.behind = 1
        try:
            await one(limits)
        except Unavailable:
            assert database.leased == 1
        await one(limits)

    in_virtual_time(asking())


async def gone_while_it_asks(limits: Limits) -> None:
    """A request whose caller goes when the database has been asked for its place."""
    asking = asyncio.create_task(limits.begin(intent(), 0))
    for _ in range(3):
        await asyncio.sleep(0)
    asking.cancel()
    await asyncio.wait([asking])


def test_a_place_that_is_leased_for_who_has_gone_meanwhile_is_given_back() -> None:
    database = Away()

    async def work() -> None:
        limits = limits_of(database)
        await gone_while_it_asks(limits)
        await asyncio.sleep(2 * IDLE + 1)
        assert database.leased == 0
        limits.close()

    in_virtual_time(work())


def test_a_place_that_is_leased_under_another_epoch_for_who_has_gone_meanwhile_is_given_back() -> None:
    database = Away()

    async def work() -> None:
        limits = limits_of(database)
        await one(limits)
        await asyncio.sleep(8 * IDLE)
        # Others have taken the process for dead.
        database.leased, database.epoch = 0, 2
        await gone_while_it_asks(limits)
        await asyncio.sleep(2 * IDLE + 1)
        assert database.leased == 0
        limits.close()

    in_virtual_time(work())


@pytest.mark.parametrize("ended", [False, True])
def test_a_place_that_runs_on_under_another_epoch_is_given_back_when_it_ends(ended: bool) -> None:
    """The server hears of the epoch while it runs, or has just ended, by a lease of another limit."""
    database = Away()

    async def work() -> None:
        limits = limits_of(database)
        holding = await limits.begin(intent(), 0)
        assert holding is not None
        # Others have taken the process for dead; what runs has kept its place.
        database.epoch = 2
        if ended:
            holding.drop()
        limits.fenced(2)
        if not ended:
            holding.drop()
        await asyncio.sleep(4 * IDLE)
        assert database.leased == 0
        limits.close()

    in_virtual_time(work())


def test_a_place_that_was_given_back_under_an_earlier_epoch_is_given_back_under_the_next() -> None:
    """Which the server hears of by a lease of another limit before it has asked what became of the place."""
    database = Away()

    async def work() -> None:
        limits = limits_of(database)
        await one(limits)
        database.epoch, database.before = 2, 1
        while database.before > 0:  # noqa: ASYNC110 (the database tells nobody)
            await asyncio.sleep(IDLE / 20)
        limits.fenced(2)
        await asyncio.sleep(8 * IDLE)
        assert database.leased == 0, "other servers miss it"
        limits.close()

    in_virtual_time(work())
