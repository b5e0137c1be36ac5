"""Runs untrusted programs in a sandbox.

The sandbox is bubblewrap's. It has its own user, process, network, mount and IPC namespaces and no capability. It sees
the Python runtime and the system's libraries, read-only, and a small scratch folder in memory; there is no /proc. A
filter refuses the system calls by which a program could start processes, hold memory that no limit counts, or use
rarely tested parts of the kernel. Resource limits bound its memory, processor time and files. Its wall time and its
output are bounded from outside. Where any of this is not to be had on a machine, nothing is run.

A test of calls takes two sandboxes, connected by two pipes: the test runs in one, the program in the other. The program
is given the arguments of calls and never the test. The verdict comes from the sandbox of the test.
"""

from __future__ import annotations

import asyncio
import fcntl
import marshal
import os
import platform
import shutil
import signal
import sys
import sysconfig
from collections.abc import AsyncGenerator, Iterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

from ponder.compute.errors import EngineError
from ponder.verifiers.syscalls import SYSTEM_CALLS, syscall_filter

OUTPUT = 2**20
"""Bytes a program may print."""
SCRATCH = 16 * 2**20
"""Bytes of its scratch folder, and of any file in it."""
FILES = 64
HOME = "/tmp"  # noqa: S108 - the sandbox's own

BEGIN = """
import marshal, resource, sys, types
side, memory, seconds, scratch, files, *pipes = sys.argv[1], *map(int, sys.argv[2:])
for what, limit in (
    (resource.RLIMIT_AS, memory), (resource.RLIMIT_CPU, seconds), (resource.RLIMIT_FSIZE, scratch),
    (resource.RLIMIT_NOFILE, files), (resource.RLIMIT_CORE, 0),
):
    resource.setrlimit(what, (limit, limit))
if side == "script":
    with open("/program.py", encoding="utf-8") as file:
        code = compile(file.read(), "program.py", "exec")
    module = types.ModuleType("__main__")
    sys.modules["__main__"], sys.argv = module, ["program.py"]
    exec(code, module.__dict__)
else:
    with open("/sides", "rb") as file:
        modules = marshal.load(file)
    for name in (*modules["both"], side):
        module = sys.modules["ponder.verifiers." + name] = types.ModuleType("ponder.verifiers." + name)
        exec(modules[name], module.__dict__)
    module.main(*pipes)
"""
"""Runs first inside the sandbox: sets the limits, then runs the program as a script, or one side of a test."""

MODULES = ("frames", "operators", "plain", "proxies", "classes", "sharing", "encoding", "scratch", "__init__")
"""The modules of `ponder.verifiers.rpc` in the order in which they import one another."""
SIDES = {"asking": "asking.py", "answering": "answering.py"}

PROBE = """
import os, socket
assert os.getpid() < 10
assert not os.path.exists("/proc/self") and not os.path.exists("/home") and not os.path.exists("/root")
for refused in (os.fork, lambda: socket.socket(), lambda: open("/x", "w"), lambda: os.memfd_create("x")):
    try:
        refused()
    except OSError:
        continue
    raise AssertionError("not refused")
"""

Side = Literal["script", "asking", "answering"]


@dataclass(frozen=True)
class Sandbox:
    """A place to run one program at a time, with `memory_mb` MiB of address space (for a test of calls, each side)."""

    memory_mb: int

    async def probe(self) -> None:
        """Raises `EngineError` unless this machine can make the sandbox, and it holds. Once it held, it is not tried
        again."""
        global _proven
        if _proven:
            return
        if _bwrap() is None:
            raise EngineError("the sandbox needs bubblewrap: apt-get install bubblewrap")
        if platform.machine() not in SYSTEM_CALLS:
            raise EngineError(f"the sandbox has no system call filter for {platform.machine()}")
        if not await Sandbox(256).passes(f"{PROBE}\ndef holds(): return True", f"{PROBE}\nassert holds()", 30.0):
            raise EngineError(
                "the sandbox does not hold on this machine: are user namespaces allowed (sysctl "
                "user.max_user_namespaces, kernel.apparmor_restrict_unprivileged_userns, the container's profile)?"
            )
        _proven = True

    async def run(self, source: str, stdin: str, seconds: float) -> tuple[int | None, bytes]:
        """Exit status (None: killed for its time or its output) and what a program printed."""
        printed = bytearray()
        with ExitStack() as files:
            given = _opened(files, stdin.encode(errors="replace"))
            async with self._started("script", source, seconds, given) as process:
                status = await _all_of(process, printed, seconds)
        return status, bytes(printed)

    async def passes(self, source: str, test: str, seconds: float) -> bool:
        """Whether the assert statements of a test hold for a program, within its limits.

        In processor time each side has `seconds`, in wall time both together.
        """
        verdict = bytearray()
        with ExitStack() as files:
            calls, answers = _pipe(files), _pipe(files)
            async with (
                self._started("answering", source, seconds, None, calls[0], answers[1]),
                self._started("asking", test, seconds, None, calls[1], answers[0]) as asking,
            ):
                files.close()
                status = await _all_of(asking, verdict, seconds)
        return status == 0 and bytes(verdict) == b"passed"

    @asynccontextmanager
    async def _started(
        self, side: Side, source: str, seconds: float, stdin: int | None, *pipes: int
    ) -> AsyncGenerator[asyncio.subprocess.Process]:
        """A process in a sandbox of its own, ended behind the block."""
        with ExitStack() as files:
            program, rules, sides = (
                _opened(files, content) for content in (source.encode(errors="replace"), syscall_filter(), _sides())
            )
            limits = (self.memory_mb * 2**20, int(seconds) + 1, SCRATCH, FILES)
            process = await asyncio.create_subprocess_exec(
                *_walls(program, rules, sides),
                *("/python/bin/python3", "-I", "-B", "-X", "utf8", "-c", BEGIN, side, *map(str, (*limits, *pipes))),
                stdin=asyncio.subprocess.DEVNULL if stdin is None else stdin,
                stdout=asyncio.subprocess.DEVNULL if side == "answering" else asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.DEVNULL,
                pass_fds=(program, rules, sides, *pipes),
                start_new_session=True,
                env={},
            )
        try:
            yield process
        finally:
            # All of bubblewrap's processes, which is why none has a session of its own: the outer one takes a finished
            # namespace with it, but one still being made would wait for its dead parent for ever.
            if process.returncode is None:
                os.killpg(process.pid, signal.SIGKILL)
                await process.wait()


_proven = False


async def _all_of(process: asyncio.subprocess.Process, printed: bytearray, seconds: float) -> int | None:
    """Reads all that is printed; the exit status, None where it is too much or takes too long."""
    pipe = process.stdout
    try:
        async with asyncio.timeout(max(0.0, seconds)):
            while pipe is not None and (part := await pipe.read(65536)):
                printed += part
                if len(printed) > OUTPUT:
                    del printed[OUTPUT:]
                    return None
            return await process.wait()
    except TimeoutError:
        return None


def _pipe(files: ExitStack) -> tuple[int, int]:
    """Reading end, writing end."""
    ends = os.pipe()
    for end in ends:
        files.callback(os.close, end)
    return ends


def _opened(files: ExitStack, content: bytes) -> int:
    """A descriptor of a file in memory, at its beginning, that nobody can change any more."""
    file = os.memfd_create("sandbox", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    files.callback(os.close, file)
    with open(file, "wb", closefd=False) as writing:
        writing.write(content)
    os.lseek(file, 0, os.SEEK_SET)
    fcntl.fcntl(
        file, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL
    )
    return file


@cache
def _sides() -> bytes:
    """The code of both sides of a test, compiled: the interpreter inside is this one. By the names of the modules, and
    under `both` the names of those that either side begins with, in the order in which they import one another."""
    both = tuple("rpc" if name == "__init__" else f"rpc.{name}" for name in MODULES)
    code: dict[str, object] = {"both": both}
    for name, file in (*zip(both, (f"rpc/{name}.py" for name in MODULES), strict=True), *SIDES.items()):
        path = Path(__file__).parent / file
        code[name] = compile(path.read_text(encoding="utf-8"), path.name, "exec")
    return marshal.dumps(code)


@cache
def _bwrap() -> str | None:
    return shutil.which("bwrap")


def _walls(program: int, rules: int, sides: int) -> list[str]:
    """The command line up to the program that is run inside."""
    return [
        *(_bwrap() or "bwrap", "--unshare-all", "--unshare-user", "--die-with-parent", "--clearenv"),
        *("--cap-drop", "ALL", "--uid", "65534", "--gid", "65534", "--hostname", "sandbox"),
        *("--setenv", "HOME", HOME, "--setenv", "LANG", "C.UTF-8", "--setenv", "LD_LIBRARY_PATH", "/python/lib"),
        *_runtime(),
        *("--dev-bind", "/dev/null", "/dev/null", "--dev-bind", "/dev/urandom", "/dev/urandom"),
        *("--size", str(SCRATCH), "--tmpfs", HOME, "--chdir", HOME),
        *("--ro-bind-data", str(program), "/program.py", "--ro-bind-data", str(sides), "/sides"),
        *("--remount-ro", "/", "--seccomp", str(rules), "--"),
    ]


@cache
def _runtime() -> tuple[str, ...]:
    """Read-only binds of the interpreter, its standard library (installed packages masked) and the system's libraries;
    the paths inside tell nothing of this machine."""
    base = {"installed_base": sys.base_prefix, "base": sys.base_prefix, "installed_platbase": sys.base_exec_prefix}
    library = Path(sysconfig.get_path("stdlib", vars=base))
    inside = f"/python/lib/{library.name}"

    def binds() -> Iterator[str]:
        yield from ("--ro-bind", os.path.realpath(sys.executable), "/python/bin/python3")
        yield from ("--ro-bind", str(library), inside)
        for packages in ("site-packages", "dist-packages"):
            if (library / packages).is_dir():
                yield from ("--tmpfs", f"{inside}/{packages}", "--remount-ro", f"{inside}/{packages}")
        name = sysconfig.get_config_var("INSTSONAME") or ""
        shared = Path(sysconfig.get_config_var("LIBDIR") or "/", name)
        if ".so" in name and shared.is_file():
            yield from ("--ro-bind", str(shared), f"/python/lib/{name}")
        for folder in ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/etc/ld.so.cache"):
            yield from ("--ro-bind-try", folder, folder)

    return tuple(binds())
