"""The limits of keys in the ledger: nothing beyond them is reserved, by one server or by several, whatever breaks."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from ponder.compute.account import Progress
from ponder.compute.errors import NotNow, TooBusy, Unavailable, UsedUp
from ponder.compute.price import Price
from ponder.compute.quota import Drawing, Quota
from ponder.compute.usage import Usage
from ponder.metering.leases import window
from ponder.metering.ledger import Ledger, LedgerBill
from ponder.metering.limits import STEP
from tests.metering.ledgers import Watched, a_ledger, execute, files_of_at_most, intent, leases, rows

NOON = int(datetime(2026, 3, 31, 12, 0, 30, tzinfo=UTC).timestamp() * 1000)
PRICE = Price("v", prompt=100_000_000, cached=0, thinking=2_000_000_000, answer=4_000_000_000, verifier=0)
"""0.1, 2 and 4 USD for a million tokens."""


class Clock:
    """Milliseconds since 1970 that a test sets."""

    def __init__(self) -> None:
        self.ms = NOON

    def __call__(self) -> int:
        return self.ms

    def set(self, *when: int) -> None:
        self.ms = int(datetime(*when, tzinfo=UTC).timestamp() * 1000)  # type: ignore[arg-type]


@asynccontextmanager
async def limited(address: str, clock: Clock | None = None, watched: Watched | None = None) -> AsyncGenerator[Ledger]:
    async with a_ledger(address, watched, clock=clock or Clock()) as ledger:
        yield ledger


def leased(address: str, kind: str) -> tuple[int, int]:
    """The same of the one window of a kind."""
    (found,) = (pair for name, pair in leases(address).items() if name.startswith(kind))
    return found


async def begin(ledger: Ledger, request: str, quota: Quota, **more: Any) -> LedgerBill:
    return await ledger.reserve(intent(request, quota=quota, **({"thinking": 100, "answer": 10} | more)))


def drawing(bill: LedgerBill) -> Drawing:
    found = bill.drawing
    assert found is not None
    return found


async def all_at_once(ledgers: Sequence[Ledger], quota: Quota, n: int = 64) -> tuple[list[LedgerBill], list[NotNow]]:
    """Requests that come at the same moment, in turn to several servers: those that are begun, and why others are
    not."""
    asked = [asyncio.create_task(begin(ledgers[i % len(ledgers)], f"req_{i}", quota)) for i in range(n)]
    await asyncio.wait(asked)
    refused = [error for task in asked if isinstance(error := task.exception(), NotNow)]
    return [task.result() for task in asked if task.exception() is None], refused


async def refusal(ledger: Ledger, quota: Quota, **more: Any) -> NotNow:
    with pytest.raises(NotNow) as caught:
        await begin(ledger, "req_refused", quota, **more)
    return caught.value


def settled(address: str, key: str = "alice") -> int:
    """Hidden tokens of settled rows."""
    return sum(row["thinking"] for row in rows(address).values() if row["settled_ms"] and row["key"] == key)


def test_a_window_is_one_of_the_clock() -> None:
    def of(kind: Any, *when: int) -> tuple[str, str]:
        found = window("k", kind, int(datetime(*when, tzinfo=UTC).timestamp() * 1000))  # type: ignore[arg-type]
        assert found.ends_ms is not None
        first, last = (datetime.fromtimestamp(ms / 1000, UTC) for ms in (found.begun_ms, found.ends_ms))
        return f"{first:%m-%d %H:%M:%S}", f"{last:%m-%d %H:%M:%S}"

    assert of("minute", 2026, 3, 31, 23, 59, 59) == ("03-31 23:59:00", "04-01 00:00:00")
    assert of("minute", 2026, 4, 1, 0, 0, 0) == ("04-01 00:00:00", "04-01 00:01:00")
    assert of("day", 2026, 2, 28, 12) == ("02-28 00:00:00", "03-01 00:00:00")
    assert of("month", 2026, 2, 28, 12) == ("02-01 00:00:00", "03-01 00:00:00")
    assert of("usd", 2026, 12, 31, 23, 59) == ("12-01 00:00:00", "01-01 00:00:00")
    assert window("k", "inflight", NOON).ends_ms is None


@pytest.mark.parametrize("quota", [Quota(day=1000), Quota(month=1000, minute=5000), Quota(inflight=10)])
def test_of_64_requests_at_once_10_run_where_the_limit_is_for_10(address: str, quota: Quota) -> None:
    async def go() -> None:
        watched = Watched()
        async with limited(address, watched=watched) as ledger:
            begun, refused = await all_at_once([ledger], quota)
            assert (len(begun), len(refused)) == (10, 54)
            assert {(type(error), error.code) for error in refused} == {(TooBusy, "rate_limit_exceeded")}
            assert min(watched.left.values()) == 0
            if quota.inflight is not None:
                await begun[0].settle(Usage(hidden=100), "answered")
                await begin(ledger, "req_again", quota)
                return
            assert leased(address, "day" if quota.day else "month") == (1000, 0)
            for bill in begun:
                await bill.settle(Usage(hidden=100), "answered")
            assert leased(address, "day" if quota.day else "month") == (1000, 1000)
            error = await refusal(ledger, quota)
            assert (type(error), error.code) == (UsedUp, "insufficient_quota")
            when = "2026-04-01T00:00:00Z"
            assert "1000 thinking tokens are spent" in error.message
            assert "100 thinking tokens are wanted" in error.message
            assert when in error.message

    asyncio.run(go())


@pytest.mark.parametrize("quota", [Quota(day=1000), Quota(inflight=10)])
def test_two_servers_that_share_a_ledger_hold_a_limit_together(address: str, quota: Quota) -> None:
    async def go() -> None:
        async with limited(address) as one, limited(address) as other:
            begun, refused = await all_at_once([one, other], quota)
            assert 1 <= len(begun) <= 10
            assert len(begun) + len(refused) == 64
            kind, most = ("day", 1000) if quota.day else ("inflight", 10)
            assert leased(address, kind)[0] <= most
            for bill in begun:
                await bill.settle(Usage(hidden=100), "answered")
            more = [await _tried(ledger, f"more_{i}", quota) for i in range(3) for ledger in (one, other)]
            assert leased(address, kind)[0] <= most
            if quota.day:
                assert len(begun) + sum(bill is not None for bill in more) <= 10
                for bill in more:
                    if bill is not None:
                        await bill.settle(Usage(hidden=100), "answered")
                assert settled(address) <= 1000

    asyncio.run(go())


async def _tried(ledger: Ledger, request: str, quota: Quota) -> LedgerBill | None:
    try:
        return await begin(ledger, request, quota)
    except NotNow:
        return None


def test_a_large_budget_that_spends_little_takes_little_of_a_limit(address: str) -> None:
    """The calls of a request draw some thousand tokens at a time, and what they do not make is free at once."""

    async def go() -> None:
        quota = Quota(day=10_000)
        async with limited(address) as ledger:
            one = await begin(ledger, "req_1", quota, thinking=65_536)
            two = await begin(ledger, "req_2", quota, thinking=65_536)
            error = await refusal(ledger, quota, thinking=65_536)
            assert "reserved by requests that run" in error.message
            assert error.code == "rate_limit_exceeded"
            held = await drawing(one).draw(65_536)
            assert held == STEP
            drawing(one).give(held, 300)
            third = await begin(ledger, "req_3", quota, thinking=STEP - 500)
            for bill, hidden in ((one, 300), (two, 0), (third, 5)):
                await bill.settle(Usage(hidden=hidden), "answered")
            assert leased(address, "day")[1] == 305
            # With plenty left, a call draws all it may make.
            roomy = await begin(ledger, "req_4", Quota(month=10_000_000), thinking=65_536)
            assert await drawing(roomy).draw(65_536) == 65_536

    asyncio.run(go())


def test_calls_draw_until_a_limit_is_used_up_and_never_more(address: str) -> None:
    async def go() -> None:
        async with limited(address) as ledger:
            bill = await begin(ledger, "req_1", Quota(day=10_000, month=50_000), thinking=65_536)
            made = 0
            while drawn := await drawing(bill).draw(65_536 - made):
                made += drawn
                drawing(bill).give(drawn, drawn)
                assert leased(address, "day")[0] <= 10_000
            assert 10_000 - 1024 <= made <= 10_000
            assert not drawing(bill).take(10_001 - made)
            await bill.settle(Usage(hidden=made), "answered")
            assert leased(address, "day") == (leased(address, "day")[0], made)
            assert leased(address, "month")[1] == made

    asyncio.run(go())


def test_with_a_seed_all_is_reserved_before_it_begins_or_nothing(address: str) -> None:
    async def go() -> None:
        async with limited(address) as ledger:
            bill = await begin(ledger, "req_1", Quota(day=10_000), thinking=9_000, whole=True)
            assert bill.drawing is None
            assert leased(address, "day")[0] >= 9_000
            error = await refusal(ledger, Quota(day=10_000), thinking=2_000, whole=True)
            assert "reserved by requests that run" in error.message
            await bill.settle(Usage(hidden=9_000), "answered")
            error = await refusal(ledger, Quota(day=10_000), thinking=2_000, whole=True)
            assert isinstance(error, UsedUp)
            assert "a thinking_budget of at most 1000" in error.message
            await begin(ledger, "req_2", Quota(day=10_000), thinking=1_000, whole=True)

    asyncio.run(go())


def test_a_limit_of_a_minute_says_when_the_next_begins(address: str) -> None:
    async def go() -> None:
        clock = Clock()
        async with limited(address, clock) as ledger:
            bill = await begin(ledger, "req_1", Quota(minute=100))
            assert bill.headers() == {
                "x-ratelimit-limit-tokens": "100",
                "x-ratelimit-remaining-tokens": "0",
                "x-ratelimit-reset-tokens": "30s",
            }
            await bill.settle(Usage(hidden=90), "answered")
            error = await refusal(ledger, Quota(minute=100))
            assert (type(error), error.code, error.retry_after) == (TooBusy, "rate_limit_exceeded", 30)
            assert error.headers["x-ratelimit-remaining-tokens"] == "10"
            clock.ms += 30_000
            await begin(ledger, "req_2", Quota(minute=100))

    asyncio.run(go())


def test_a_request_counts_in_the_window_it_came_in_wherever_the_clock_goes(address: str) -> None:
    async def go() -> None:
        clock = Clock()
        async with limited(address, clock) as ledger:
            clock.set(2026, 3, 31, 23, 59, 59)
            old = await begin(ledger, "req_1", Quota(day=100))
            await refusal(ledger, Quota(day=100))
            clock.set(2026, 4, 1, 0, 0, 1)
            new = await begin(ledger, "req_2", Quota(day=100))
            await new.settle(Usage(hidden=40), "answered")
            await old.settle(Usage(hidden=100), "answered")
            assert sorted(leases(address).values()) == [(100, 40), (100, 100)]
            # Set back: what was spent then is known.
            clock.set(2026, 3, 31, 23, 0, 0)
            assert isinstance(await refusal(ledger, Quota(day=100)), UsedUp)
            clock.set(2026, 4, 1, 5, 0, 0)
            await begin(ledger, "req_3", Quota(day=100), thinking=60)
            assert isinstance(await refusal(ledger, Quota(day=100), thinking=61), UsedUp)

    asyncio.run(go())


def test_what_was_spent_before_there_was_a_limit_counts(address: str) -> None:
    async def go() -> None:
        clock = Clock()
        async with limited(address, clock) as ledger:
            for number, (day, hidden) in enumerate(((30, 500), (31, 70))):
                clock.set(2026, 3, day, 12, 0, 0)
                bill = await ledger.reserve(intent(f"req_{number}"))
                await bill.settle(Usage(hidden=hidden), "answered")
                assert bill.headers() == {}
            await begin(ledger, "req_3", Quota(day=170))
            assert isinstance(await refusal(ledger, Quota(day=169)), TooBusy)
            assert isinstance(await refusal(ledger, Quota(month=669)), UsedUp)

    asyncio.run(go())


def test_money_of_a_month_is_held_with_prompt_answer_and_thoughts(address: str) -> None:
    async def go() -> None:
        # 12 tokens of prompt, 10 of an answer, 100 hidden: 1200 + 40,000 + 200,000 nano-USD, and one for the rounding.
        cost, limit = 241_201, 500_000
        async with limited(address) as ledger:
            quota = Quota(nano_usd=limit)
            one = await begin(ledger, "req_1", quota, price=PRICE)
            assert leased(address, "usd")[0] >= cost
            two = await begin(ledger, "req_2", quota, price=PRICE)
            assert isinstance(await refusal(ledger, quota, price=PRICE), TooBusy)
            for bill in (one, two):
                await bill.settle(Usage(prompt=12, hidden=100, visible=10), "answered")
            assert leased(address, "usd")[1] == 2 * 241_200
            error = await refusal(ledger, quota, price=PRICE)
            assert isinstance(error, UsedUp)
            assert "0.000482 USD are spent" in error.message
            await begin(ledger, "req_3", quota)

    asyncio.run(go())


def test_what_reward_models_are_to_read_is_held_before_they_read_it(address: str) -> None:
    """0.1 USD for a million tokens of a reward model: 1,000 are 100,000 nano-USD."""

    async def go() -> None:
        price = replace(PRICE, verifier=100_000_000)
        async with limited(address) as ledger:
            bill = await begin(ledger, "req_1", quota := Quota(nano_usd=500_000), price=price)
            draws = drawing(bill)
            # 241,201 are reserved.
            assert await draws.hold(1000)
            held = [await asyncio.create_task(draws.hold(1000)) for _ in range(2)]
            assert held == [True, False]
            assert isinstance(await refusal(ledger, quota, price=price), TooBusy)
            draws.read(600)
            draws.release(1000)
            draws.release(1000)
            assert await draws.hold(1900)
            draws.read(1900)
            draws.release(1900)
            assert not await draws.hold(100)
            await bill.settle(Usage(prompt=12, hidden=100, visible=10, verifier=2500), "answered")
            assert leased(address, "usd")[1] == 241_200 + 250_000

    asyncio.run(go())


def test_with_a_seed_and_a_highest_cost_that_is_reserved_reading_included(address: str) -> None:
    async def go() -> None:
        async with limited(address) as ledger:
            quota = Quota(nano_usd=1_000_000)
            more: dict[str, Any] = {"price": PRICE, "whole": True, "max_cost": 600_000}
            bill = await begin(ledger, "req_1", quota, **more)
            assert leased(address, "usd")[0] >= 600_000
            assert isinstance(await refusal(ledger, quota, **more), TooBusy)
            await bill.settle(Usage(prompt=12, hidden=100, visible=10, verifier=100), "answered")

    asyncio.run(go())


def test_of_a_server_that_died_its_rows_say_what_it_has_spent(address: str) -> None:
    async def go() -> None:
        quota = Quota(day=1000, inflight=4)
        async with limited(address) as dead:
            done = await begin(dead, "req_1", quota)
            await done.settle(Usage(hidden=90), "answered")
            bill = await begin(dead, "req_2", quota, thinking=800)
            bill.follow(lambda: Progress(Usage(hidden=128), open=1, samples=0, stopped_by=None))
            bill.look()
            await until(lambda: rows(address)["req_2"]["thinking"] == 128)
            assert leased(address, "day")[0] >= 890
            # Its process is not the one that has this number now.
            execute(address, "UPDATE servers SET started = started - 1")
            if address.startswith("postgresql"):
                theirs = "datname = current_database() AND pid <> pg_backend_pid()"
                execute(address, f"SELECT pg_terminate_backend(pid, 20000) FROM pg_stat_activity WHERE {theirs}")
            async with limited(address) as other:
                assert leased(address, "day") == (90 + 128, 90 + 128)
                assert leased(address, "inflight") == (0, 0)
                await begun_at_last(other, quota, thinking=1000 - 218)
                assert isinstance(await refusal(other, quota), TooBusy)
                # The first was not dead. What it has reserved is gone, and its new requests begin with new leases.
                await bill.settle(Usage(hidden=700), "answered")
                assert leased(address, "day")[0] == 1000
                with pytest.raises(NotNow):
                    await begin(dead, "req_4", quota)
                with pytest.raises(TooBusy):
                    await begin(dead, "req_5", quota)
            assert leased(address, "day") == (218, 218)
            await begun_at_last(dead, quota, thinking=782)

    asyncio.run(go())


def test_what_is_not_needed_is_given_back_within_seconds(address: str) -> None:
    async def go() -> None:
        async with limited(address) as one, limited(address) as other:
            bill = await begin(one, "req_1", Quota(day=1000, inflight=1), thinking=900)
            await bill.settle(Usage(hidden=10), "answered")
            await until(lambda: leased(address, "day") == (10, 10) and leased(address, "inflight") == (0, 0))
            await begun_at_last(other, Quota(day=1000, inflight=1), thinking=990)

    asyncio.run(go())


def test_where_the_database_is_away_nothing_is_begun_beyond_a_lease(tmp_path: Path) -> None:
    address = f"sqlite:///{tmp_path}/ledger.db"

    async def go() -> None:
        async with limited(address) as ledger:
            bill = await begin(ledger, "req_1", Quota(day=100_000), thinking=65_536)
            with files_of_at_most(1024):
                error = await refusal(ledger, Quota(day=100_000), thinking=65_536)
                assert (type(error), error.code) == (Unavailable, "ledger_unavailable")
                made = 0
                while drawn := await drawing(bill).draw(65_536 - made):
                    made += drawn
                    drawing(bill).give(drawn, drawn)
                assert STEP <= made < 65_536
                await bill.settle(Usage(hidden=made), "answered")
            await until(lambda: not ledger.away and not ledger.unsettled)
            assert leased(address, "day")[1] == made
            await begin(ledger, "req_2", Quota(day=100_000), thinking=1000)

    asyncio.run(go())


async def begun_at_last(ledger: Ledger, quota: Quota, **more: Any) -> LedgerBill:
    """A request that is sent again until it is begun: what had nothing left is not asked about at once."""
    async with asyncio.timeout(60):
        for number in itertools.count():
            try:
                return await begin(ledger, f"again_{number}", quota, **more)
            except TooBusy:
                await asyncio.sleep(0.05)
    raise AssertionError


async def until(true: Callable[[], bool]) -> None:
    """Returns when it is so."""
    async with asyncio.timeout(60):
        while not true():  # noqa: ASYNC110 (a database tells nobody)
            await asyncio.sleep(0.02)
