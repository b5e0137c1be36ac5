"""What is done to a ledger beside writing it, on SQLite and on PostgreSQL."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from ponder.metering import upkeep
from ponder.metering.database import database
from ponder.metering.ledger import NoLedger
from ponder.metering.migrate import OtherVersion, migrate, newest
from tests.metering.ledgers import a_ledger, execute, files_of_at_most, intent, processes, put, rows
from tests.metering.test_ledger import USED


def filled(address: str, *, users: int = 3) -> None:
    async def go() -> None:
        async with a_ledger(address) as ledger:
            for number in range(users):
                bill = await ledger.reserve(
                    intent(f"req_{number}", user=f"u-{number}", metadata={"secret": f"word-{number}"})
                )
                await bill.settle(USED, "answered")

    asyncio.run(go())


def test_its_state_is_told(address: str) -> None:
    filled(address)
    found = upkeep.state(database(address))
    assert (found.version, found.rows, found.open, found.lost, found.servers) == (newest(), 3, 0, 0, 0)
    assert found.first_ms is not None
    assert found.last_ms is not None
    assert found.first_ms <= found.last_ms


def test_a_ledger_that_is_not_there_is_not_made_by_asking(tmp_path: Path) -> None:
    place = database(f"sqlite:///{tmp_path}/none.db")
    with pytest.raises(upkeep.NoSuchLedger, match="there is no ledger"):
        upkeep.state(place)
    assert not (tmp_path / "none.db").exists()


def test_a_copy_comes_back_row_by_row(address: str, tmp_path: Path) -> None:
    filled(address)
    before, copy = rows(address), tmp_path / "copy.db"
    assert upkeep.copy(database(address), copy) == 3
    assert not list(tmp_path.glob("copy.db-*"))
    with pytest.raises(upkeep.NoSuchLedger, match="there already"):
        upkeep.copy(database(address), copy)
    assert upkeep.restore(database(address), copy) == (0, 3)
    execute(address, "DELETE FROM requests WHERE id <> 'req_1'")
    assert upkeep.restore(database(address), copy) == (2, 1)
    assert rows(address) == before


def test_half_a_copy_is_not_taken_for_one(tmp_path: Path) -> None:
    """The disk is full: in the middle, or when nothing of it has gone into the file itself yet."""
    address, copy = f"sqlite:///{tmp_path}/ledger.db", tmp_path / "copies" / "copy.db"
    filled(address, users=30)
    # Somebody reads it, so that its own files need not grow.
    reader = upkeep.readable(database(address)).connect()
    reader.execute(text("SELECT count(*) FROM requests"))
    for most in (1 << 12, 33_000, 40_000):
        with files_of_at_most(most), pytest.raises(SQLAlchemyError):
            upkeep.copy(database(address), copy)
        assert copy.parent.exists()
        assert not copy.exists()
    reader.close()
    assert upkeep.copy(database(address), copy) == 30
    assert [path.name for path in copy.parent.iterdir()] == ["copy.db"]


def test_a_copy_moves_a_ledger_from_one_kind_of_database_to_the_other(address: str, tmp_path: Path) -> None:
    filled(address)
    upkeep.copy(database(address), tmp_path / "copy.db")
    other = f"sqlite:///{tmp_path}/new/ledger.db"
    assert upkeep.restore(database(other), tmp_path / "copy.db") == (3, 0)
    assert rows(other) == rows(address)


def test_a_request_that_was_open_when_the_copy_was_made_comes_back_as_lost(address: str, tmp_path: Path) -> None:
    """What is uncertain of it is told by the checkpoints of the server that wrote it."""

    async def go() -> None:
        async with a_ledger(address, checkpoint=64) as ledger:
            bill = await ledger.reserve(intent("req_0", answers=2))
            await asyncio.to_thread(upkeep.copy, database(address), tmp_path / "copy.db")
            await bill.settle(USED, "answered")

    asyncio.run(go())
    other = f"sqlite:///{tmp_path}/new.db"
    upkeep.restore(database(other), tmp_path / "copy.db")
    assert (rows(other)["req_0"]["outcome"], rows(other)["req_0"]["uncertain"]) == ("lost", 128)
    assert upkeep.state(database(other)).open == 0


def test_a_user_s_rows_are_erased_and_nothing_of_them_stays_in_the_file(address: str) -> None:
    filled(address)
    place = database(address)
    assert upkeep.erase(place, "u-1") == 1
    assert rows(address).keys() == {"req_0", "req_2"}
    assert upkeep.erase(place, "u-2", keep_counts=True) == 1
    kept = rows(address)["req_2"]
    assert (kept["user"], kept["metadata"], kept["thinking"]) == (None, None, 300)
    assert upkeep.erase(place, "nobody") == 0
    if place.file is not None:
        raw = b"".join(path.read_bytes() for path in place.file.parent.glob("ledger.db*"))
        assert b"word-0" in raw
        assert b"word-1" not in raw
        assert b"word-2" not in raw


def test_what_takes_long_is_done_some_rows_at_a_time(address: str, tmp_path: Path) -> None:
    """So that servers write in between; and what was done before it broke off is done."""
    filled(address, users=0)
    put(address, 2500, lambda number: {"id": f"req_{number:04}", "begun_ms": 1000 + number}, user="u")
    upkeep.copy(database(address), tmp_path / "copy.db")
    forbidden(address, "DELETE", "OLD")
    with pytest.raises(SQLAlchemyError):
        upkeep.erase(database(address), "u")
    assert 0 < len(rows(address)) < 2500
    allowed(address)
    execute(address, "DELETE FROM requests")
    forbidden(address, "INSERT", "NEW")
    with pytest.raises(SQLAlchemyError):
        upkeep.restore(database(address), tmp_path / "copy.db")
    found = len(rows(address))
    assert 0 < found < 2500
    allowed(address)
    assert upkeep.restore(database(address), tmp_path / "copy.db") == (2500 - found, found)
    assert upkeep.erase(database(address), "u", keep_counts=True) == 2500
    assert {row["user"] for row in rows(address).values()} == {None}


def forbidden(address: str, act: str, which: str) -> None:
    """One row of many cannot be inserted or deleted."""
    when = f"BEFORE {act} ON requests FOR EACH ROW WHEN ({which}.id = 'req_2222')"
    if database(address).file is not None:
        execute(address, f"CREATE TRIGGER forbidden {when} BEGIN SELECT RAISE(ABORT, 'forbidden'); END")
        return
    body = "$$ BEGIN RAISE EXCEPTION 'forbidden'; END $$"
    execute(address, f"CREATE OR REPLACE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS {body}")
    execute(address, f"CREATE TRIGGER forbidden {when} EXECUTE FUNCTION no()")


def allowed(address: str) -> None:
    execute(address, "DROP TRIGGER forbidden" + ("" if database(address).file is not None else " ON requests"))


def test_a_user_is_found_as_the_ledger_keeps_the_name(address: str) -> None:
    async def go() -> None:
        async with a_ledger(address) as ledger:
            await (await ledger.reserve(intent(user="long\0" * 200))).settle(USED, "answered")

    asyncio.run(go())
    assert upkeep.erase(database(address), "long\0" * 200) == 1


def test_old_rows_are_deleted_by_hand_and_by_a_server(address: str) -> None:
    filled(address)
    execute(address, "UPDATE requests SET begun_ms = 1000 WHERE id = 'req_0'")
    assert upkeep.expire(database(address), 3) == 1
    assert rows(address).keys() == {"req_1", "req_2"}
    execute(address, "UPDATE requests SET begun_ms = 1000 WHERE id = 'req_1'")

    async def go() -> None:
        async with a_ledger(address, days=3):
            pass

    asyncio.run(go())
    assert rows(address).keys() == {"req_2"}


def test_old_rows_go_faster_than_new_ones_can_come(address: str) -> None:
    filled(address, users=0)
    put(address, 12_000)

    async def go() -> None:
        async with a_ledger(address, days=3) as ledger, asyncio.timeout(30):
            number = 0
            while database_has(address, 1000):
                await (await ledger.reserve(intent(f"req_new_{number}"))).settle(USED, "answered")
                number += 1

    asyncio.run(go())
    assert all(name.startswith("req_new") for name in rows(address))


def database_has(address: str, begun_ms: int) -> bool:
    engine = database(address).engine(reads=True)
    with engine.connect() as connection:
        found = connection.execute(text("SELECT 1 FROM requests WHERE begun_ms = :at LIMIT 1"), {"at": begun_ms}).all()
    engine.dispose()
    return bool(found)


def test_rows_are_read_in_the_order_of_their_requests(address: str) -> None:
    filled(address)
    execute(address, "UPDATE requests SET begun_ms = 1000 WHERE id = 'req_2'")
    assert [row["id"] for row in upkeep.rows(database(address))] == ["req_2", "req_0", "req_1"]
    assert [row["id"] for row in upkeep.rows(database(address), end_ms=2000)] == ["req_2"]
    assert [row["id"] for row in upkeep.rows(database(address), begin_ms=2000)] == ["req_0", "req_1"]


# -- versions ---------------------------------------------------------------------------------------------------------


def test_a_ledger_of_the_future_is_left_alone(address: str) -> None:
    filled(address)
    execute(address, "UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(OtherVersion, match="newer than this server"):
        upkeep.state(database(address))
    with pytest.raises(OtherVersion, match="newer than this server"):
        migrate(database(address).engine(long=True))


def test_rows_of_the_version_before_are_kept_and_have_neither_price_nor_receipt(address: str) -> None:
    place = database(address)
    assert migrate(place.engine(long=True), "0001") == (None, "0001")
    execute(
        address,
        "INSERT INTO requests (id, owner, epoch, begun_ms, settled_ms, key, model, strategy, budget, reserved,"
        " thinking, metadata) "
        "VALUES ('req_old', 'srv_old', 1, 1000, 2000, 'alice', 'demo', 'direct', 100, 120, 77, '{\"a\": 1}')",
    )
    if place.file is None:
        with pytest.raises(NoLedger, match="ponder ledger migrate"):
            filled(address)
        migrate(place.engine(long=True))
    filled(address)
    row = rows(address)["req_old"]
    assert (row["thinking"], row["metadata"], row["key"]) == (77, {"a": 1}, "alice")
    assert (row["cost_nano_usd"], row["price_version"], row["price_answer"]) == (0, None, None)
    assert (row["receipt"], row["unseen_calls"]) == (None, 0)
    assert len(rows(address)) == 4


def test_a_server_of_the_version_before_had_the_checkpoints_that_were_usual(address: str) -> None:
    migrate(database(address).engine(long=True), "0002")
    before = "INSERT INTO servers (id, epoch, machine, pid, started, seen_ms) VALUES ('srv_old', 1, 'm', 1, 1, 1)"
    execute(address, before)
    migrate(database(address).engine(long=True))
    (process,) = processes(address)
    assert (process["id"], process["checkpoint"]) == ("srv_old", 256)


def test_two_servers_that_start_at_once_make_one_ledger(address: str) -> None:
    async def go() -> None:
        async with asyncio.TaskGroup() as group:
            for number in range(4):
                group.create_task(one(number))

    async def one(number: int) -> None:
        async with a_ledger(address) as ledger:
            await (await ledger.reserve(intent(f"req_{number}"))).settle(USED, "answered")

    asyncio.run(go())
    assert len(rows(address)) == 4
