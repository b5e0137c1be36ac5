"""The rows of `Idempotency-Key`, on SQLite and PostgreSQL: who may run, what others learn, and what is forgotten."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import select

from ponder.compute.errors import Unavailable
from ponder.compute.usage import Usage
from ponder.metering import upkeep
from ponder.metering.database import database
from ponder.metering.idempotency import Claim, IdempotencyStore, Kept
from ponder.metering.ledger import Ledger
from ponder.metering.migrate import migrate
from ponder.metering.tables import idempotency
from tests.metering.ledgers import a_ledger, execute, intent, rows

LONG = 30.0
"""Seconds nothing takes."""
USED = Usage(prompt=12, hidden=5, visible=2)


def claim(request: str = "req_1", id: str = "id", body: bytes = b"body") -> Claim:
    return Claim(id, request, "alice", "secret", body)


@asynccontextmanager
async def a_store(address: str) -> AsyncGenerator[tuple[IdempotencyStore, Ledger]]:
    """A server's."""
    async with a_ledger(address) as ledger:
        yield IdempotencyStore(ledger), ledger


def kept(address: str) -> dict[str, Any]:
    engine = database(address).engine(reads=True)
    with engine.connect() as connection:
        found = {row["id"]: dict(row) for row in connection.execute(select(idempotency)).mappings()}
    engine.dispose()
    return found


def dead(address: str, ledger: Ledger) -> None:
    """The process of a ledger has been found dead."""
    execute(address, "UPDATE servers SET ended_ms = 1, epoch = epoch + 1 WHERE id = :id", id=ledger.process.id)


def test_of_many_servers_one_may_run_and_the_others_learn_what_came_of_it(address: str) -> None:
    async def go() -> None:
        async with AsyncExitStack() as stack:
            stores = [(await stack.enter_async_context(a_store(address)))[0] for _ in range(5)]
            async with asyncio.TaskGroup() as group:
                asked = [group.create_task(one.claim(claim(f"req_{i}"), LONG)) for i, one in enumerate(stores)]
            (won,) = [i for i, task in enumerate(asked) if task.result() is None]
            running = Kept(f"req_{won}", "secret", b"body", "runs", None)
            assert {task.result() for task in asked} == {None, running}
            owner, other = stores[won], stores[won - 1]
            assert await owner.confirm("id", f"req_{won}", LONG)
            assert await other.wanted("id", LONG) == 0
            await other.want("id", LONG)
            assert await owner.wanted("id", LONG) == 1
            await owner.finish("id", f"req_{won}", b"sealed", 60, LONG, lost=False)
            for store in stores:
                assert await store.claim(claim("req_9"), LONG) == replace(running, state="answered", answer=b"sealed")
            # What is over stays as it is.
            await owner.finish("id", f"req_{won}", b"other", 60, LONG, lost=True)
            await owner.release("id", f"req_{won}", LONG)
            assert kept(address)["id"]["answer"] == b"sealed"

    asyncio.run(go())


def test_a_key_that_was_released_is_free_for_any_body(address: str) -> None:
    async def go() -> None:
        async with a_store(address) as (first, _), a_store(address) as (second, _):
            assert await first.claim(claim(), LONG) is None
            await second.release("id", "req_other", LONG)
            assert await second.claim(claim("req_2", body=b"other"), LONG) is not None
            await first.release("id", "req_1", LONG)
            assert await second.claim(claim("req_2", body=b"other"), LONG) is None
            assert not await first.confirm("id", "req_1", LONG)

    asyncio.run(go())


def test_what_becomes_of_a_key_whose_server_died(address: str) -> None:
    """By what its row in the ledger says."""

    async def go() -> None:
        async with a_store(address) as (first, ledger), a_store(address) as (second, other):
            for name in ("before", "begun", "billed", "answered"):
                assert await first.claim(claim(f"req_{name}", name), LONG) is None
            begun = await ledger.reserve(intent("req_begun"))
            billed = await ledger.reserve(intent("req_billed"))
            answered = await ledger.reserve(intent("req_answered"))
            await answered.settle(USED, "answered")
            for name in ("before", "begun", "billed", "answered"):
                found = await second.claim(claim("req_new", name), LONG)
                assert found is not None
                assert found.state == "runs"
            dead(address, ledger)
            execute(address, "UPDATE requests SET settled_ms = 1, outcome = 'lost' WHERE settled_ms IS NULL")
            execute(address, "UPDATE requests SET prompt = 12 WHERE id = 'req_billed'")
            assert await second.claim(claim("req_new", "before"), LONG) is None
            assert await second.claim(claim("req_newer", "begun"), LONG) is None
            assert not await first.confirm("begun", "req_begun", LONG)
            # What it would write now is of no use to anybody.
            await first.finish("begun", "req_begun", b"sealed", 60, LONG, lost=False)
            assert kept(address)["begun"]["outcome"] is None
            for name, state in (("billed", "lost"), ("answered", "answered")):
                found = await second.claim(claim("req_new", name), LONG)
                assert found is not None
                assert (found.request, found.state, found.answer) == (f"req_{name}", state, None)
            for bill in (begun, billed):
                await bill.settle(USED, "answered")
            assert other.process.id != ledger.process.id

    asyncio.run(go())


def test_a_run_that_billed_nothing_leaves_its_key_free_though_its_server_lives(address: str) -> None:
    async def go() -> None:
        async with a_store(address) as (first, ledger), a_store(address) as (second, _):
            assert await first.claim(claim(), LONG) is None
            await (await ledger.reserve(intent())).settle(Usage(), "turned_away")
            assert await second.claim(claim("req_2"), LONG) is None

    asyncio.run(go())


def test_nobody_takes_a_key_from_one_that_has_begun(address: str) -> None:
    """A server that was taken for dead, wrongly, writes its intent: who takes the key sees that, or is seen."""

    async def go() -> None:
        async with a_store(address) as (first, ledger), a_store(address) as (second, _):
            for number in range(20):
                id, request = f"id_{number}", f"req_{number}"
                assert await first.claim(claim(request, id), LONG) is None
                dead(address, ledger)

                async def begins(id: str = id, request: str = request) -> bool:
                    bill = await ledger.reserve(intent(request))
                    if await first.confirm(id, request, LONG):
                        return True
                    await bill.settle(Usage(), "turned_away")
                    return False

                async with asyncio.TaskGroup() as group:
                    began = group.create_task(begins())
                    took = group.create_task(second.claim(claim(f"req_new_{number}", id), LONG))
                assert began.result() != (took.result() is None)

    asyncio.run(go())


def test_keys_and_answers_go_when_their_time_is_over(address: str) -> None:
    async def go() -> None:
        async with a_store(address) as (store, ledger):
            for name in ("old", "new", "none"):
                assert await store.claim(claim(f"req_{name}", name), LONG) is None
                answer = None if name == "none" else b"sealed"
                await store.finish(name, f"req_{name}", answer, 3 * 86400, LONG, lost=False)
            execute(address, "UPDATE idempotency SET answer_until_ms = 1 WHERE id = 'old'")
            execute(address, "UPDATE idempotency SET until_ms = 1 WHERE id = 'none'")
            found = await store.claim(claim("req_x", "old"), LONG)
            assert found is not None
            assert (found.state, found.answer) == ("answered", None)
            ledger._writer._sweep()  # pyright: ignore[reportPrivateUsage]
            assert {id: row["answer"] for id, row in kept(address).items()} == {"old": None, "new": b"sealed"}
            assert kept(address)["new"]["until_ms"] == kept(address)["new"]["answer_until_ms"]
            execute(address, "UPDATE idempotency SET until_ms = 1")
            # Also where nobody has swept.
            assert await store.claim(claim("req_y", "new"), LONG) is None
        upkeep.expire(database(address), 1)
        assert kept(address).keys() == {"new"}

    asyncio.run(go())


def test_answers_of_a_user_go_with_its_rows_and_none_are_in_backups(address: str, tmp_path: Any) -> None:
    async def go() -> None:
        async with a_store(address) as (store, ledger):
            for user in ("u-1", "u-2"):
                assert await store.claim(claim(f"req_{user}", user), LONG) is None
                await (await ledger.reserve(intent(f"req_{user}", user=user))).settle(USED, "answered")
                await store.finish(user, f"req_{user}", b"sealed", 60, LONG, lost=False)

    asyncio.run(go())
    place = database(address)
    assert upkeep.copy(place, tmp_path / "copy.db") == 2
    assert not kept(f"sqlite:///{tmp_path}/copy.db")
    assert upkeep.erase(place, "u-1", keep_counts=True) == 1
    assert {id: row["answer"] for id, row in kept(address).items()} == {"u-1": None, "u-2": b"sealed"}
    assert upkeep.erase(place, "u-2") == 1
    assert {id: row["answer"] for id, row in kept(address).items()} == {"u-1": None, "u-2": None}


def test_nobody_is_told_anything_where_the_database_is_away(address: str) -> None:
    async def go() -> None:
        async with a_store(address) as (store, _):
            execute(address, "ALTER TABLE idempotency RENAME TO elsewhere")
            for work in (store.claim(claim(), LONG), store.wanted("id", LONG), store.confirm("id", "req_1", LONG)):
                with pytest.raises(Unavailable) as refused:
                    await work
                assert refused.value.code == "ledger_unavailable"
            execute(address, "ALTER TABLE elsewhere RENAME TO idempotency")
            assert await store.claim(claim(), LONG) is None

    asyncio.run(go())


def test_a_ledger_of_the_version_before_has_no_keys_and_keeps_its_rows(address: str) -> None:
    place = database(address)
    migrate(place.engine(long=True), "0004")
    execute(
        address,
        "INSERT INTO requests (id, owner, epoch, begun_ms, settled_ms, key, model, strategy, budget, reserved,"
        " thinking) VALUES ('req_old', 'srv_old', 1, 1000, 2000, 'alice', 'demo', 'direct', 100, 120, 77)",
    )
    assert migrate(place.engine(long=True))[0] == "0004"
    assert rows(address)["req_old"]["thinking"] == 77
    assert not kept(address)
