"""A process that is killed takes along those it has started, whichever thread started them and however."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
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


INIT = """
"$@" &
wait
sleep 600
"""
"""A shell that is the first process of a namespace, whose end would take all others along, and goes on."""
NAMESPACES = {
    "none": "",
    "processes and mounts": INIT,
    "processes, and /proc is of others": INIT,
    "no /proc": "mount -t tmpfs none /proc" + INIT,
}


def namespaced(name: str, *command: str) -> list[str]:
    """The command as it is run inside."""
    if name == "none":
        return list(command)
    proc = ["--mount-proc"] if name == "processes and mounts" else []
    return [
        "unshare",
        "--mount",
        "--pid",
        "--fork",
        "--kill-child",
        *proc,
        "sh",
        "-c",
        NAMESPACES[name],
        "sh",
        *command,
    ]


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.parametrize("name", NAMESPACES)
def test_children_outlive_the_thread_that_started_them_and_not_the_process(
    method: str, name: str, tmp_path: Path
) -> None:
    script = tmp_path / "family.py"
    script.write_text(FAMILY)
    command = namespaced(name, sys.executable, str(script), method)
    if name != "none" and subprocess.run(["unshare", "--mount", "--pid", "--fork", "true"], check=False).returncode:
        pytest.skip("namespaces are for root alone here")
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        *children, alive = process.stdout.readline().split()
        assert (len(set(children)), alive) == (4, "True")
        root = psutil.Process(process.pid)
        family = [one for one in (root, *root.children(recursive=True)) if one.name().startswith("python")]
        assert len(family) >= 5
        min(family, key=psutil.Process.create_time).kill()
        end = time.monotonic() + 30
        while any(map(runs, family)):
            assert time.monotonic() < end
            time.sleep(0.02)
        process.kill()


def runs(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


MAKEFILE = """
serve:
\t@{python} -c 'import os, time; from ponder.engines import lifeline; lifeline.end_with_parent(); \\
\t  print(os.getpid(), flush=True); time.sleep(600)'
"""


def test_a_server_that_make_has_started_ends_with_make(tmp_path: Path) -> None:
    (tmp_path / "Makefile").write_text(MAKEFILE.format(python=sys.executable))
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(["make"], cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert int(process.stdout.readline())
        process.kill()
        assert process.stdout.read() == ""
