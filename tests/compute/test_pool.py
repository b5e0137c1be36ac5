"""Untrusted work is held: by processor time, by deadlines, by memory, by fairness, and by the life of the server."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from ponder.compute.answers.extraction import final_answer
from ponder.compute.answers.grouping import group
from ponder.compute.errors import NoVerdict
from ponder.compute.pool import KEPT, SPARE, Turns, WorkerPool, end_ready, keep_ready, pool
from ponder.compute.worker import MEMORY, NICE
from ponder.verifiers.agreement import Agreement
from ponder.verifiers.rules import Rules
from tests.verifiers.hand import candidate, run_of

ROOT = Path(__file__).parents[2]
EVER = 600.0
"""Seconds nobody in these tests waits for."""
HANGING = json.dumps({"type": "string", "pattern": "^(?!b)(a+)+$"}), json.dumps("a" * 60 + "b")
"""A schema and a text over which Python's `re` runs for longer than there is time, and which RE2 does not know."""


async def hang(pool: WorkerPool, tenant: str | None, seconds: float = EVER, wait: float = EVER) -> bool:
    until = asyncio.get_running_loop().time() + wait
    return await pool.ask("schema", *HANGING, tenant=tenant, seconds=seconds, until=until)


async def match(pool: WorkerPool, tenant: str, pattern: str = "b+$", text: str = "abb") -> bool:
    until = asyncio.get_running_loop().time() + EVER
    return await pool.ask("match", pattern, text, tenant=tenant, seconds=EVER, until=until)


def workers(of: int | None = None) -> set[psutil.Process]:
    """The living workers of a process."""
    found: set[psutil.Process] = set()
    for child in psutil.Process(of).children():
        with suppress(psutil.NoSuchProcess):
            if "worker.py" in " ".join(child.cmdline()) and child.status() != psutil.STATUS_ZOMBIE:
                found.add(child)
    return found


def gone(process: psutil.Process) -> bool:
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def none_left(processes: set[psutil.Process]) -> bool:
    """Waits until all have ended, for as long as the test may take."""
    until = time.monotonic() + 60
    while not all(gone(process) for process in processes) and time.monotonic() < until:
        time.sleep(0.01)
    return all(gone(process) for process in processes)


@pytest.fixture
def alone() -> None:
    """No worker is left of other tests."""
    for worker in (left := workers()):
        worker.kill()
    assert none_left(left)


# -- patterns of schemas ----------------------------------------------------------------------------------------------

NAMES: dict[str, Any] = {
    "patternProperties": {"^(a+)+$": {"type": "integer"}},
    "properties": {"b": {}},
    "additionalProperties": False,
}
DRAFT = {"$schema": "http://json-schema.org/draft-07/schema#"}
LONG = "a" * 50_000
PATTERNS: list[tuple[object, object, bool]] = [
    ({"pattern": "(a+)+$"}, LONG, True),
    ({"pattern": "(a+)+$"}, LONG + "b", False),
    ({"pattern": "(a+)+$"}, 7, True),
    (NAMES, {LONG: 7, "b": "x"}, True),
    (NAMES, {LONG: "x"}, False),
    (NAMES, {LONG + "c": 7}, False),
    (NAMES | {"additionalProperties": {"type": "null"}}, {LONG + "c": None}, True),
    (NAMES | {"additionalProperties": {"type": "null"}}, {LONG + "c": 7}, False),
    (DRAFT | {"pattern": "(a+)+$", "items": {"$ref": "#"}}, [[LONG], LONG], True),
    (DRAFT | {"pattern": "(a+)+$", "items": {"$ref": "#"}}, [[LONG + "b"]], False),
    ({"pattern": "^(?!b)a"}, "ab", True),
    ({"pattern": "^(?!a)a"}, "ab", False),
]


@pytest.mark.parametrize(("schema", "value", "fulfilled"), PATTERNS)
def test_patterns_of_a_schema_take_time_as_the_text_is_long(schema: object, value: object, fulfilled: bool) -> None:
    async def verdict() -> bool:
        until = asyncio.get_running_loop().time() + EVER
        return await pool().ask("schema", json.dumps(schema), json.dumps(value), tenant=None, seconds=20, until=until)

    assert asyncio.run(verdict()) == fulfilled


# -- fair -------------------------------------------------------------------------------------------------------------


def test_a_tenant_with_32_hanging_items_does_not_hold_up_another() -> None:
    async def main() -> tuple[bool, list[bool]]:
        pool = WorkerPool(4)
        async with asyncio.TaskGroup() as tasks:
            hanging = [tasks.create_task(hang(pool, "slow")) for _ in range(32)]
            found = [await match(pool, "quick"), not await match(pool, "other", "^b")]
            done = [task.done() for task in hanging]
            for task in hanging:
                task.cancel()
        return all(found), done

    assert asyncio.run(main()) == (True, [False] * 32)


def test_the_tenant_of_a_run_is_whose_turns_its_verifiers_take() -> None:
    """Somebody without a name hangs; a run of `b` goes on."""

    async def main() -> list[float]:
        run, _ = run_of(tenant="b")
        async with asyncio.TaskGroup() as tasks:
            hanging = [tasks.create_task(hang(pool(), None)) for _ in range(4 * KEPT)]
            texts = ["\\boxed{x^2+2x+1}", "\\boxed{(x+1)^2}", "\\boxed{x^2}"]
            agreed = await Agreement()(run, [candidate(t, number=i) for i, t in enumerate(texts)])
            ruled = await Rules(pattern="x")(run, [candidate("x")])
            assert not any(task.done() for task in hanging)
            for task in hanging:
                task.cancel()
        return [score.value for score in (*agreed, *ruled)]

    assert asyncio.run(main()) == pytest.approx([2 / 3, 2 / 3, 1 / 3, 1])


def test_turns_go_to_whoever_has_fewest_and_of_equals_in_turn() -> None:
    order: list[str] = []

    async def main() -> None:
        turns = Turns(1)
        first = asyncio.Event()

        async def one(tenant: str) -> None:
            async with turns.turn(tenant):
                order.append(tenant)
                await first.wait()

        async with asyncio.TaskGroup() as tasks:
            for tenant in "aaaabbc":
                tasks.create_task(one(tenant))
            await asyncio.sleep(0)
            first.set()

    asyncio.run(main())
    assert "".join(order) == "abcabaa"


def test_nobody_holds_all_places_and_each_has_one() -> None:
    async def main() -> list[str]:
        turns, running = Turns(8), list[str]()
        over = asyncio.Event()

        async def one(tenant: str) -> None:
            async with turns.turn(tenant):
                running.append(tenant)
                await over.wait()

        seen: list[str] = []
        async with asyncio.TaskGroup() as tasks:
            for tenant in "abc":
                for _ in range(9):
                    tasks.create_task(one(tenant))
                await asyncio.sleep(0)
                await asyncio.sleep(0)
                seen.append("".join(running))
            over.set()
        return seen

    assert asyncio.run(main()) == ["aaaa", "aaaabb", "aaaabbcc"]


def test_who_gives_up_waiting_or_working_leaves_the_place_to_others() -> None:
    async def main() -> list[str]:
        turns, done = Turns(1), list[str]()
        started = asyncio.Event()

        async def one(tenant: str) -> None:
            async with turns.turn(tenant):
                started.set()
                if tenant == "a":
                    await asyncio.Event().wait()
                done.append(tenant)

        async with asyncio.TaskGroup() as tasks:
            working = tasks.create_task(one("a"))
            await started.wait()
            waiting = tasks.create_task(one("b"))
            others = [tasks.create_task(one(tenant)) for tenant in "bc"]
            await asyncio.sleep(0)
            waiting.cancel()
            working.cancel()
            assert not any(task.done() for task in others)
        return done

    assert asyncio.run(main()) == ["b", "c"]


# -- bounded ----------------------------------------------------------------------------------------------------------


def test_what_takes_too_much_processor_time_is_killed_and_its_worker_replaced() -> None:
    async def main() -> str:
        pool = WorkerPool(2)
        with pytest.raises(NoVerdict) as none:
            await hang(pool, "a", seconds=0.2)
        assert await match(pool, "a")
        assert not await match(pool, "a", "^b")
        return none.value.reason

    assert asyncio.run(main()) == "overran"


def test_waiting_for_a_worker_counts_against_the_deadline() -> None:
    async def main() -> str:
        pool = WorkerPool(1)
        async with asyncio.TaskGroup() as tasks:
            hanging = tasks.create_task(hang(pool, "a"))
            with pytest.raises(NoVerdict) as none:
                await hang(pool, "a", wait=0.1)
            assert not hanging.done()
            hanging.cancel()
        return none.value.reason

    assert asyncio.run(main()) == "late"


@pytest.mark.usefixtures("alone")
def test_a_caller_who_goes_away_takes_the_work_along() -> None:
    async def main() -> set[psutil.Process]:
        async with asyncio.TaskGroup() as tasks:
            hanging = tasks.create_task(hang(WorkerPool(1), "a"))
            await asyncio.sleep(0)
            busy = workers()
            assert len(busy) == 1
            hanging.cancel()
        return busy

    assert none_left(asyncio.run(main()))


@pytest.mark.usefixtures("alone")
def test_an_item_that_swells_costs_itself_only() -> None:
    """Of the text `[],` three characters become 64 bytes of memory. The limit is lowered, to save time."""
    schema = json.dumps({"uniqueItems": True})
    swelling = "{}", f"[{'[],' * 1_000_000}[]]"

    async def main() -> list[str | bool]:
        pool = WorkerPool(2)
        until = asyncio.get_running_loop().time() + EVER
        found: list[str | bool] = [await match(pool, "a")]
        (worker,) = workers()
        assert worker.rlimit(psutil.RLIMIT_AS) == (MEMORY, MEMORY)
        worker.rlimit(psutil.RLIMIT_AS, (worker.memory_info().vms + 2**25, MEMORY))
        for rules, text in (swelling, (schema, "[1,1]"), (schema, "[1,2]")):
            try:
                found.append(await pool.ask("schema", rules, text, tenant="a", seconds=EVER, until=until))
            except NoVerdict as none:
                found.append(none.reason)
        return found

    assert asyncio.run(main()) == [True, "unclear", False, True]


@pytest.mark.usefixtures("alone")
def test_a_worker_that_is_killed_from_outside_costs_one_item_and_no_memory_of_it() -> None:
    async def main() -> tuple[str, bool]:
        pool = WorkerPool(1)
        async with asyncio.TaskGroup() as tasks:

            async def lost() -> str:
                with pytest.raises(NoVerdict) as none:
                    await hang(pool, "a")
                assert not none.value.lasting
                return none.value.reason

            asked = tasks.create_task(lost())
            await asyncio.sleep(0)
            busy = workers()
            assert len(busy) == 1
            for worker in busy:
                worker.kill()
        return asked.result(), await match(pool, "a")

    assert asyncio.run(main()) == ("lost", True)


# -- kept ready -------------------------------------------------------------------------------------------------------

MATCH = "ponder.compute.worker:_patterns"
"""A task by its place."""


@pytest.mark.usefixtures("alone")
def test_a_task_is_kept_ready_by_workers_of_its_own_whatever_becomes_of_them() -> None:
    keep_ready(MATCH, "a", "a", seconds=EVER)

    async def main() -> list[Any]:
        pool, found = WorkerPool(4), list[Any]()
        until = asyncio.get_running_loop().time() + EVER
        async with asyncio.TaskGroup() as tasks:
            ready = workers()
            assert len(ready) == SPARE
            hanging = tasks.create_task(hang(pool, "a"))
            await asyncio.sleep(0)
            busy = workers() - ready
            for _ in range(3):
                found.append(await pool.work(MATCH, "b+$", "abb", tenant="b", seconds=EVER, until=until))
            for worker in (idle := workers() - busy):
                worker.kill()
            assert none_left(idle)
            found.append(await pool.work(MATCH, "^b", "abb", tenant="b", seconds=EVER, until=until))
            assert not hanging.done()
            hanging.cancel()
        return found

    try:
        assert asyncio.run(main()) == [True, True, True, False]
    finally:
        left = workers()
        end_ready(MATCH)
    assert none_left(left)


def test_a_worker_gives_way_to_the_server() -> None:
    asyncio.run(match(WorkerPool(1), "a"))
    own = psutil.Process().nice()
    assert {worker.nice() for worker in workers()} == {min(19, own + NICE)}


# -- ended with the server --------------------------------------------------------------------------------------------

SERVER = """
import asyncio
from ponder.compute.pool import WorkerPool
from tests.compute.test_pool import hang, match

async def main():
    pool = WorkerPool(4)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(hang(pool, "a"))
        tasks.create_task(hang(pool, "b"))
        await match(pool, "c")
        print("ready", flush=True)

asyncio.run(main())
"""


@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGTERM])
def test_however_the_server_dies_no_worker_is_left(sign: signal.Signals) -> None:
    """Two of them compute in a library that never looks up, one is idle."""
    server = subprocess.Popen(
        [sys.executable, "-c", SERVER], cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE
    )
    with server:
        assert server.stdout is not None
        assert server.stdout.readline() == b"ready\n"
        left = workers(server.pid)
        server.send_signal(sign)
    assert len(left) == 3
    assert none_left(left)


# -- grouping ---------------------------------------------------------------------------------------------------------


def fresh(n: int, salt: str) -> list[str]:
    """Different expressions that only algebra can tell apart, and that no test has asked about."""
    return [f"\\boxed{{\\sum_{{k=1}}^{{{i + 2}}}k^{salt}}}" for i in range(n)]


def test_a_verdict_that_did_not_come_in_time_is_not_remembered() -> None:
    """Workers that are stopped, as on a machine that has no time for them."""
    texts = ["\\boxed{\\sum_{k=1}^{17}k}", "\\boxed{153}"]

    async def main() -> tuple[list[int | None], list[int | None]]:
        await group(fresh(2, "3"))
        for worker in workers():
            worker.suspend()
        late = await group(texts, seconds=0.3)
        for worker in workers():
            worker.resume()
        return late, await group(texts)

    assert asyncio.run(main()) == ([0, 1], [0, 0])


def test_expressions_are_compared_side_by_side_and_with_one_deadline() -> None:
    towers = [f"\\boxed{{{n}^{{{n}^{{{n}^{{{n}^{{{n}}}}}}}}}}}" for n in range(3, 35)]

    async def main() -> tuple[list[int | None], int]:
        loop, most = asyncio.get_running_loop(), 0
        async with asyncio.TaskGroup() as tasks:
            until = loop.time() + 2
            grouping = tasks.create_task(group(towers, seconds=2))
            while not grouping.done():
                most = max(most, len([w for w in workers() if w.status() == psutil.STATUS_RUNNING]))
                await asyncio.sleep(0.05)
        # Not how long, but what ended it: at the deadline no comparison was over, as each may take longer.
        assert loop.time() >= until
        return grouping.result(), most

    found, most = asyncio.run(main())
    assert found == list(range(32))
    assert most >= 2


def test_groups_are_those_of_comparing_one_after_the_other() -> None:
    """Whichever verdicts come first."""
    texts = ["x^2-1", "(x-1)(x+1)", "x^3", "2x", "x*x*x", "x+x", "x^2 - 1", "-1+x^2", "3", "6/2", "\\sqrt{9}"]
    assert asyncio.run(group([f"\\boxed{{{t}}}" for t in texts])) == [0, 0, 1, 2, 1, 2, 0, 0, 3, 3, 3]


def test_what_is_remembered_of_long_answers_is_bounded() -> None:
    before = psutil.Process().memory_info().rss
    for i in range(400):
        final_answer(f"The answer is {i}. " + "x" * 200_000)
        final_answer(f'{{"a": {i}, "b": "{"x" * 200_000}"}}')
    assert psutil.Process().memory_info().rss - before < 64 * 2**20
