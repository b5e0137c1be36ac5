"""Several servers on one PostgreSQL, seen from the database: what one of them does or fails to do holds up no other."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, insert, inspect, select, update

from ponder.compute.account import Progress
from ponder.compute.clock import now
from ponder.compute.errors import NotNow
from ponder.compute.quota import Quota
from ponder.compute.usage import Usage
from ponder.metering.clock import SharedClock, milliseconds
from ponder.metering.database import database
from ponder.metering.leases import PLACES, Ask, Lease, Window, forget, take, window
from ponder.metering.ledger import Ledger, LedgerBill, _recover  # pyright: ignore[reportPrivateUsage]
from ponder.metering.limits import Limits
from ponder.metering.migrate import migrate, newest
from ponder.metering.retention import DAY, expire_answers, expire_some
from ponder.metering.tables import idempotency, limit_windows, responses, servers
from ponder.testing import in_virtual_time
from tests.metering.databases import PostgreSQL
from tests.metering.ledgers import Watched, a_ledger, execute, intent, leases, put, rows
from tests.metering.test_limits import until

OF = window("alice", "inflight", 0)


def empty(a_postgresql: PostgreSQL) -> str:
    """The address of a ledger with its tables and nothing in them."""
    address = a_postgresql.new()
    engine = database(address).engine(long=True)
    migrate(engine)
    engine.dispose()
    return address


def test_who_stops_amid_a_lease_keeps_nobody_from_theirs(a_postgresql: PostgreSQL) -> None:
    """As a server does that is stopped, or whose link to the database is cut, with the row of a limit locked."""
    place = database(empty(a_postgresql))
    one, other = place.engine(), place.engine()
    with one.connect() as stops:
        stops.begin()
        take(stops, "srv_1", [Ask(OF, 10, 1, first=True)])
        stops.execute(select(limit_windows).with_for_update())
        # The first time it asks: its request is not refused.
        with other.begin() as goes_on:
            (lease,) = take(goes_on, "srv_2", [Ask(OF, 10, 1, first=True)])
        assert lease.added
        # What was not committed is nobody's.
        assert lease.others == 0
        stops.invalidate()
    for engine in (one, other):
        engine.dispose()


def test_a_lease_whose_commit_fails_is_nobody_s(a_postgresql: PostgreSQL) -> None:
    """As where the link is cut between the last statement of a transaction and its end: what the database has not
    written down it gives to others."""
    address, quota = empty(a_postgresql), Quota(inflight=3)
    fails = """CREATE FUNCTION fails() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'no commit'; END $$"""
    at_commit = """CREATE CONSTRAINT TRIGGER at_commit AFTER INSERT OR UPDATE ON limit_leases
        DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION fails()"""

    async def asking() -> None:
        async with a_ledger(address) as one:
            bills = [await one.reserve(intent("req_0", quota=quota))]
            has = leases(address)["inflight 0"]
            execute(address, fails)
            execute(address, at_commit)
            for number in range(1, 5):
                with pytest.raises(NotNow) as refused:
                    await one.reserve(intent(f"req_{number}", quota=quota))
                assert refused.value.code == "ledger_unavailable"
                assert leases(address)["inflight 0"] == has == (1, 0)
            execute(address, "DROP TRIGGER at_commit ON limit_leases")
            while len(bills) < 3:
                bills.append(await one.reserve(intent(f"req_{len(bills)}_more", quota=quota)))
            assert leases(address)["inflight 0"][0] == 3
            for bill in bills:
                await bill.settle(Usage(), "refused")

    asyncio.run(asking())


@pytest.mark.parametrize("reads", [False, True])
def test_postgresql_looks_itself_whether_a_server_is_still_there(a_postgresql: PostgreSQL, reads: bool) -> None:
    """A machine that lost its power tells nobody, and its session would be one of a living server for hours."""
    engine = database(a_postgresql.address()).engine(reads=reads)
    with engine.connect() as connection:
        shown = [
            connection.exec_driver_sql(f"SHOW tcp_{name}").scalar_one()
            for name in ("keepalives_idle", "keepalives_interval", "keepalives_count", "user_timeout")
        ]
        *looks, unheard = shown
        idle, interval, count = map(int, looks)
        assert 0 < idle + interval * count <= 20
        # Where a reply was under way it does not look, but waits until that has been heard.
        assert unheard == ("0" if reads else "20000")
    engine.dispose()


def old_rows(address: str) -> None:
    put(address, 100)


def old_answers(address: str) -> None:
    engine = database(address).engine(long=True)
    values = {"request": "req", "owner": "srv", "key": "alice", "secret": "s"}
    with engine.begin() as connection:
        rows = [values | {"id": f"a{i}", "fingerprint": b"", "until_ms": 1 + i % 7} for i in range(100)]
        connection.execute(insert(idempotency), rows)
        more = {"epoch": 1, "background": 0, "status": "completed", "content": b"", "begun_ms": 0, "until_ms": 1}
        connection.execute(insert(responses), [values | more | {"id": f"resp_{i}"} for i in range(100)])
    engine.dispose()


def of_a_day(connection: Connection, most: int) -> int:
    return expire_some(connection, 1, most)


@pytest.mark.parametrize(
    ("old", "expire", "each"),
    [
        (old_rows, of_a_day, 100),
        (old_answers, expire_answers, 100),
    ],
)
def test_two_servers_that_delete_old_rows_at_once_do_not_wait_for_each_other(
    a_postgresql: PostgreSQL, old: Callable[[str], None], expire: Callable[[Connection, int], int], each: int
) -> None:
    """Beside what they delete they write what callers wait for."""
    address = empty(a_postgresql)
    old(address)
    place = database(address)
    one, other = place.engine(), place.engine()
    with one.begin() as first, other.begin() as second:
        assert expire(first, each // 2) == each // 2
        began = time.monotonic()
        assert expire(second, each) == each // 2
        assert time.monotonic() - began < 4
    with one.begin() as last:
        assert expire(last, each) == 0
    for engine in (one, other):
        engine.dispose()


def test_machines_that_disagree_about_the_time_hold_a_limit_of_a_minute_together(a_postgresql: PostgreSQL) -> None:
    """They would each have windows of their own, and the limit as often."""

    async def go() -> None:
        address, quota = a_postgresql.new(), Quota(minute=1000)
        ahead, behind = (lambda: milliseconds() + 90_000), (lambda: milliseconds() - 90_000)
        # The database's own minute must not end meanwhile.
        await asyncio.sleep(max(0, time.time() % 60 - 45) and 61 - time.time() % 60)
        async with a_ledger(address, wall=ahead) as one, a_ledger(address, wall=behind) as other:
            begun = 0
            for number in range(10):
                for ledger in (one, other):
                    with suppress(NotNow):
                        bill = await ledger.reserve(intent(f"req_{id(ledger)}_{number}", thinking=200, quota=quota))
                        await bill.settle(Usage(hidden=200), "answered")
                        begun += 1
        assert begun <= 5
        assert sum(spent for name, (_, spent) in leases(address).items() if name.startswith("minute")) == 200 * begun
        assert {row["begun_ms"] // 60_000 for row in rows(address).values()} == {int(time.time()) // 60}

    asyncio.run(go())


def test_the_time_of_the_database_is_known_as_well_as_its_word_was_quick() -> None:
    at = [100.0]
    clock = SharedClock(lambda: 5, lambda: at[0])
    assert clock() == 5
    clock.heard(1_000_000.0, 99.0, 101.0)
    assert clock() == 1_000_000
    # A slower word says nothing new; a quick one does.
    clock.heard(1_000_500.0, 98.0, 102.0)
    assert clock() == 1_000_000
    clock.heard(1_000_300.0, 99.99, 100.01)
    assert clock() == 1_000_290
    at[0] += 60
    assert clock() == 1_060_290


def test_a_server_whose_callers_never_pause_leaves_places_to_the_others(a_postgresql: PostgreSQL) -> None:
    """Of a limit of two requests at the same time, one server could have both for good."""

    async def go() -> None:
        address, quota, over, number = a_postgresql.new(), Quota(inflight=2), asyncio.Event(), itertools.count()

        async def asked(ledger: Ledger) -> bool:
            try:
                bill = await ledger.reserve(intent(f"req_{next(number)}", quota=quota))
            except NotNow:
                await asyncio.sleep(0.02)
                return False
            await asyncio.sleep(0.05)
            await bill.settle(Usage(hidden=1), "answered")
            return True

        async def busy(ledger: Ledger) -> None:
            while not over.is_set():
                await asked(ledger)

        async with a_ledger(address) as one, a_ledger(address) as other, asyncio.TaskGroup() as group:
            for _ in range(8):
                group.create_task(busy(one))
            await until(lambda: leases(address).get("inflight 0") == (2, 0))
            async with asyncio.timeout(60):
                for _ in range(3):
                    while not await asked(other):
                        pass
            over.set()

    asyncio.run(go())


def test_what_a_silent_server_may_yet_spend_and_the_places_it_has_are_given_to_nobody(a_postgresql: PostgreSQL) -> None:
    """It may be cut off from the database alone, and what it runs may run on."""

    async def go() -> None:
        address, quota = a_postgresql.new(), Quota(day=1000, inflight=3)
        window = f"day {milliseconds() // DAY * DAY}"

        async def begin(ledger: Ledger, request: str, thinking: int) -> LedgerBill | None:
            with suppress(NotNow):
                return await ledger.reserve(intent(request, thinking=thinking, answer=10, quota=quota))
            return None

        async with a_ledger(address) as silent, a_ledger(address) as other:
            one, two = await begin(silent, "req_1", 400), await begin(silent, "req_2", 300)
            assert one is not None
            assert two is not None
            one.follow(lambda: Progress(Usage(hidden=100), open=1, samples=0, stopped_by=None))
            one.look()
            await until(lambda: rows(address)["req_1"]["thinking"] == 100)
            taken_for_dead(address, silent)
            assert {id: row["uncertain"] for id, row in rows(address).items()} == {"req_1": 310, "req_2": 310}
            assert leases(address) == {window: (700, 700), "inflight 0": (2, 0)}
            # Of 3 places one is left, and of 1000 tokens 300.
            third = await begin(other, "req_3", 200)
            assert third is not None
            assert await begin(other, "req_4", 50) is None
            await third.settle(Usage(hidden=200), "answered")
            await until(lambda: leases(address)["inflight 0"] == (2, 0))
            # It is back, and its two run yet.
            fourth = await at_last(lambda n: begin(silent, f"req_5_{n}", 50))
            assert await begin(silent, "req_6", 10) is None
            await fourth.settle(Usage(hidden=50), "answered")
            for bill in (one, two):
                await bill.settle(Usage(hidden=300), "answered")
            assert await at_last(lambda n: begin(silent, f"req_7_{n}", 50))
            assert leases(address)[window][0] <= 1000

    asyncio.run(go())


def test_places_of_a_silent_server_are_free_when_nothing_of_it_can_run_any_more(a_postgresql: PostgreSQL) -> None:
    async def go() -> None:
        address, quota = a_postgresql.new(), Quota(inflight=2)
        async with a_ledger(address) as silent, a_ledger(address):
            await silent.reserve(intent("req_1", quota=quota))
            taken_for_dead(address, silent)
            engine = database(address).engine()
            for later, left in ((PLACES - 60_000, (1, 0)), (PLACES + 60_000, (0, 0))):
                with engine.begin() as connection:
                    forget(connection, milliseconds(), milliseconds() + later)
                assert leases(address)["inflight 0"] == left
            engine.dispose()

    asyncio.run(go())


def test_a_place_of_a_server_that_was_taken_for_dead_is_free_when_its_request_ends(a_postgresql: PostgreSQL) -> None:
    """Also where the server hears of its new epoch only then."""

    async def go() -> None:
        address, quota = a_postgresql.new(), Quota(inflight=1)
        async with a_ledger(address) as silent, a_ledger(address):
            bill = await silent.reserve(intent("req_1", quota=quota))
            assert bill is not None
            taken_for_dead(address, silent)
            assert leases(address)["inflight 0"] == (1, 0)
            await bill.settle(Usage(), "answered")
            await until(lambda: leases(address)["inflight 0"] == (0, 0))

    asyncio.run(go())


def taken_for_dead(address: str, silent: Ledger) -> None:
    """As another server does that has heard nothing of it."""
    engine = database(address).engine()
    with engine.begin() as connection:
        row = servers.c.id == silent.process.id
        connection.execute(update(servers).where(row).values(epoch=2, ended_ms=milliseconds()))
        _recover(connection, silent.process, 1, None)
    engine.dispose()


async def at_last(begin: Callable[[int], Awaitable[LedgerBill | None]]) -> LedgerBill:
    async with asyncio.timeout(30):
        for number in itertools.count():
            if (bill := await begin(number)) is not None:
                return bill
            await asyncio.sleep(0.05)
    raise AssertionError


def test_the_last_migration_leaves_servers_of_the_version_before_all_they_write_to(a_postgresql: PostgreSQL) -> None:
    """So doors are replaced one after the other: what was there is there, and what came is never asked for."""
    engine = database(a_postgresql.new()).engine(long=True)
    before, after = [columns_at(engine, version) for version in (one_before(), "head")]
    for name, column in before.items():
        assert name in after, name
        assert (str(after[name]["type"]), after[name]["nullable"]) == (str(column["type"]), column["nullable"])
    known = {table for table, _ in before}
    for (table, _), column in after.items():
        if table in known and (table, column["name"]) not in before:
            assert column["nullable"] or column["default"] is not None, (table, column["name"])
    engine.dispose()


def one_before() -> str:
    return f"{int(newest()) - 1:04}"


def columns_at(engine: Engine, version: str) -> dict[tuple[str, str], Any]:
    migrate(engine, version)
    found = inspect(engine)
    return {(table, column["name"]): column for table in found.get_table_names() for column in found.get_columns(table)}


class Generous:
    """Leases without a database."""

    def __init__(self) -> None:
        self.leased = Counter[Window]()

    def lease(self, ask: Ask, heard: Callable[[Lease | None, int], None]) -> None:
        self.leased[ask.window] += ask.amount
        heard(Lease(ask.amount, self.leased[ask.window], 0, 0, 0), 1)

    def give_back(self, window: Window, amount: int, epoch: int, lost: Callable[[], None]) -> None:
        self.leased[window] -= amount


@pytest.mark.parametrize("began", [False, True])
def test_a_request_ends_before_others_are_given_its_place(began: bool) -> None:
    """Where its server is cut off for so long. `began`: the model has begun when that happens."""

    async def go() -> list[float]:
        stopped, began_at = list[float](), now()
        limits = Limits(Generous(), milliseconds, Watched().limited, lambda: began_at + 100 - now())
        placed = await limits.begin(intent("req_1", quota=Quota(inflight=3)), 0)
        other = await limits.begin(intent("req_2", quota=Quota(day=10_000)), 0)
        over = await limits.begin(intent("req_3", quota=Quota(inflight=3)), 0)
        assert placed is not None
        assert other is not None
        assert over is not None
        over.drop()
        for one in (other, over):
            one.when_revoked(lambda: stopped.append(0.0))
        if began:
            placed.when_revoked(lambda: stopped.append(now() - began_at))
            await asyncio.sleep(99)
            assert not stopped
            await asyncio.sleep(3)
        else:
            await asyncio.sleep(102)
            placed.when_revoked(lambda: stopped.append(now() - began_at))
        await asyncio.sleep(30)
        placed.drop()
        limits.close()
        return stopped

    (at,) = in_virtual_time(go())
    assert 100 <= at <= 102
