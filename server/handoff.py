"""The listening socket handed to a new process, so that an upgrade drops nothing: at SIGUSR2, as with nginx.

The old process starts the command that started it, and the new one inherits the socket. Connections wait in the kernel
for whichever of the two accepts. When the new one is ready, it says so on a pipe; from then on the old one accepts
none, answers what it has, and ends. When the new one ends before that, or is not ready in time, the old one goes on
and says so. Nothing of it is in the file system: only who may send the old process a signal can ask for it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import IO, Any

from ponder.server import systemd
from ponder.server.http.server import Sharing
from ponder.server.http.sockets import CannotListen, bind, checked
from ponder.server.settings import Settings, loopback

VARIABLE = "_PONDER_HANDOFF"
"""Of the new process: the descriptors of the socket and of the pipe, whether a socket unit has that socket, too, and
which the old process is. Releases that follow one another read what the one before writes."""
READY = b"ready"
PATIENCE = 600.0
"""Seconds a new process has until it is ready."""
ENDING = 10.0
"""Seconds it has to end when it is no longer wanted."""

Streams = tuple[IO[Any] | None, IO[Any] | None]
"""Standard output and standard error of another process; None: those of this one."""

log = logging.getLogger("ponder.server")


# -- the new process --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Received:
    """The socket that an older process has handed to this one."""

    sock: socket.socket
    pipe: int
    kept: bool
    """The service manager has it, too."""
    process: int | None = None
    """A descriptor of that process (pidfd_open(2)); None where it is no more."""

    def ready(self) -> None:
        """Tells the older process that it may leave. Where that is no more, nobody waits for it."""
        with suppress(OSError):
            os.write(self.pipe, READY)
        os.close(self.pipe)

    def end(self) -> None:
        """The older process is told to end, as this one was, where it still answers what it has."""
        if self.process is not None:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self.process, signal.SIGTERM)

    async def ended(self) -> None:
        """Returns when it has."""
        if self.process is not None:
            await _readable(self.process)
            os.close(self.process)


def received() -> Received | None:
    """What an older process handed to this one; None where it was started by something else. Raises `CannotListen`."""
    if not (text := os.environ.pop(VARIABLE, "")):
        return None
    given = text.split(":")
    if len(given) != 4 or not all(word.isdecimal() for word in given):
        raise CannotListen("the process before this one hands its socket on in another way: restart the server")
    fd, pipe, kept, before = map(int, given)
    sock = checked(fd, "the process before this one")
    try:
        if not stat.S_ISFIFO(os.fstat(pipe).st_mode):
            raise CannotListen(f"{VARIABLE} is of another process: start this one without it")
        os.set_inheritable(pipe, False)
    except OSError as error:
        raise CannotListen(f"the process before this one gives no pipe: {error.strerror}") from error
    # It is the parent of this one for as long as it lives; afterwards another may have its number.
    process = os.pidfd_open(before) if os.getppid() == before else None
    return Received(sock, pipe, bool(kept), process)


@dataclass(frozen=True, slots=True)
class Listening:
    """A server's socket, and where it came from."""

    sock: socket.socket
    kept: bool = False
    """By the service manager, for the next process."""
    before: Received | None = None

    def begun(self) -> None:
        """Connections are accepted: said to whom it concerns."""
        if self.before is not None:
            self.before.ready()
        systemd.tell(READY=1, STATUS=f"process {os.getpid()} serves")


def listening(settings: Settings) -> Listening:
    """The socket of the process before this one, else that of the socket unit, else one that is bound now. Raises
    `CannotListen`."""
    if (before := received()) is not None:
        place = Listening(before.sock, before.kept, before)
    elif (given := systemd.socket_of_unit()) is not None:
        place = Listening(given, kept=True)
    else:
        return Listening(bind(settings.host, settings.port))
    host = str(place.sock.getsockname()[0])
    if not settings.locked and not loopback(host):
        place.sock.close()
        raise CannotListen(
            f"the socket that was given listens at {host}, and without an API key a server listens on loopback only: "
            "make a key with `ponder keys new NAME`, or give a socket at 127.0.0.1"
        )
    return place


# -- the old process --------------------------------------------------------------------------------------------------


def own_command() -> list[str]:
    """The command that started this process. Where that was a program by its path, the path is looked up anew: behind a
    link to the newest release it is the newest, with the interpreter that its first line names."""
    program = sys.argv[0]
    if os.path.isfile(program) and os.access(program, os.X_OK):
        return [os.path.abspath(program), *sys.argv[1:]]
    return list(sys.orig_argv)


class Handoff:
    """Hands the socket on when it is asked to. One new process at a time."""

    def __init__(
        self,
        sock: socket.socket,
        sharing: Sharing,
        alone: str | None = None,
        streams: Streams = (None, None),
        *,
        command: Sequence[str] = (),
        patience: float = PATIENCE,
    ) -> None:
        """`alone`: why no other process can take over. `streams`: where the new process writes. `command`: left out,
        that of this process."""
        self._sock, self._sharing, self._alone = sock, sharing, alone
        self._streams, self._command, self._patience = streams, command, patience
        self._task: asyncio.Task[None] | None = None
        self._abandoned = False

    def ask(self) -> None:
        """SIGUSR2 came. What comes of it is in the log, and the service manager is told."""
        if self._alone is not None:
            log.error("SIGUSR2: no other process can take over from this one: %s", self._alone)
        elif self._abandoned or self._sharing.handed.is_set():
            log.warning("SIGUSR2: nothing is handed on: this process is about to end")
        elif self._task is not None and not self._task.done():
            log.warning("SIGUSR2: a new process is being started already")
        else:
            self._task = asyncio.get_running_loop().create_task(self._hand_on())

    def abandon(self) -> None:
        """This server goes down: a process that is not ready yet ends with it."""
        self._abandoned = True
        if self._task is not None and not self._sharing.handed.is_set():
            self._task.cancel()

    async def _hand_on(self) -> None:
        """Starts the new process and waits until it is ready."""
        ours, theirs = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            process = self._start(theirs)
        except OSError as error:
            os.close(ours)
            log.error("SIGUSR2: no new process: %s: %s; this one goes on", error.filename, error.strerror)
            return
        finally:
            os.close(theirs)
        try:
            systemd.tell(STATUS=f"process {process.pid} is being started to take over")
            log.info("SIGUSR2: process %d is started to take over", process.pid)
            why = await self._awaited(process, ours)
        except asyncio.CancelledError:
            log.warning("process %d is ended before it was ready: this server goes down", process.pid)
            process.terminate()
            raise
        finally:
            os.close(ours)
        if why is None:
            log.info("process %d serves from here on; this one answers what it has, and ends", process.pid)
            systemd.tell(MAINPID=process.pid)
            self._sharing.handed.set()
        else:
            log.error("process %d does not take over: %s; this one goes on", process.pid, why)
            systemd.tell(STATUS=f"process {process.pid} did not take over: {why}; process {os.getpid()} goes on")

    def _start(self, pipe: int) -> subprocess.Popen[bytes]:
        """The new process. Raises `OSError` where there is no such program."""
        sock = self._sock.fileno()
        environment = {name: value for name, value in os.environ.items() if name != "_PONDER_LIFELINE"}
        out, err = self._streams
        return subprocess.Popen(  # noqa: S603 (the command of this process)
            self._command or own_command(),
            env=environment | {VARIABLE: f"{sock}:{pipe}:{self._sharing.kept:d}:{os.getpid()}"},
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            pass_fds=(sock, pipe),
        )

    async def _awaited(self, process: subprocess.Popen[bytes], pipe: int) -> str | None:
        """None: it is ready. Otherwise why it is not, and it has ended."""
        try:
            async with asyncio.timeout(self._patience):
                await _readable(pipe)
            if os.read(pipe, len(READY)) == READY:
                return None
            why = "it ended with status {} before it was ready"
        except TimeoutError:
            why = f"it was not ready within {self._patience:g} seconds"
        return why.format(await asyncio.to_thread(_ended, process))


def _ended(process: subprocess.Popen[bytes]) -> int:
    """The exit status of a process that has ended, or is made to."""
    for wants in (lambda: None, process.terminate, process.kill):
        wants()
        with suppress(subprocess.TimeoutExpired):
            return process.wait(ENDING)
    return -signal.SIGKILL


async def _readable(fd: int) -> None:
    """Returns when there is something to read, or the end."""
    loop = asyncio.get_running_loop()
    told: asyncio.Future[None] = loop.create_future()
    loop.add_reader(fd, lambda: told.done() or told.set_result(None))
    try:
        await told
    finally:
        loop.remove_reader(fd)
