"""Groups of tasks, and cancellation that is not forgotten.

Who is cancelled may fail over it: an engine that is stopped raises an error, tasks of a group raise theirs. What comes
out then is the error, and Python before 3.13 forgets that there was a cancellation (gh-116720). Whoever makes the best
of errors would go on for a caller who has gone. So the project's groups are these, and what is anybody's code (a
strategy, a verifier, an engine) runs `apart`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Coroutine, Generator
from contextlib import asynccontextmanager, suppress
from contextvars import Context
from types import TracebackType
from typing import Any, Self, TypeVar

T = TypeVar("T")


async def apart(work: Coroutine[Any, Any, T]) -> T:
    """What `work` comes to, in a task of its own. Cancelled meanwhile, it cancels that, waits for its end, and ends as
    cancelled, whatever the work made of it. A cancellation that the work leaves behind on its task, as task groups do
    before Python 3.13, is gone with it."""
    task, cancelled = asyncio.create_task(work), None
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError as again:
            cancelled = again
            task.cancel()
    if cancelled is None:
        return task.result()
    raise cancelled from None if task.cancelled() else task.exception()


class TaskGroup(asyncio.TaskGroup):
    """The same, but that it ends as cancelled where its task was cancelled, also where tasks of it have failed."""

    def __init__(self) -> None:
        super().__init__()
        self._own = set[asyncio.Task[Any]]()
        self._before = 0

    async def __aenter__(self) -> Self:
        self._before = _cancelled()
        return await super().__aenter__()

    def create_task(
        self,
        coro: Generator[Any, None, T] | Coroutine[Any, Any, T],
        *,
        name: str | None = None,
        context: Context | None = None,
    ) -> asyncio.Task[T]:
        """As of `asyncio.TaskGroup`."""
        task = super().create_task(coro, name=name, context=context)
        self._own.add(task)
        task.add_done_callback(self._own.discard)
        return task

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            # Where a task fails as the group waits for it, Python before 3.13 asks its own task to end, and does not
            # take that back. It does so for what fails before, so the waiting is done here.
            try:
                while self._own:
                    await asyncio.wait(self._own)
            except asyncio.CancelledError as cancelled:
                kind, error, trace = type(cancelled), cancelled, cancelled.__traceback__
        try:
            await super().__aexit__(kind, error, trace)
        except BaseExceptionGroup as group:
            if _cancelled() <= self._before:
                raise
            # Since 3.13 the next wait is cancelled, too: it is this one, so that whoever cleans up may wait.
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(0)
            raise asyncio.CancelledError from group


def _cancelled() -> int:
    """How often the current task was cancelled, but for what has been made up for."""
    task = asyncio.current_task()
    return 0 if task is None else task.cancelling()


@asynccontextmanager
async def group_beside() -> AsyncGenerator[TaskGroup]:
    """A task group for tasks beside the block, which ends them itself. What the block raises is raised as it is, where
    a group would wrap it; what its tasks raise, the group wraps."""
    raised: Exception | None = None
    async with TaskGroup() as group:
        try:
            yield group
        except Exception as error:  # noqa: BLE001 (raised below)
            raised = error
    if raised is not None:
        raise raised
