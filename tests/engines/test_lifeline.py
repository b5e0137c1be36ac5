"""A process that is killed takes along those it has started, whichever thread started them and however."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FAMILY = """
import multiprocessing, os, sys, threading, time
from ponder.engines import lifeline

def rest(writer):
    if sys.argv[1] == "spawn":
        lifeline.no_platform()
    writer.send(os.getpid())
    time.sleep(600)

def nested(writer):
    multiprocessing.get_context("fork").Process(target=rest, args=(writer,)).start()
    rest(writer)

if __name__ == "__main__":
    lifeline.tie_children()
    context = multiprocessing.get_context(sys.argv[1])
    reader, writer = context.Pipe(duplex=False)
    children = [context.Process(target=nested, args=(writer,)) for _ in range(2)]

    def start():
        for child in children:
            child.start()

    thread = threading.Thread(target=start)
    thread.start()
    thread.join()
    told = [reader.recv() for _ in range(4)]
    time.sleep(0.2)
    print(*told, all(child.is_alive() for child in children), flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_children_outlive_the_thread_that_started_them_and_not_the_process(method: str, tmp_path: Path) -> None:
    script = tmp_path / "family.py"
    script.write_text(FAMILY)
    process = subprocess.Popen(
        [sys.executable, str(script), method],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    *children, alive = process.stdout.readline().split()
    assert (len(set(children)), alive) == (4, "True")
    process.send_signal(signal.SIGKILL)
    process.wait()
    # Children have the output of their parent: it ends when the last of them has ended.
    assert process.stdout.read() == ""
