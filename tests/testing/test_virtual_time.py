"""A clock that jumps goes as far as the sleeps it jumps over, however short or long they are."""

from __future__ import annotations

import asyncio

import pytest

from ponder.testing import in_virtual_time


@pytest.mark.parametrize("pause", [1e-6, 4e-4, 0.01, 1.0, 3600.0, 1e8])
def test_time_passes_by_sleeping(pause: float) -> None:
    """Also while something else is at work."""

    async def busy() -> None:
        for _ in range(100):
            await asyncio.sleep(0)

    async def ten() -> float:
        async with asyncio.TaskGroup() as group:
            group.create_task(busy())
            for _ in range(10):
                await asyncio.sleep(pause)
        return asyncio.get_running_loop().time()

    assert in_virtual_time(ten()) == pytest.approx(10 * pause)
