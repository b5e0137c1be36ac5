"""Groups of tasks, and cancellation that is not forgotten."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from ponder.compute.groups import TaskGroup, apart, group_beside


def test_what_the_block_raises_is_raised_as_it_is_when_its_tasks_have_ended() -> None:
    async def go() -> None:
        ended = asyncio.Event()

        async def beside() -> None:
            try:
                await asyncio.Event().wait()
            finally:
                ended.set()

        async def block() -> None:
            async with group_beside() as group:
                task = group.create_task(beside())
                await asyncio.sleep(0)
                try:
                    raise ValueError("its own")
                finally:
                    task.cancel()

        with pytest.raises(ValueError, match="its own"):
            await block()
        assert ended.is_set()

    asyncio.run(go())


def test_what_a_task_raises_ends_the_block() -> None:
    async def go() -> None:
        async def breaks() -> None:
            raise KeyError("a task's")

        async def block() -> None:
            async with group_beside() as group:
                group.create_task(breaks())
                await asyncio.Event().wait()

        with pytest.raises(ExceptionGroup) as raised:
            await block()
        assert isinstance(raised.value.exceptions[0], KeyError)

    asyncio.run(go())


async def fails_when_it_is_stopped() -> None:
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        raise ValueError("over its end") from None


def ended(work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
    """The task of what was cancelled when it waited."""

    async def go() -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.wait([task])
        return task

    return asyncio.run(go())


def test_a_group_that_is_cancelled_ends_as_cancelled_whatever_its_tasks_make_of_it() -> None:
    async def block() -> None:
        async with TaskGroup() as group:
            group.create_task(fails_when_it_is_stopped())
            await asyncio.Event().wait()

    assert ended(block()).cancelled()


def test_what_fails_over_its_cancellation_ends_as_cancelled() -> None:
    async def block() -> None:
        await apart(fails_when_it_is_stopped())

    assert ended(block()).cancelled()


def test_what_fails_of_itself_fails_and_a_time_that_is_up_is_no_cancellation() -> None:
    async def own() -> None:
        raise ValueError("its own")

    async def fails() -> None:
        await apart(own())

    async def fails_in_a_group() -> None:
        async with TaskGroup() as group:
            group.create_task(own())

    async def late() -> None:
        async with asyncio.timeout(0.01), TaskGroup() as group:
            group.create_task(fails_when_it_is_stopped())
            await asyncio.Event().wait()

    async def late_apart() -> None:
        async with asyncio.timeout(0.01):
            await apart(fails_when_it_is_stopped())

    with pytest.raises(ValueError, match="its own"):
        asyncio.run(fails())
    with pytest.raises(ExceptionGroup):
        asyncio.run(fails_in_a_group())
    with pytest.raises(TimeoutError):
        asyncio.run(late())
    with pytest.raises(TimeoutError):
        asyncio.run(late_apart())


async def fails_at(moment: asyncio.Event) -> None:
    await moment.wait()
    raise ValueError("its own")


def test_a_group_whose_task_fails_as_it_waits_leaves_no_cancellation_behind() -> None:
    async def go() -> int:
        moment = asyncio.Event()
        asyncio.get_running_loop().call_later(0.01, moment.set)
        with pytest.raises(ExceptionGroup):
            async with TaskGroup() as group:
                group.create_task(fails_at(moment))
        task = asyncio.current_task()
        assert task is not None
        return task.cancelling()

    assert asyncio.run(go()) == 0


def test_errors_that_come_before_a_cancellation_do_not_hide_it() -> None:
    """The group is stopping its tasks over an error of one when its own task is cancelled."""
    went_on = False

    async def slow_to_stop() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0.02)

    async def block() -> None:
        nonlocal went_on
        try:
            async with TaskGroup() as group:
                group.create_task(slow_to_stop())
                await asyncio.sleep(0)
                raise ValueError("the block's")
        except ExceptionGroup:
            went_on = True

    assert ended(block()).cancelled()
    assert not went_on


def test_who_cleans_up_behind_a_cancelled_group_may_wait() -> None:
    cleaned = False

    async def block() -> None:
        nonlocal cleaned
        try:
            async with TaskGroup() as group:
                group.create_task(fails_when_it_is_stopped())
                await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0.01)
            cleaned = True

    assert ended(block()).cancelled()
    assert cleaned


def test_a_group_waits_for_what_its_tasks_begin() -> None:
    async def go() -> list[int]:
        done = list[int]()

        async def after(number: int) -> None:
            await asyncio.sleep(0)
            done.append(number)
            if number < 3:
                group.create_task(after(number + 1))

        async with TaskGroup() as group:
            group.create_task(after(0))
        return done

    assert asyncio.run(go()) == [0, 1, 2, 3]


def test_work_apart_leaves_nothing_behind_on_its_caller() -> None:
    """A plain group whose task fails as it waits marks the task it is in as cancelled, and forgets about it."""

    async def leaves() -> None:
        moment = asyncio.Event()
        asyncio.get_running_loop().call_later(0.01, moment.set)
        async with asyncio.TaskGroup() as group:
            group.create_task(fails_at(moment))

    async def go() -> int:
        with pytest.raises(ExceptionGroup):
            await apart(leaves())
        task = asyncio.current_task()
        assert task is not None
        return task.cancelling()

    assert asyncio.run(go()) == 0


def test_who_is_cancelled_waits_for_the_end_of_work_apart_however_often_it_is_cancelled() -> None:
    async def go() -> tuple[bool, int]:
        stopped = 0

        async def stubborn() -> None:
            nonlocal stopped
            while stopped < 3:
                try:
                    await asyncio.Event().wait()
                except asyncio.CancelledError:
                    stopped += 1

        task = asyncio.create_task(apart(stubborn()))
        for _ in range(3):
            await asyncio.sleep(0.01)
            assert not task.done()
            task.cancel()
        await asyncio.wait([task])
        return task.cancelled(), stopped

    assert asyncio.run(go()) == (True, 3)
