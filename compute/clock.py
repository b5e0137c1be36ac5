"""The one clock of a request: that of the event loop, so that a loop with a clock of its own drives everything."""

from __future__ import annotations

import asyncio
import time


def now() -> float:
    """Seconds of the running loop's clock; of the monotonic clock, which loops go by too, where none runs."""
    try:
        return asyncio.get_running_loop().time()
    except RuntimeError:
        return time.monotonic()
