"""Runs untrusted programs in a sandbox.

The sandbox is bubblewrap's. It has its own user, process, network, mount and IPC namespaces and no capability. It sees
the Python runtime and the system's libraries, read-only, and a small scratch folder in memory; there is no /proc. A
filter refuses the system calls by which a program could start processes, hold memory that no limit counts, or use
rarely tested parts of the kernel. Resource limits bound its memory, processor time and files. Its wall time, its output
and the number of its files are bounded from outside. Where any of this is not to be had on a machine, nothing is run.

A test of calls takes two sandboxes, connected by two pipes: the test runs in one, the program in the other. The program
is given the arguments of calls and never the test. The verdict comes from the sandbox of the test.
"""

from __future__ import annotations

import asyncio
import fcntl
import marshal
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import ExitStack, aclosing, asynccontextmanager, suppress
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
"""Files it may have open."""
MOST_FILES = 1024
"""Files its scratch folder may hold."""
LOOK_EVERY = 0.05
"""Seconds between two looks at how many it holds."""
KILLED_WITHIN = 1.0
"""Seconds until a sandbox whose program was killed is gone."""
HOME = "/tmp"  # noqa: S108 - the sandbox's own

BEGIN = """
import marshal, os, resource, sys, types
side, tie, memory, seconds, scratch, files, *pipes = sys.argv[1], *map(int, sys.argv[2:])
try:
    os.read(tie, 1)
    os._exit(1)
except BlockingIOError:
    os.close(tie)
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
"""Runs first inside the sandbox: sets the limits, then runs the program as a script, or one side of a test. Where the
server has ended by then it ends, too: a namespace that was being made does not end with it."""

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

CHILD = re.compile(rb'"child-pid": ([0-9]+)')
"""The number of the program, the one process inside, as bubblewrap tells it (`--info-fd`)."""

Side = Literal["script", "asking", "answering"]


@dataclass(frozen=True)
class Sandbox:
    """A place to run one program at a time, with `memory_mb` MiB of address space (for a test of calls, each side)."""

    memory_mb: int
    used: Callable[[float], None] = lambda _: None
    """Told the seconds of processor time of each process, when it has ended."""

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
    ) -> AsyncGenerator[_Process]:
        """A process in a sandbox of its own, ended behind the block."""
        with ExitStack() as kept:
            with ExitStack() as files:
                program, rules, sides = (
                    _opened(files, content) for content in (source.encode(errors="replace"), syscall_filter(), _sides())
                )
                info, tie = _pipe(files), _pipe(files, kept)
                os.set_blocking(tie[0], False)
                given = (tie[0], self.memory_mb * 2**20, int(seconds) + 1, SCRATCH, FILES, *pipes)
                process = _Process(
                    [
                        *_walls(program, rules, sides, info[1]),
                        *("/python/bin/python3", "-I", "-B", "-X", "utf8", "-c", BEGIN, side, *map(str, given)),
                    ],
                    stdin=subprocess.DEVNULL if stdin is None else stdin,
                    stdout=subprocess.DEVNULL if side == "answering" else subprocess.PIPE,
                    pass_fds=(program, rules, sides, info[1], tie[0], *pipes),
                    info=os.dup(info[0]),
                )
                process.tie(tie[0])
            try:
                yield process
            finally:
                await process.end()
                self.used(process.seconds)


_proven = False


class _Process:
    """bubblewrap, and with it all that runs in its sandbox.

    It is waited for here and not by the event loop, which would not say how much processor time it has used. Only what
    it has waited for itself is counted with it: so the program is killed, and not bubblewrap's process outside.
    """

    seconds = 0.0
    """Processor time of both, when they have ended."""

    def __init__(self, command: Sequence[str], *, stdin: int, stdout: int, pass_fds: Sequence[int], info: int) -> None:
        """`info`: where bubblewrap tells the number of the program; closed with this one."""
        self._loop = asyncio.get_running_loop()
        self._info = info
        os.set_blocking(info, False)
        self._inner: tuple[int, int] | None = None
        """The program: its number outside, and a descriptor that means it for ever."""
        try:
            self._process = subprocess.Popen(  # noqa: S603 (a command of ours)
                command,
                stdin=stdin,
                stdout=stdout,
                stderr=subprocess.DEVNULL,
                pass_fds=pass_fds,
                start_new_session=True,
                env={},
            )
        except BaseException:
            os.close(info)
            raise
        self._unread = self._process.stdout
        self._outer = os.pidfd_open(self._process.pid)
        self.ended: asyncio.Future[int] = self._loop.create_future()
        """Its exit status."""
        self._loop.add_reader(self._outer, self._reap)
        self._looking = self._loop.call_later(LOOK_EVERY, self._look)

    def tie(self, reader: int) -> None:
        """It ends with this process, whatever ends that, also while its namespace is being made: the kernel kills the
        process group when the writing end of the pipe closes, of which the group has the reading end (fcntl(2),
        `F_SETOWN`). What runs in a finished namespace ends with that, and closes it."""
        fcntl.fcntl(reader, fcntl.F_SETSIG, signal.SIGKILL)
        with suppress(ProcessLookupError):  # It has ended already.
            fcntl.fcntl(reader, fcntl.F_SETOWN, -self._process.pid)
        fcntl.fcntl(reader, fcntl.F_SETFL, fcntl.fcntl(reader, fcntl.F_GETFL) | os.O_ASYNC)

    def _reap(self) -> None:
        self._loop.remove_reader(self._outer)
        os.close(self._outer)
        self._looking.cancel()
        _, status, used = os.wait4(self._process.pid, 0)
        self._process.returncode = os.waitstatus_to_exitcode(status)
        self.seconds = used.ru_utime + used.ru_stime
        self.ended.set_result(self._process.returncode)

    def _inside(self) -> tuple[int, int] | None:
        if self._inner is None:
            try:
                told = CHILD.search(os.read(self._info, 4096))
                if told is not None:
                    self._inner = int(told[1]), os.pidfd_open(int(told[1]))
            except OSError:
                # Not made yet, or gone already.
                return None
        return self._inner

    def _look(self) -> None:
        """Ends what has made more files than it may. The folder's bound is one of bytes: an empty file has none, and
        takes memory of the kernel's."""
        inner = self._inside()
        if inner is not None and _files_of(inner[0]) > MOST_FILES:
            signal.pidfd_send_signal(inner[1], signal.SIGKILL)
        else:
            self._looking = self._loop.call_later(LOOK_EVERY, self._look)

    async def output(self) -> AsyncGenerator[bytes]:
        """What it prints, in pieces; nothing where it has no pipe for it."""
        pipe, self._unread = self._unread, None
        if pipe is None:
            return
        reader = asyncio.StreamReader()
        transport, _ = await self._loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), pipe)
        try:
            while part := await reader.read(65536):
                yield part
        finally:
            transport.close()

    async def end(self) -> None:
        """Kills it, where it has not ended."""
        try:
            if not self.ended.done() and (inner := self._inside()) is not None:
                with suppress(ProcessLookupError):
                    signal.pidfd_send_signal(inner[1], signal.SIGKILL)
                await asyncio.wait({self.ended}, timeout=KILLED_WITHIN)
        finally:
            if not self.ended.done():
                # All of bubblewrap's processes, which is why none has a session of its own: the outer one takes a
                # finished namespace with it, but one still being made would wait for its dead parent for ever.
                os.killpg(self._process.pid, signal.SIGKILL)
            for fd in (self._info, *(self._inner or ())[1:]):
                os.close(fd)
            if self._unread is not None:
                self._unread.close()
        await asyncio.wait({self.ended})


def _files_of(process: int) -> int:
    """Files in the scratch folder of a program; 0 as long as it has none."""
    try:
        folder = os.statvfs(f"/proc/{process}/root{HOME}")
    except OSError:
        return 0
    return folder.f_files - folder.f_ffree if folder.f_blocks * folder.f_frsize == SCRATCH else 0


async def _all_of(process: _Process, printed: bytearray, seconds: float) -> int | None:
    """Reads all that is printed; the exit status, None where it is too much or takes too long."""
    try:
        async with asyncio.timeout(max(0.0, seconds)), aclosing(process.output()) as output:
            async for part in output:
                printed += part
                if len(printed) > OUTPUT:
                    del printed[OUTPUT:]
                    return None
            return await asyncio.shield(process.ended)
    except TimeoutError:
        return None


def _pipe(files: ExitStack, writers: ExitStack | None = None) -> tuple[int, int]:
    """Reading end, writing end, which is closed with `writers` where given."""
    reader, writer = os.pipe()
    files.callback(os.close, reader)
    (writers or files).callback(os.close, writer)
    return reader, writer


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


def _walls(program: int, rules: int, sides: int, info: int) -> list[str]:
    """The command line up to the program that is run inside."""
    return [
        *(_bwrap() or "bwrap", "--unshare-all", "--unshare-user", "--die-with-parent", "--clearenv"),
        *(
            "--as-pid-1",
            "--info-fd",
            str(info),
            "--cap-drop",
            "ALL",
            "--uid",
            "65534",
            "--gid",
            "65534",
            "--hostname",
            "sandbox",
        ),
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
