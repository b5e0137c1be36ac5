"""Tests in virtual time: however much is waited for, they take none, and how busy the machine is changes nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from ponder.engines.virtual_time import VirtualTimeLoop

T = TypeVar("T")


def in_virtual_time(work: Coroutine[Any, Any, T]) -> T:
    """Runs `work` on a `VirtualTimeLoop` of its own and returns its result. How busy the machine is changes nothing.
    Raises what `work` raises."""
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return runner.run(work)
