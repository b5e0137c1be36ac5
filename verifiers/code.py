"""Judges a program by running it against tests, in a sandbox that lets nothing out.

The sandbox is bubblewrap's: its own user, process, network, mount and IPC namespaces, no capability, a read-only view
of the Python runtime and the system's libraries and of nothing else, a small scratch folder in memory, no /proc. Inside
it a filter refuses the system calls by which a program could multiply, hold memory that no limit counts, or reach for
the kernel's less trodden parts; resource limits bound its memory, processor time and files; from outside its wall time
and its output are watched. Where any of this cannot be had, nothing is run.

What the score is worth: a program that ends early, or lies in what it prints, passes nothing. One that goes looking for
the tests through the frames of the interpreter it shares with them can find them; the sandbox guards the server.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import platform
import re
import secrets
import shutil
import signal
import struct
import sys
import sysconfig
import weakref
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass as plain
from functools import cache
from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from compute.errors import EngineError
from compute.run import Run
from compute.text import Candidate, Score

OUTPUT = 2**20
"""Bytes a program may print."""
SCRATCH = 16 * 2**20
"""Bytes of its scratch folder, and of any file in it."""
FILES = 64
HOME = "/tmp"  # noqa: S108 - the sandbox's own
AT_ONCE = 2
"""Programs run at the same time by one server."""

Text = Annotated[str, Field(max_length=100_000)]


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Case:
    """What a program reads and what it must print for it; blanks at the ends of lines do not count."""

    stdin: Text
    stdout: Text


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Code:
    """The share of tests the candidate's last Python code block passes, run in a sandbox."""

    needs_likelihood: ClassVar[bool] = False
    exact: ClassVar[bool] = True

    tests: Annotated[
        tuple[Annotated[str, Field(min_length=1, max_length=20_000)] | Case, ...],
        Field(min_length=1, max_length=64, description="Each a text of assert statements, or an input and its output"),
    ]
    seconds: Annotated[float, Field(gt=0, le=30, description="For all tests of one program")] = 10.0
    memory_mb: Annotated[int, Field(ge=64, le=1024, description="Address space of the program, in MiB")] = 256

    async def __call__(self, run: Run, candidates: Sequence[Candidate]) -> Sequence[Score]:
        """0 for a text without a program. Raises `EngineError` where there is no sandbox to run one in."""
        sandbox = Sandbox(self.memory_mb)
        await sandbox.probe()
        programs = {program(c.text) for c in candidates}
        try:
            async with asyncio.TaskGroup() as judging:
                tasks = {p: judging.create_task(self.passed(sandbox, p)) for p in programs}
        except ExceptionGroup as failed:
            raise failed.exceptions[0] from None
        return [Score(tasks[program(c.text)].result()) for c in candidates]

    async def passed(self, sandbox: Sandbox, source: str) -> float:
        """The share of tests a program passes."""
        if not source.strip():
            return 0.0
        clock = asyncio.get_running_loop().time
        passed, used = 0, 0.0
        for test in self.tests:
            async with _turn():
                began = clock()
                passed += await sandbox.passes(source, test, self.seconds - used)
                used += clock() - began
            if used >= self.seconds:
                break
        return passed / len(self.tests)


_BLOCK = re.compile(r"```[ \t]*([\w+-]*)[^\n`]*\n(.*?)```", re.DOTALL)


def program(text: str) -> str:
    """The last Python code block of a text; else the last block that names no language; else, without any block, all
    of it."""
    blocks = [(m[1].casefold(), m[2]) for m in _BLOCK.finditer(text)]
    if not blocks:
        return text
    named = [source for language, source in blocks if language in ("python", "py", "python3")]
    return (named or [source for language, source in blocks if not language] or [""])[-1]


# -- the sandbox ------------------------------------------------------------------------------------------------------

HARNESS = """
import os, resource, sys, types
mode, memory, seconds, scratch, files = sys.argv[1], *map(int, sys.argv[2:])
for what, limit in (
    (resource.RLIMIT_AS, memory), (resource.RLIMIT_CPU, seconds), (resource.RLIMIT_FSIZE, scratch),
    (resource.RLIMIT_NOFILE, files), (resource.RLIMIT_CORE, 0),
):
    resource.setrlimit(what, (limit, limit))
with open("/program.py", encoding="utf-8") as file:
    code = compile(file.read(), "program.py", "exec")
module = types.ModuleType("__main__" if mode == "run" else "candidate")
sys.modules[module.__name__], sys.argv = module, ["program.py"]
exec(code, module.__dict__)
if mode == "test":
    proof, _, tests = sys.stdin.read().partition("\\n")
    exec(compile(tests, "tests.py", "exec"), module.__dict__)
    sys.stdout.flush()
    os.write(1, proof.encode())
"""
"""Runs first inside: binds itself by the limits, runs the program, then reads tests and shows the proof behind them."""

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


@plain(frozen=True)
class Sandbox:
    """A place to run one program at a time, with `memory_mb` MiB of address space."""

    memory_mb: int

    async def probe(self) -> None:
        """Raises `EngineError` unless this machine can make the sandbox, and it holds. Looked at once."""
        global _proven
        if _proven:
            return
        if _bwrap() is None:
            raise EngineError("the sandbox needs bubblewrap: apt-get install bubblewrap")
        if platform.machine() not in SYSTEM_CALLS:
            raise EngineError(f"the sandbox has no system call filter for {platform.machine()}")
        if not await Sandbox(256).passes(PROBE, "", 30.0):
            raise EngineError(
                "the sandbox does not hold on this machine: are user namespaces allowed (sysctl "
                "user.max_user_namespaces, kernel.apparmor_restrict_unprivileged_userns, the container's profile)?"
            )
        _proven = True

    async def passes(self, source: str, test: str | Case, seconds: float) -> bool:
        """Whether a program passes a test within its limits."""
        if isinstance(test, Case):
            status, printed = await self.run("run", source, test.stdin, seconds)
            return status == 0 and _lines(printed.decode(errors="replace")) == _lines(test.stdout)
        proof = secrets.token_hex(16)
        status, printed = await self.run("test", source, f"{proof}\n{test}", seconds)
        return status == 0 and printed.endswith(proof.encode())

    async def run(self, mode: str, source: str, stdin: str, seconds: float) -> tuple[int | None, bytes]:
        """Exit status (None: killed for its time or its output) and what was printed."""
        with ExitStack() as files:
            program, given, rules = (
                _memory_file(content)
                for content in (source.encode(errors="replace"), stdin.encode(errors="replace"), _filter())
            )
            for file in (program, given, rules):
                files.callback(os.close, file)
            limits = (self.memory_mb * 2**20, int(seconds) + 1, SCRATCH, FILES)
            process = await asyncio.create_subprocess_exec(
                *_walls(program, rules),
                *("/python/bin/python3", "-I", "-B", "-X", "utf8", "-c", HARNESS, mode, *map(str, limits)),
                stdin=given,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.DEVNULL,
                pass_fds=(program, rules),
                start_new_session=True,
                env={},
            )
        pipe = process.stdout
        printed = bytearray()
        try:
            async with asyncio.timeout(max(0.0, seconds)):
                while pipe is not None and (part := await pipe.read(65536)):
                    printed += part
                    if len(printed) > OUTPUT:
                        return None, bytes(printed[:OUTPUT])
                return await process.wait(), bytes(printed)
        except TimeoutError:
            return None, bytes(printed)
        finally:
            # All of bubblewrap's processes, which is why none has a session of its own: the outer one takes a finished
            # namespace with it, but one still being made would wait for its dead parent for ever.
            if process.returncode is None:
                os.killpg(process.pid, signal.SIGKILL)
                await process.wait()


_proven = False
_turns: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Semaphore] = weakref.WeakKeyDictionary()


def _turn() -> asyncio.Semaphore:
    return _turns.setdefault(asyncio.get_running_loop(), asyncio.Semaphore(AT_ONCE))


def _lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.rstrip().splitlines()]


def _memory_file(content: bytes) -> int:
    """A descriptor of a file in memory, at its beginning, that nobody can change any more."""
    file = os.memfd_create("sandbox", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    with open(file, "wb", closefd=False) as writing:
        writing.write(content)
    os.lseek(file, 0, os.SEEK_SET)
    fcntl.fcntl(
        file, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL
    )
    return file


@cache
def _bwrap() -> str | None:
    return shutil.which("bwrap")


def _walls(program: int, rules: int) -> list[str]:
    """The command line up to the program that is run inside."""
    return [
        *(_bwrap() or "bwrap", "--unshare-all", "--unshare-user", "--die-with-parent", "--clearenv"),
        *("--cap-drop", "ALL", "--uid", "65534", "--gid", "65534", "--hostname", "sandbox"),
        *("--setenv", "HOME", HOME, "--setenv", "LANG", "C.UTF-8", "--setenv", "LD_LIBRARY_PATH", "/python/lib"),
        *_runtime(),
        *("--dev-bind", "/dev/null", "/dev/null", "--dev-bind", "/dev/urandom", "/dev/urandom"),
        *("--size", str(SCRATCH), "--tmpfs", HOME, "--chdir", HOME),
        *("--ro-bind-data", str(program), "/program.py", "--remount-ro", "/", "--seccomp", str(rules), "--"),
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


# -- the system call filter -------------------------------------------------------------------------------------------

REFUSED = (
    *("clone", "clone3", "fork", "vfork", "socket", "memfd_create", "memfd_secret", "shmget", "semget", "msgget"),
    *("mq_open", "io_uring_setup", "userfaultfd", "ptrace", "add_key", "request_key", "keyctl", "bpf"),
    *("perf_event_open", "mount", "unshare", "setns", "chroot", "pivot_root", "mknod", "mknodat", "personality"),
    *("process_vm_readv", "process_vm_writev", "name_to_handle_at", "open_by_handle_at"),
)
"""To multiply; to reach out; memory that RLIMIT_AS does not count; other processes; the kernel's rarer parts."""

_X86_64 = (
    *(56, 435, 57, 58, 41, 319, 447, 29, 64, 68, 240, 425, 323, 101, 248, 249, 250, 321),
    *(298, 165, 272, 308, 161, 155, 133, 259, 135, 310, 311, 303, 304),
)
_AARCH64 = (
    *(220, 435, None, None, 198, 279, 447, 194, 190, 186, 180, 425, 282, 117, 217, 218, 219, 280),
    *(241, 40, 97, 268, 51, 41, None, 33, 92, 270, 271, 264, 265),
)

SYSTEM_CALLS: dict[str, tuple[int, dict[str, int]]] = {
    "x86_64": (0xC000003E, dict(zip(REFUSED, _X86_64, strict=True))),
    "aarch64": (0xC00000B7, {k: n for k, n in zip(REFUSED, _AARCH64, strict=True) if n is not None}),
}
"""For each machine: its audit number (linux/audit.h) and the numbers of the refused calls (asm/unistd.h)."""


@cache
def _filter() -> bytes:
    """A classic BPF program (linux/filter.h, linux/seccomp.h): kills a call made for another machine, refuses those of
    the list with EPERM, allows the rest."""
    load, equal, at_least, end = 0x20, 0x15, 0x35, 0x06
    kill, refuse, allow = 0x80000000, 0x00050000 | errno.EPERM, 0x7FFF0000
    audit, numbers = SYSTEM_CALLS[platform.machine()]
    calls = sorted(numbers.values())
    code = [(load, 0, 0, 4), (equal, 1, 0, audit), (end, 0, 0, kill), (load, 0, 0, 0)]
    # Numbers from 2^30 on are x86_64's second face, x32, under which every call has another number.
    code += [(at_least, len(calls) + 1, 0, 0x40000000)]
    code += [(equal, len(calls) - i, 0, number) for i, number in enumerate(calls)]
    code += [(end, 0, 0, allow), (end, 0, 0, refuse)]
    return b"".join(struct.pack("=HBBI", *line) for line in code)
