"""An event loop on which everything follows from a seed: virtual time, no threads, no order by addresses in memory.

What asyncio guarantees is kept: callbacks run in the order they were put. What it leaves open is drawn: which of two
timers of one moment is first, and in which order a group cancels its tasks.
"""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Callable
from contextvars import Context
from typing import Any

from ponder.engines.virtual_time import VirtualTimeLoop

APART = 1e-6
"""Seconds by which timers of one moment are drawn apart."""


class _Task(asyncio.Task[Any]):
    """Sets of tasks have an order that follows from the seed."""

    def __new__(cls, *_: Any, loop: SeededLoop, **__: Any) -> _Task:  # pyright: ignore[reportInconsistentConstructor]
        made = super().__new__(cls)
        # What hashes it first is its constructor: all tasks are in a set.
        made.number = loop.drawn()
        return made

    number: int

    def __hash__(self) -> int:
        return self.number


class _Future(asyncio.Future[Any]):
    """The same of futures."""

    def __new__(cls, *, loop: SeededLoop) -> _Future:  # pyright: ignore[reportInconsistentConstructor]
        made = super().__new__(cls)
        made.number = loop.drawn()
        return made

    number: int

    def __hash__(self) -> int:
        return self.number


class SeededLoop(VirtualTimeLoop):
    """For one seed. Work for threads is done on the loop, after a moment."""

    def __init__(self, chance: random.Random) -> None:
        super().__init__()
        self._chance = chance
        self._numbers = itertools.count()
        self.set_task_factory(self._task)
        self.raised: list[dict[str, Any]] = []
        """What nobody has caught."""
        self.set_exception_handler(lambda _, context: self.raised.append(context))

    def leap(self, seconds: float) -> None:
        """The machine stood still for so long: all that was due meanwhile is due at once."""
        self._jumping.now += seconds

    def drawn(self) -> int:
        """A hash: no two are equal, and their order is drawn."""
        return self._chance.getrandbits(20) << 32 | next(self._numbers)

    def _task(self, _: asyncio.AbstractEventLoop, work: Any, **more: Any) -> asyncio.Task[Any]:
        return _Task(work, loop=self, **more)

    def create_future(self) -> asyncio.Future[Any]:
        return _Future(loop=self)

    def call_at(
        self, when: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        return super().call_at(when + APART * self._chance.random(), callback, *args, context=context)

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> asyncio.Future[Any]:
        done = self.create_future()

        def work() -> None:
            if done.done():
                return
            try:
                done.set_result(func(*args))
            except Exception as error:  # noqa: BLE001 (raised where it is awaited)
                done.set_exception(error)

        self.call_later(1e-4 * self._chance.random(), work)
        return done
