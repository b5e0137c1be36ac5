"""Tasks beside a block of code."""

from __future__ import annotations

import asyncio

import pytest

from ponder.compute.groups import group_beside


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
