"""Milliseconds of work on what a caller sent, beside the event loop: in a thread, in turn between keys.

A request of a megabyte takes a tenth of a second to be read. On the event loop all streams would wait for that; in
threads without a bound the loop would wait for its turn among them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import TypeVar
from weakref import WeakKeyDictionary

from ponder.compute.pool import CORES, Turns

T = TypeVar("T")

LARGE = 1 << 16
"""Bytes that are sealed, opened or read beside the event loop."""

_turns: WeakKeyDictionary[asyncio.AbstractEventLoop, Turns] = WeakKeyDictionary()


def turn(tenant: str | None) -> AbstractAsyncContextManager[None]:
    """A place among those that work beside the loop."""
    return _turns.setdefault(asyncio.get_running_loop(), Turns(max(2, CORES))).turn(tenant)


async def beside(tenant: str | None, work: Callable[[], T]) -> T:
    """What `work` returns or raises, in a thread. Cancelled, it is not waited for; it has to be bounded."""
    async with turn(tenant):
        return await asyncio.to_thread(work)


async def beside_if_large(size: int, work: Callable[[], T]) -> T:
    """What `work` on so many bytes returns or raises: in a thread where they are many, else at once. It waits for no
    turn: what is kept of an answer has its bounds."""
    return await asyncio.to_thread(work) if size > LARGE else work()
