"""The ledger on SQLite and on PostgreSQL: what is durable when, what is settled once, what another process may do."""

from __future__ import annotations

import asyncio
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from ponder.compute.account import Progress
from ponder.compute.errors import Unavailable
from ponder.compute.usage import Usage
from ponder.metering import processes as processes_
from ponder.metering.database import WrongAddress, database, state_folder
from ponder.metering.ledger import OPENING, LedgerBill
from ponder.metering.processes import Process, Watcher, this_process
from tests.metering.databases import PostgreSQL, postgresql
from tests.metering.ledgers import Watched, a_ledger, execute, files_of_at_most, intent, processes, rows

USED = Usage(12, 300, 20, 40, 12, 5, 7, 3, 2, prompt_cached=5, wasted=9)


def test_a_row_is_durable_before_the_request_begins_and_settled_once(address: str) -> None:
    async def go() -> None:
        watched = Watched()
        async with a_ledger(address, watched) as ledger:
            more: dict[str, Any] = {"asked": 2000, "verifier": "prm", "user": "u-1", "metadata": {"team": "red"}}
            bill = await ledger.reserve(intent(**more))
            (opened,) = rows(address).values()
            assert opened["settled_ms"] is None
            assert (opened["budget_asked"], opened["budget"], opened["reserved"]) == (2000, 1000, 1100)
            assert (opened["key"], opened["model"], opened["strategy"]) == ("alice", "demo", "direct")
            assert (opened["verifier"], opened["user"], opened["metadata"]) == ("prm", "u-1", {"team": "red"})
            assert (ledger.unsettled, ledger.reserved) == (1, 1100)
            bill.follow(lambda: Progress(USED, open=0, samples=2, stopped_by="budget"))
            await bill.settle(USED, "answered")
            await bill.settle(Usage(hidden=5), "disconnected")
            (row,) = rows(address).values()
            assert {name: row[name] for name in ("prompt", "cached", "thinking", "answer")} == {
                "prompt": 12,
                "cached": 5,
                "thinking": 300,
                "answer": 20,
            }
            assert (row["verifier_tokens"], row["discarded"], row["wasted"]) == (7, 40, 9)
            assert (row["outcome"], row["stopped_by"], row["samples"], row["uncertain"]) == ("answered", "budget", 2, 0)
            assert row["settled_ms"] >= row["begun_ms"]
            assert row["seconds"] >= 0
            assert (ledger.unsettled, ledger.reserved) == (0, 0)
            assert [told["id"] for told in watched.rows] == ["req_1"]
            assert watched.commits >= 2
            assert not watched.drift
        (process,) = processes(address)
        assert process["ended_ms"] is not None

    asyncio.run(go())


def test_many_requests_share_their_commits(address: str) -> None:
    async def go() -> None:
        watched = Watched()
        async with a_ledger(address, watched) as ledger:

            async def one(number: int) -> None:
                bill = await ledger.reserve(intent(f"req_{number}"))
                await bill.settle(USED, "answered")

            async with asyncio.TaskGroup() as group:
                for number in range(200):
                    group.create_task(one(number))
            assert watched.commits < 100
        assert len(rows(address)) == 200
        assert all(row["settled_ms"] for row in rows(address).values())

    asyncio.run(go())


def test_checkpoints_are_written_while_a_request_runs(address: str) -> None:
    async def go() -> None:
        watched = Watched()
        async with a_ledger(address, watched, checkpoint=64) as ledger:
            bill = await ledger.reserve(intent())
            assert bill.every == 32
            now = Usage(prompt=12)

            def progress() -> Progress:
                return Progress(now, open=3, samples=0, stopped_by=None)

            bill.follow(progress)
            for step in range(1, 5):
                now = Usage(prompt=12, hidden=32 * step)
                bill.look()
                bill.look()
                await _until(lambda made=now.hidden: rows(address)["req_1"]["thinking"] == made)
            row = rows(address)["req_1"]
            assert (row["prompt"], row["chains"], row["settled_ms"]) == (12, 3, None)
            await bill.settle(USED, "answered")
            bill.look()
            assert rows(address)["req_1"]["thinking"] == 300

    asyncio.run(go())


def test_a_caller_who_leaves_while_the_row_is_written_leaves_nothing_open(address: str) -> None:
    async def go() -> None:
        watched = Watched()
        async with a_ledger(address, watched) as ledger:
            opening = asyncio.create_task(ledger.reserve(intent()))
            await asyncio.sleep(0)
            opening.cancel()
            with pytest.raises(asyncio.CancelledError):
                await opening
            assert (ledger.unsettled, ledger.reserved) == (0, 0)
        assert all(row["settled_ms"] and not row["thinking"] for row in rows(address).values())
        assert not watched.rows

    asyncio.run(go())


def test_the_words_of_a_caller_are_kept_as_far_as_they_can_be_stored(address: str) -> None:
    async def go() -> None:
        async with a_ledger(address) as ledger:
            odd = {"nul\0": "half \ud800", "long": "x" * 5000}
            bill = await ledger.reserve(intent(user="é\0" * 400, metadata=odd))
            await bill.settle(USED, "answered")
            await (await ledger.reserve(intent("req_2"))).settle(USED, "answered")
        row = rows(address)["req_1"]
        assert row["user"] == "é\ufffd" * 256
        assert row["metadata"] == {"nul\ufffd": "half ?", "long": "x" * 512}
        assert rows(address)["req_2"]["metadata"] is None

    asyncio.run(go())


def test_who_is_taken_for_dead_goes_on_and_settles_nothing_a_second_time(address: str) -> None:
    """Another server fences this one: a row that was open then stays as that one settled it."""

    async def go() -> None:
        watched = Watched()
        async with a_ledger(address, watched) as ledger:
            bill = await ledger.reserve(intent())
            execute(address, "UPDATE servers SET epoch = epoch + 1, ended_ms = 5")
            execute(address, "UPDATE requests SET settled_ms = 5, outcome = 'lost', thinking = 100")
            await bill.settle(USED, "answered")
            assert (rows(address)["req_1"]["outcome"], rows(address)["req_1"]["thinking"]) == ("lost", 100)
            assert not watched.rows
            assert watched.drift == [USED.generated - 100]
            again = await ledger.reserve(intent("req_2"))
            await again.settle(USED, "answered")
            row = rows(address)["req_2"]
            assert (row["outcome"], row["epoch"]) == ("answered", 3)
            assert [told["id"] for told in watched.rows] == ["req_2"]

    asyncio.run(go())


def test_what_comes_too_late_is_told_once_however_often_it_is_tried(tmp_path: Path) -> None:
    address = f"sqlite:///{tmp_path}/ledger.db"

    async def go() -> None:
        watched = Watched()
        async with a_ledger(address, watched) as ledger:
            bill = await ledger.reserve(intent())
            execute(address, "UPDATE servers SET epoch = epoch + 1, ended_ms = 5")
            execute(address, "UPDATE requests SET settled_ms = 5, outcome = 'lost', thinking = 100")
            with files_of_at_most(1024):
                await bill.settle(USED, "answered")
                assert ledger.away
            await _until(lambda: not ledger.away and not ledger.unsettled)
            assert watched.drift == [USED.generated - 100]

    asyncio.run(go())


def test_two_servers_share_a_ledger_and_leave_each_other_s_rows_alone(address: str) -> None:
    async def go() -> None:
        async with a_ledger(address) as one:
            bill = await one.reserve(intent("req_1"))
            async with a_ledger(address) as other:
                await (await other.reserve(intent("req_2"))).settle(USED, "answered")
            assert rows(address)["req_1"]["settled_ms"] is None
            await bill.settle(USED, "answered")
        assert {row["outcome"] for row in rows(address).values()} == {"answered"}

    asyncio.run(go())


NOBODY = 1 << 30
"""The number of no process."""


def test_what_is_uncertain_is_told_by_the_checkpoints_of_the_server_that_died(tmp_path: Path) -> None:
    """Which may have had other settings."""
    address = f"sqlite:///{tmp_path}/ledger.db"

    async def go() -> None:
        async with a_ledger(address, checkpoint=64) as ledger:
            await ledger.reserve(intent())
            execute(address, "UPDATE servers SET pid = :nobody", nobody=NOBODY)
            async with a_ledger(address, checkpoint=1024):
                row = rows(address)["req_1"]
                assert (row["outcome"], row["uncertain"]) == ("lost", 64)

    asyncio.run(go())


def test_a_copy_of_a_machine_does_not_take_the_servers_of_the_other_for_dead(a_postgresql: PostgreSQL) -> None:
    """Both were resumed from one snapshot: the id of the boot is the same, and the processes are others."""
    address = a_postgresql.new()

    async def go() -> None:
        async with a_ledger(address) as ledger:
            bill = await ledger.reserve(intent())
            execute(address, "UPDATE servers SET pid = :nobody", nobody=NOBODY)
            async with a_ledger(address):
                assert rows(address)["req_1"]["settled_ms"] is None
            await bill.settle(USED, "answered")
        assert rows(address)["req_1"]["outcome"] == "answered"

    asyncio.run(go())


def test_a_process_is_dead_when_the_kernel_says_so_and_elsewhere_when_it_is_silent() -> None:
    me = this_process()
    assert me.machine
    assert me.pid == os.getpid()
    clock = [0.0]
    watcher = Watcher(me, lease=60, clock=lambda: clock[0])
    assert not watcher.dead(Process("b", me.machine, me.pid, me.started), 1, 0)
    assert watcher.dead(Process("c", me.machine, me.pid, me.started - 1), 1, 0), "the number was given away again"
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
    started = processes_._started(os.getpid()) or 0  # pyright: ignore[reportPrivateUsage]
    assert watcher.dead(Process("d", me.machine, child, started), 1, 0), "it has ended, though nobody has waited for it"
    os.waitpid(child, 0)
    elsewhere = Process("e", "another machine", 1, 1)

    def dead(epoch: int, seen_ms: int, at: float) -> bool:
        clock[0] = at
        return watcher.dead(elsewhere, epoch, seen_ms) is not None

    assert not dead(1, 100, 0)
    assert not dead(1, 200, 20), "it has given a sign of life"
    assert not dead(1, 200, 45)
    assert not dead(1, 200, 70)
    assert dead(1, 200, 85)
    assert not dead(2, 200, 90)


def test_nobody_is_dead_because_the_database_was_away() -> None:
    """None could give a sign of life then, and who is back first has not seen the others yet."""
    clock = [0.0]
    watcher, elsewhere = Watcher(this_process(), lease=60, clock=lambda: clock[0]), Process("e", "elsewhere", 1, 1)
    for clock[0] in (0.0, 10.0, 20.0):
        assert not watcher.dead(elsewhere, 1, 100)
    for clock[0] in (120.0, 130.0, 160.0):
        assert not watcher.dead(elsewhere, 1, 100)
    clock[0] = 185.0
    assert watcher.dead(elsewhere, 1, 100)


def test_a_process_that_proc_does_not_show_is_not_dead_for_that(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """/proc may be mounted so that it hides other users' processes (hidepid)."""
    me, clock = this_process(), [0.0]
    monkeypatch.setattr(processes_, "PROC", tmp_path)
    watcher = Watcher(me, lease=60, clock=lambda: clock[0])
    hidden = Process("b", me.machine, os.getppid(), 1)
    for clock[0] in (0.0, 30.0, 60.0):
        assert not watcher.dead(hidden, 1, 100)
    clock[0] = 61.0
    assert watcher.dead(hidden, 1, 100), "its number may be another's by now"
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    assert watcher.dead(Process("c", me.machine, child, 1), 1, 100)


def test_a_row_that_was_never_settled_is_settled_when_the_server_ends(address: str) -> None:
    """Nobody looks for the rows of a process that has signed out."""

    async def go() -> None:
        watched = Watched()
        async with a_ledger(address, watched, checkpoint=64) as ledger:
            bill = await ledger.reserve(intent())
            bill.follow(lambda: Progress(Usage(prompt=12, hidden=40), open=1, samples=0, stopped_by=None))
            bill.look()
            await _until(lambda: rows(address)["req_1"]["thinking"] == 40)
        async with a_ledger(address, watched):
            await asyncio.sleep(0)
        row = rows(address)["req_1"]
        assert row["settled_ms"]
        assert (row["outcome"], row["thinking"], row["uncertain"]) == ("lost", 40, 64)
        assert [told["id"] for told in watched.rows] == ["req_1"]

    asyncio.run(go())


def test_a_row_that_no_database_takes_is_refused_and_the_next_is_written(address: str) -> None:
    async def go() -> None:
        async with a_ledger(address) as ledger:
            good = await ledger.reserve(intent("req_good"))
            with pytest.raises(Unavailable):
                await ledger.reserve(intent("req_bad", asked=10**30))
            assert not ledger.away
            await good.settle(USED, "answered")
            await (await ledger.reserve(intent("req_next"))).settle(USED, "answered")
        assert {name: row["outcome"] for name, row in rows(address).items()} == {
            "req_good": "answered",
            "req_next": "answered",
        }

    asyncio.run(go())


def test_a_request_waits_for_its_row_no_longer_than_it_has_time(tmp_path: Path) -> None:
    address = f"sqlite:///{tmp_path}/ledger.db"

    async def go() -> None:
        async with a_ledger(address) as ledger:
            other = database(address).engine(long=True)
            with other.begin():
                # Far less than a request waits that has time.
                async with asyncio.timeout(OPENING * 0.6):
                    with pytest.raises(Unavailable):
                        await ledger.reserve(intent(timeout=0.05))
            other.dispose()
        assert all(row["settled_ms"] and not row["thinking"] for row in rows(address).values())

    asyncio.run(go())


# -- the database is away ---------------------------------------------------------------------------------------------


def test_a_full_disk_admits_nobody_and_is_made_up_for_when_there_is_room(tmp_path: Path) -> None:
    """No file may grow: what the system says then is what a full disk makes SQLite say."""
    address = f"sqlite:///{tmp_path}/ledger.db"

    async def go() -> None:
        watched = Watched()
        async with a_ledger(address, watched) as ledger:
            bills = [await ledger.reserve(intent(f"req_{i}")) for i in range(3)]
            with files_of_at_most(1024):
                with pytest.raises(Unavailable) as refused:
                    await ledger.reserve(intent("req_full"))
                assert refused.value.code == "ledger_unavailable"
                assert ledger.away
                for bill in bills:
                    await bill.settle(USED, "answered")
                with pytest.raises(Unavailable):
                    await ledger.reserve(intent("req_refused"))
            await _until(lambda: not ledger.away and not ledger.unsettled)
            await (await ledger.reserve(intent("req_after"))).settle(USED, "answered")
        found = rows(address)
        assert found.keys() == {"req_0", "req_1", "req_2", "req_after"}
        assert {row["outcome"] for row in found.values()} == {"answered"}
        assert len(watched.rows) == 4

    asyncio.run(go())


def test_a_file_that_is_moved_away_admits_nobody_until_it_is_back(tmp_path: Path) -> None:
    """A process could go on writing to it, and nobody would ever read that."""
    file, address = tmp_path / "ledger.db", f"sqlite:///{tmp_path}/ledger.db"

    async def go() -> None:
        async with a_ledger(address) as ledger:
            bill = await ledger.reserve(intent("req_1"))
            file.rename(tmp_path / "moved.db")
            await bill.settle(USED, "answered")
            with pytest.raises(Unavailable):
                await ledger.reserve(intent("req_2"))
            assert ledger.away
            (tmp_path / "moved.db").rename(file)
            await _until(lambda: not ledger.away and not ledger.unsettled)
            await (await ledger.reserve(intent("req_3"))).settle(USED, "answered")
        assert {name: row["outcome"] for name, row in rows(address).items()} == {
            "req_1": "answered",
            "req_3": "answered",
        }

    asyncio.run(go())


def test_a_database_that_is_stopped_admits_nobody_and_is_made_up_for_when_it_is_back(tmp_path: Path) -> None:
    async def go(server: PostgreSQL) -> None:
        address, watched = server.new(), Watched()
        async with a_ledger(address, watched) as ledger:
            bills: list[LedgerBill] = [await ledger.reserve(intent(f"req_{i}")) for i in range(3)]
            await asyncio.to_thread(server.stop)
            with pytest.raises(Unavailable) as refused:
                await ledger.reserve(intent("req_away"))
            assert refused.value.retry_after
            for bill in bills:
                await bill.settle(USED, "answered")
            assert ledger.away
            await asyncio.to_thread(server.start)
            await _until(lambda: not ledger.away and not ledger.unsettled)
            await (await ledger.reserve(intent("req_after"))).settle(USED, "answered")
        found = rows(address)
        assert found.keys() == {"req_0", "req_1", "req_2", "req_after"}
        assert {row["outcome"] for row in found.values()} == {"answered"}
        assert len(watched.rows) == 4

    with postgresql() as server:
        asyncio.run(go(server))


def test_a_connection_that_went_stale_costs_no_request_anything(a_postgresql: PostgreSQL) -> None:
    """The database was started again while nobody asked."""
    address = a_postgresql.new()
    ends = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() "

    async def go() -> None:
        watched = Watched()
        async with a_ledger(address, watched) as ledger:
            await (await ledger.reserve(intent("req_1"))).settle(USED, "answered")
            execute(address, ends + "AND pid <> pg_backend_pid()")
            bill = await ledger.reserve(intent("req_2"))
            execute(address, ends + "AND pid <> pg_backend_pid()")
            await bill.settle(USED, "answered")
            assert not ledger.away
        assert {name: row["outcome"] for name, row in rows(address).items()} == {
            "req_1": "answered",
            "req_2": "answered",
        }
        assert [row["id"] for row in watched.rows] == ["req_1", "req_2"]

    asyncio.run(go())


# -- where it lies ----------------------------------------------------------------------------------------------------


def test_the_default_is_a_file_for_its_owner_alone_in_the_state_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    place = database()
    file = tmp_path / "state" / "ponder" / "ledger.db"
    assert place.file == file
    place.engine().dispose()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    monkeypatch.setenv("XDG_STATE_HOME", "not/absolute")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert state_folder() == tmp_path / ".local/state/ponder"


def test_a_user_without_a_home_is_told_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """As containers run one that is in no list of users."""
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.delenv("HOME")

    def unlisted(number: int) -> Any:
        raise KeyError(number)

    monkeypatch.setattr("pwd.getpwuid", unlisted)
    for address in (None, "sqlite:///~/ledger.db"):
        with pytest.raises(WrongAddress, match="no home folder"):
            database(address)


def test_an_address_is_named_without_its_password() -> None:
    assert str(database("postgresql://me:secret@host:5433/bills")) == "PostgreSQL at host:5433, database bills"
    assert str(database("sqlite:////data/ledger.db")) == "/data/ledger.db"


@pytest.mark.parametrize("where", [None, "sqlite:////data/ledger.db"])
def test_a_sqlite_that_is_too_old_is_refused_before_anything_is_written(
    where: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sqlite3.sqlite_version_info", (3, 29, 0))
    monkeypatch.setattr("sqlite3.sqlite_version", "3.29.0")
    with pytest.raises(WrongAddress, match=r"has SQLite 3\.29\.0, and a ledger wants 3\.30 or newer"):
        database(where)
    assert database("postgresql://host/bills").file is None


@pytest.mark.parametrize("wrong", ["mysql://host/db", "sqlite://", "sqlite:///:memory:", "ledger.db", "sqlite+x:///a"])
def test_an_address_that_cannot_be_meant_is_refused(wrong: str) -> None:
    with pytest.raises(WrongAddress):
        database(wrong)


async def _until(true: Any) -> None:
    async with asyncio.timeout(30):
        while not true():  # noqa: ASYNC110 - another thread does it
            await asyncio.sleep(0.01)


def test_who_looks_at_the_file_from_elsewhere_takes_nothing_away_from_a_server(tmp_path: Path) -> None:
    """A server has several connections. SQLite's locks are POSIX's: a process drops those on a file when it closes the
    file once, and then another that closes its connection thinks it is the last."""
    address = f"sqlite:///{tmp_path}/ledger.db"
    look = (
        "import sqlite3; one = sqlite3.connect({!r}); print(one.execute('SELECT count(*) FROM requests').fetchone()[0])"
    )
    command = [sys.executable, "-c", look.format(str(tmp_path / "ledger.db"))]

    async def go() -> None:
        async with a_ledger(address) as ledger:
            more = [ledger.place.engine() for _ in range(2)]
            for number in range(3):
                for engine in more:
                    with engine.begin() as connection:
                        connection.execute(text("SELECT 1"))
                seen = await asyncio.to_thread(subprocess.check_output, command)
                assert int(seen) == number
                await (await ledger.reserve(intent(f"req_{number}"))).settle(USED, "answered")
            for engine in more:
                engine.dispose()

    asyncio.run(go())
    assert len(rows(address)) == 3
