"""What a process that was spawned for an engine does before anything else: it ties itself to the server.

It imports the program's main module first, and only then the libraries of the engine, which takes seconds. The server
may be killed meanwhile.
"""

from __future__ import annotations

import multiprocessing

from ponder.engines import lifeline


def tie() -> None:
    """Nothing, but in a process that `multiprocessing` is spawning."""
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        lifeline.no_platform()
