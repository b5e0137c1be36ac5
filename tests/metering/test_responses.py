"""The rows of kept responses, on SQLite and PostgreSQL: whose they are, who may write to them, when they go."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from sqlalchemy import insert, select, text, update

from ponder.compute.errors import Unavailable
from ponder.metering import upkeep
from ponder.metering.database import database
from ponder.metering.ledger import Ledger
from ponder.metering.migrate import migrate
from ponder.metering.response_rows import AT_ONCE, forget_responses, forget_until, too_many
from ponder.metering.responses import LOOKS, Opening, ResponseStore
from ponder.metering.tables import response_events, responses
from tests.metering.ledgers import a_ledger, execute, intent, put, rows
from tests.metering.test_idempotency import LONG, USED, dead


def opening(id: str = "resp_1", key: str = "alice", user: str | None = None) -> Opening:
    return Opening(id, f"req_{id}", key, user, "secret", 3600)


@asynccontextmanager
async def a_store(address: str) -> AsyncGenerator[tuple[ResponseStore, Ledger]]:
    """A server's."""
    async with a_ledger(address) as ledger:
        yield ResponseStore(ledger), ledger


def kept(address: str) -> dict[str, dict[str, Any]]:
    """All rows, by their ids; each with the pieces of its stream."""
    engine = database(address).engine(reads=True)
    with engine.connect() as connection:
        found: dict[str, dict[str, Any]] = {}
        for row in connection.execute(select(responses)).mappings():
            found[row["id"]] = {**row, "pieces": {}}
        for row in connection.execute(select(response_events)):
            found[row.response]["pieces"][row.number] = row.content
    engine.dispose()
    return found


def test_a_response_that_runs_is_written_as_it_comes_and_read_from_any_server(address: str) -> None:
    async def go() -> None:
        async with a_store(address) as (store, _), a_store(address) as (other, _):
            await store.open(opening(), LONG)
            # Nobody has been told of it yet.
            assert await other.find("resp_1", "alice", LONG) is None
            assert await store.append("resp_1", b"asked", 0, 2, b"01", LONG)
            assert await store.append("resp_1", None, 2, 3, b"234", LONG)
            found = await other.find("resp_1", "alice", LONG)
            assert found is not None
            assert (found.open, found.status, found.content, found.events) == (True, "queued", b"asked", 5)
            assert await store.wanted(["resp_1", "resp_2"], ["resp_1"], LONG) == {"resp_1"}
            found = await other.find("resp_1", "alice", LONG)
            assert found is not None
            assert found.status == "in_progress"
            assert await other.events("resp_1", 0, LONG) == [(0, b"01"), (2, b"234")]
            # From the piece on that has the number.
            assert await other.events("resp_1", 3, LONG) == await other.events("resp_1", 5, LONG) == [(2, b"234")]
            assert await store.finish("resp_1", "completed", b"all", 6, b"012345", 60, LONG)
            found = await other.find("resp_1", "alice", LONG)
            assert found is not None
            assert (found.open, found.status, found.content, found.events) == (False, "completed", b"all", 6)
            assert await other.events("resp_1", 4, LONG) == [(0, b"012345")]
            # What is over stays as it is.
            assert not await store.append("resp_1", None, 6, 1, b"6", LONG)
            assert not await store.finish("resp_1", "failed", b"no", 0, b"", 60, LONG)
            assert await other.cancel("resp_1", "alice", LONG) == found

    asyncio.run(go())


@pytest.mark.parametrize("most", [1, 3])
def test_of_a_key_that_has_too_many_the_oldest_go(address: str, most: int) -> None:
    """Those that run count for nothing, and other keys' neither."""

    async def go() -> None:
        async with a_store(address) as (store, _), a_store(address) as (other, _):
            await store.open(opening("resp_runs"), LONG)
            assert await store.append("resp_runs", b"asked", 0, 1, b"0", LONG)
            await store.keep(opening("resp_bob", "bob"), "completed", b"his", LONG)
            for number in range(5):
                on = store if number % 2 else other
                await on.keep(opening(f"resp_{number}"), "completed", b"all", LONG)
                execute(address, f"UPDATE responses SET begun_ms = {number} WHERE id = 'resp_{number}'")
                on.bound("alice", most)
            await store.find("resp_0", "alice", LONG)
            await other.find("resp_0", "alice", LONG)
        stay = {f"resp_{number}" for number in range(5 - most, 5)}
        assert kept(address).keys() == stay | {"resp_runs", "resp_bob"}

    asyncio.run(go())


def test_it_is_looked_now_and_then_how_many_a_key_has(address: str) -> None:
    """So what is kept costs the same however many are, and a bound that was lowered holds after some."""
    most = LOOKS

    async def go() -> None:
        async with a_store(address) as (store, _):
            for number in range(most + 4):
                await store.keep(opening(f"resp_{number}"), "completed", b"all", LONG)
                store.bound("alice", most)
            await store.find("resp_0", "alice", LONG)
            assert most <= len(kept(address)) <= most + 1
            for number in range(3):
                await store.keep(opening(f"resp_more_{number}"), "completed", b"all", LONG)
                store.bound("alice", 2)
            await store.find("resp_0", "alice", LONG)
        assert len(kept(address)) <= 3

    asyncio.run(go())


def put_kept(address: str, count: int) -> None:
    """So many of alice's that are over, the last one the newest."""
    values = {"key": "alice", "owner": "srv_gone", "epoch": 1, "background": 0, "status": "completed"}
    values |= {"secret": "secret", "content": b"all", "until_ms": 1 << 60, "request": "req_1"}
    engine = database(address).engine(long=True)
    with engine.begin() as connection:
        many = [values | {"id": f"resp_kept_{i}", "begun_ms": i} for i in range(count)]
        connection.execute(insert(responses), many)
    engine.dispose()


def test_however_many_are_too_many_they_go_while_others_are_served(address: str) -> None:
    async def go() -> None:
        async with a_store(address) as (store, _):
            put_kept(address, 2 * AT_ONCE + 10)
            store.bound("alice", 3)
            while len(kept(address)) > 3:
                # Each look comes behind what is gone meanwhile.
                assert await store.find("resp_none", "alice", LONG) is None
            assert kept(address).keys() == {f"resp_kept_{2 * AT_ONCE + i}" for i in (7, 8, 9)}

    async def bounded() -> None:
        async with asyncio.timeout(60):
            await go()

    asyncio.run(bounded())


def test_those_that_stay_are_free_while_others_go(address: str) -> None:
    """Who looks for the oldest holds nobody up who wants the others."""

    async def go() -> None:
        async with a_store(address):
            put_kept(address, 8)

    asyncio.run(go())
    engine = database(address).engine(long=True)
    other = database(address).engine(reads=True)
    with engine.begin() as connection, other.begin() as beside:
        last = 4, "resp_kept_4"
        assert too_many(connection, "alice", 3) == last
        assert forget_until(connection, "alice", last) == 5
        stay = select(responses.c.id).where(responses.c.begun_ms > 4).with_for_update(skip_locked=True)
        assert len(beside.execute(stay).all()) == 3
        beside.rollback()
    engine.dispose()
    other.dispose()
    assert len(kept(address)) == 3


def test_of_one_that_goes_while_it_is_written_no_event_stays(address: str) -> None:
    async def go() -> None:
        async with a_store(address) as (store, _):
            await store.open(opening(), LONG)
            assert await store.append("resp_1", b"asked", 0, 1, b"0", LONG)

    asyncio.run(go())
    execute(address, "UPDATE responses SET status = 'in_progress'")
    writes, deletes = (database(address).engine(long=True) for _ in range(2))
    reads = database(address).engine(reads=True)

    def delete() -> None:
        with deletes.begin() as connection:
            assert forget_responses(connection, responses.c.id == "resp_1", 1) == 1

    with writes.connect() as connection:
        begun = connection.begin()
        connection.execute(update(responses).values(events=2))
        thread = threading.Thread(target=delete)
        thread.start()
        if connection.dialect.name == "postgresql":
            with reads.connect() as looking:
                waits = text("SELECT count(*) FROM pg_locks WHERE NOT granted")
                while not looking.execute(waits).scalar_one():
                    assert thread.is_alive()
        connection.execute(insert(response_events).values(response="resp_1", number=1, content=b"1"))
        begun.commit()
    thread.join()
    with writes.connect() as connection:
        assert connection.execute(select(response_events)).all() == []
    for engine in (writes, deletes, reads):
        engine.dispose()


def test_another_key_sees_cancels_and_deletes_nothing(address: str) -> None:
    async def go() -> None:
        async with a_store(address) as (store, _):
            await store.keep(opening(), "completed", b"all", LONG)
            assert await store.find("resp_1", "bob", LONG) is None
            assert await store.cancel("resp_1", "bob", LONG) is None
            assert not await store.delete("resp_1", "bob", LONG)
            # What no row can have.
            assert await store.find("resp_1\0", "alice", LONG) is None
            assert await store.cancel("\ud800", "alice", LONG) is None
            assert not await store.delete("\0", "alice", LONG)
            assert await store.delete("resp_1", "alice", LONG)
            assert not await store.delete("resp_1", "alice", LONG)
            assert not kept(address)

    asyncio.run(go())


@pytest.mark.parametrize("act", ["cancel", "delete"])
def test_who_runs_it_learns_that_it_is_cancelled_or_deleted_elsewhere(act: str, address: str) -> None:
    async def go() -> None:
        async with a_store(address) as (store, _), a_store(address) as (other, _):
            await store.open(opening(), LONG)
            assert await store.append("resp_1", b"asked", 0, 2, b"01", LONG)
            if act == "cancel":
                found = await other.cancel("resp_1", "alice", LONG)
                assert found is not None
                assert (found.status, found.events) == ("cancelled", 2)
            else:
                assert await other.delete("resp_1", "alice", LONG)
            assert await store.wanted(["resp_1"], ["resp_1"], LONG) == set()
            assert not await store.append("resp_1", None, 2, 1, b"2", LONG)
            assert not await store.finish("resp_1", "completed", b"all", 3, b"012", 60, LONG)
            assert [row["pieces"] for row in kept(address).values()] == ([{0: b"01"}] if act == "cancel" else [])

    asyncio.run(go())


def test_of_a_cancel_and_what_is_written_meanwhile_one_comes_first(address: str) -> None:
    async def go() -> None:
        async with a_store(address) as (store, _), a_store(address) as (other, _):
            for number in range(20):
                id = f"resp_{number}"
                await store.open(opening(id), LONG)
                await store.append(id, b"asked", 0, 1, b"0", LONG)
                async with asyncio.TaskGroup() as group:
                    finished = group.create_task(store.finish(id, "completed", b"all", 2, b"01", 60, LONG))
                    cancelled = group.create_task(other.cancel(id, "alice", LONG))
                found = cancelled.result()
                assert found is not None
                assert found.status == ("completed" if finished.result() else "cancelled")
                assert len(kept(address)[id]["pieces"][0]) == found.events

    asyncio.run(go())


def test_what_a_dead_server_ran_has_failed_and_it_cannot_write_to_it(address: str) -> None:
    async def go() -> None:
        async with a_store(address) as (store, ledger), a_store(address) as (other, _):
            for id in ("resp_1", "resp_2"):
                await store.open(opening(id), LONG)
                assert await store.append(id, b"asked", 0, 1, b"0", LONG)
            dead(address, ledger)
            for _ in range(2):
                found = await other.find("resp_1", "alice", LONG)
                assert found is not None
                assert found.status == "failed"
            # It was not dead, and signs in again.
            bill = await ledger.reserve(intent())
            await bill.settle(USED, "answered")
            assert not await store.append("resp_1", None, 1, 1, b"1", LONG)
            found = await other.find("resp_2", "alice", LONG)
            assert found is not None
            assert found.status == "failed"

    asyncio.run(go())


def test_a_server_that_ends_leaves_none_running(address: str) -> None:
    async def go() -> None:
        async with a_store(address) as (store, _):
            await store.open(opening("resp_ends"), LONG)
            assert await store.append("resp_ends", b"asked", 0, 1, b"0", LONG)
            await store.open(opening("resp_unknown"), LONG)
            assert kept(address).keys() == {"resp_ends", "resp_unknown"}
        assert {id: row["status"] for id, row in kept(address).items()} == {"resp_ends": "failed"}

    asyncio.run(go())


def test_responses_go_when_their_time_is_over_with_all_their_events(address: str) -> None:
    async def go() -> None:
        async with a_store(address) as (store, ledger):
            for id in ("resp_old", "resp_new", "resp_older"):
                await store.open(opening(id), LONG)
                assert await store.append(id, b"asked", 0, 1, b"0", LONG)
                assert await store.finish(id, "completed", b"all", 2, b"01", 86400, LONG)
            execute(address, "UPDATE responses SET until_ms = 1 WHERE id = 'resp_old'")
            # Also where nobody has swept.
            assert await store.find("resp_old", "alice", LONG) is None
            ledger._writer._sweep()  # pyright: ignore[reportPrivateUsage]
            assert kept(address).keys() == {"resp_new", "resp_older"}
            execute(address, "UPDATE responses SET until_ms = 1 WHERE id = 'resp_older'")
        upkeep.expire(database(address), 1)
        assert kept(address).keys() == {"resp_new"}
        execute(address, "DELETE FROM responses")
        engine = database(address).engine(reads=True)
        with engine.connect() as connection:
            assert [row.response for row in connection.execute(select(response_events))] == ["resp_new"]
        engine.dispose()

    asyncio.run(go())


def test_those_of_a_user_are_erased_and_none_are_in_backups(address: str, tmp_path: Any) -> None:
    """Also where the ledger's own rows have gone before."""

    async def go() -> None:
        async with a_store(address) as (store, _):
            for user in ("u-1", "u-2"):
                await store.keep(opening(f"resp_{user}", user=user), "completed", b"all", LONG)
            await store.open(opening("resp_runs", user="u-1"), LONG)
            await store.append("resp_runs", b"asked", 0, 1, b"0", LONG)
            place = database(address)
            found = await asyncio.to_thread(upkeep.state, place)
            assert (found.responses, found.background) == (3, 1)
            assert await asyncio.to_thread(upkeep.copy, place, tmp_path / "copy.db") == 1
            assert await asyncio.to_thread(upkeep.erase, place, "u-1") == 0
            assert kept(address).keys() == {"resp_runs", "resp_u-2"}
            await asyncio.to_thread(upkeep.erase, place, "u-2", keep_counts=True)
            assert kept(address).keys() == {"resp_runs"}

    migrate(database(address).engine(long=True))
    put(address, 1)
    asyncio.run(go())
    assert not kept(f"sqlite:///{tmp_path}/copy.db")


def test_nobody_is_told_anything_where_the_database_is_away(address: str) -> None:
    async def go() -> None:
        async with a_store(address) as (store, _):
            await store.keep(opening("resp_0"), "completed", b"all", LONG)
            execute(address, "ALTER TABLE responses RENAME TO elsewhere")
            works = [store.find("resp_0", "alice", LONG), store.open(opening(), LONG), store.wanted(["x"], [], LONG)]
            for refused in await asyncio.gather(*works, return_exceptions=True):
                assert isinstance(refused, Unavailable)
                assert refused.code == "ledger_unavailable"
            execute(address, "ALTER TABLE elsewhere RENAME TO responses")
            assert await store.find("resp_0", "alice", LONG) is not None

    asyncio.run(go())


def test_many_are_written_at_once_and_one_that_cannot_be_keeps_no_other(address: str) -> None:
    async def go() -> None:
        async with a_store(address) as (store, _):
            works = [store.keep(opening(f"resp_{n}"), "completed", b"all", LONG) for n in range(300)]
            wrong: Any = object()
            works.insert(7, store.keep(opening("resp_wrong"), "completed", wrong, LONG))
            told = await asyncio.gather(*works, return_exceptions=True)
            assert [n for n, one in enumerate(told) if one is not None] == [7]
            assert len(kept(address)) == 300

    asyncio.run(go())


@pytest.mark.parametrize("version", ["0007", "0008"])
def test_a_ledger_of_a_version_before_keeps_its_rows(version: str, address: str) -> None:
    migrate(database(address).engine(long=True), version)
    put(address, 1, thinking=77)
    if version == "0008":
        put_kept(address, 2)
    assert migrate(database(address).engine(long=True))[0] == version
    assert rows(address)["req_0"]["thinking"] == 77
    assert len(kept(address)) == (2 if version == "0008" else 0)
