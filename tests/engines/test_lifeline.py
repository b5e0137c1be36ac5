"""A process that is killed takes along those it has started, whichever thread started them and however."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tests import needs

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
    with subprocess.Popen(
        ["make", "--no-print-directory"], cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert int(process.stdout.readline())
        process.kill()
        assert process.stdout.read() == ""


def killed(folder: Path) -> float:
    """Kills a server with an engine, a worker and a sandbox at work; seconds until nothing of it is left."""
    needs.tool("bwrap", "bubblewrap")
    command = [sys.executable, "-m", "tests.server.killed_server", str(folder)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        family = psutil.Process(process.pid).children(recursive=True)
        assert len(family) >= 3, "an engine, a worker and a sandbox"
        process.kill()
        began = time.monotonic()
        while any(map(runs, family)):
            assert time.monotonic() - began < 30, [one for one in family if runs(one)]
            time.sleep(0.01)
    return time.monotonic() - began


KINDS = {"the engine": "lifeline", "a worker": "worker.py", "a sandbox": "bwrap"}
"""What stands in the command line of each process that a server has."""
ALIKE = "unshare --user --map-root-user --mount --pid --fork --kill-child --mount-proc"


@pytest.mark.parametrize("apart", [False, True], ids=["none", "users, processes and mounts"])
def test_whichever_process_the_kernel_kills_for_memory_the_server_has_it_again_and_leaves_nothing(
    apart: bool, tmp_path: Path
) -> None:
    """A kill for want of memory is a SIGKILL that nobody has sent. One process of each kind in turn, then a limit of
    memory that the engine breaks, then the server; also inside namespaces, as a container has them."""
    needs.tool("bwrap", "bubblewrap")
    wrapped = ALIKE.split() if apart else []
    if apart and subprocess.run([*wrapped, "bwrap", "--dev-bind", "/", "/", "true"], check=False).returncode:
        pytest.skip("namespaces within namespaces are not to be had here")
    # The first process of a namespace takes all others along; a shell that goes on does not end with the server.
    inner = ["sh", "-c", INIT, "sh"] if apart else []
    command = [*wrapped, *inner, sys.executable, "-m", "tests.server.killed_server", str(tmp_path)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        top = psutil.Process(process.pid)
        server = next(
            one for one in (top, *top.children(recursive=True)) if "tests.server.killed_server" in one.cmdline()
        )

        def there(kind: str) -> list[psutil.Process]:
            return [one for one in server.children(recursive=True) if runs(one) and KINDS[kind] in said(one)]

        for kind in KINDS:
            victims = there(kind)
            assert victims
            victims[0].kill()
            until(lambda kind=kind, victims=victims: any(one not in victims for one in there(kind)))
        (engine,) = there("the engine")
        resource.prlimit(engine.pid, resource.RLIMIT_AS, (1 << 20, 1 << 20))
        # What it wants of memory from here on it is refused: it ends of itself when it is given much to read.
        (tmp_path / "wants").touch()
        until(lambda: any(one != engine for one in there("the engine")))
        assert runs(server)
        family = server.children(recursive=True)
        server.kill()
        until(lambda: not any(map(runs, family)))
        process.kill()


def said(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return ""


def until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_server_that_is_killed_leaves_nothing(tmp_path: Path) -> None:
    for _ in range(3):
        killed(tmp_path)


@pytest.mark.soak
def test_a_server_that_is_killed_a_hundred_times_leaves_nothing_after_two_seconds(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    longest = max(killed(tmp_path) for _ in range(100))
    record_property("longest_seconds", longest)
    assert longest < 2
