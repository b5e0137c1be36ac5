"""Tasks beside a block of code, whose own error stays what it is."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager


@asynccontextmanager
async def group_beside() -> AsyncGenerator[asyncio.TaskGroup]:
    """A task group for tasks beside the block, which ends them itself. What the block raises is raised as it is, where
    a group would wrap it; what its tasks raise, the group wraps."""
    raised: Exception | None = None
    async with asyncio.TaskGroup() as group:
        try:
            yield group
        except Exception as error:  # noqa: BLE001 (raised below)
            raised = error
    if raised is not None:
        raise raised
