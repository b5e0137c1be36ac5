"""The end of the process: within the time of a drain and some seconds, whatever holds it.

A server that was asked to end may be held by much that is not its own: a thread that reads a long text, an engine that
does not end, a library's work at the exit of the interpreter. Service managers and orchestrators then kill it, and with
it what was still to be said. So the time is divided, and when it is over the process ends where it stands, and says
what held it.
"""

from __future__ import annotations

import faulthandler
import logging
import os
import sys
import threading
import time
from types import FrameType

AFTER = 5.0
"""Seconds after the time of a drain in which the process ends."""
ANSWERING = 2.5
"""Of these, for requests to answer with their best so far."""
SENT = 3.5
"""Of these, until answers have left. The rest is for engines to end."""
SAYING = 0.5
"""Before all is over, for saying what held the process."""
NAMED = 8
"""Threads of which it is said where they stand."""

log = logging.getLogger(__name__)


class LastResort:
    """Ends the process, where it has not ended by itself."""

    def __init__(self, drain_timeout: float) -> None:
        self._seconds = drain_timeout + AFTER
        self.served = False
        """All requests have had their answers: it ended in order, if late."""

    def begin(self) -> None:
        """From now on there is a drain's time. Should Python itself be held by code of a library, the second way ends
        the process."""
        threading.Thread(target=self._wait, name="last-resort", daemon=True).start()
        faulthandler.dump_traceback_later(self._seconds, exit=True)

    def _wait(self) -> None:
        time.sleep(self._seconds - SAYING)
        log.error("the server does not end by itself, and is ended; held by: %s", "; ".join(standing()) or "nothing")
        logging.shutdown()
        os._exit(0 if self.served else 1)


def standing() -> list[str]:
    """Where the threads of this process stand, but for this one and those that only wait for work."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    found = [
        f"{names.get(number, 'a thread')} in {place(frame)}"
        for number, frame in sys._current_frames().items()  # pyright: ignore[reportPrivateUsage]
        if number != threading.get_ident()
    ]
    return found[:NAMED]


def place(frame: FrameType | None) -> str:
    """Where code stands: the module and function of ours that is at work, else the innermost. An event loop that runs
    no code stands at `waiting`: for something to do, for the processor or for the interpreter's lock. What is told are
    names in code, never a caller's text."""
    innermost = "?" if frame is None else _named(frame)
    began = frame
    while frame is not None:
        module = str(frame.f_globals.get("__name__", ""))
        if module.startswith("ponder."):
            return _named(frame)
        if module == "asyncio.runners":
            return "waiting" if frame is began or _waits(began) else innermost
        frame = frame.f_back
    return innermost


def _waits(frame: FrameType | None) -> bool:
    return frame is not None and frame.f_globals.get("__name__") in ("selectors", "asyncio.base_events")


def _named(frame: FrameType) -> str:
    return f"{frame.f_globals.get('__name__', '?')}:{frame.f_code.co_qualname}"
