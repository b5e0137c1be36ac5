"""Processes are looked at while they come and go."""

from __future__ import annotations

import os
import subprocess
import threading

from ponder.engines.watchdog import descendants


def test_processes_that_end_while_they_are_looked_at_are_left_out() -> None:
    over = threading.Event()

    def come_and_go() -> None:
        while not over.is_set():
            for process in [subprocess.Popen(["/bin/true"]) for _ in range(8)]:
                process.wait()

    coming = threading.Thread(target=come_and_go)
    coming.start()
    try:
        most = max(len(descendants(os.getpid())) for _ in range(2000))
    finally:
        over.set()
        coming.join()
    assert most > 1
