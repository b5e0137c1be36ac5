"""Engine processes end with the server, however it ends: even when it is killed, none is left that takes memory.

vLLM runs an engine in child processes, and a child does not notice when its parent is killed. So the server listens on
a socket that it never answers, each child connects to it, and asks the kernel for a SIGKILL when the connection breaks
(`F_SETSIG`, fcntl(2)). Nothing in the child has to be able to run for that, it reaches a child's children too, and
unlike `PR_SET_PDEATHSIG` it does not fire at the end of the thread that started the child.

The socket has a name in the kernel and none in a file system (unix(7), "abstract"). So it is found wherever the child
is: in other namespaces of processes and of mounts, without `/proc`, and when an exec has closed all that was inherited.

A forked child is tied at its birth. One that is spawned is tied while it imports vLLM: `no_platform` is an entry point
of a kind that vLLM asks before anything else. Where the server is gone by then, the child goes too.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import secrets
import select
import signal
import socket

_SERVER = "_PONDER_LIFELINE"
"""The environment variable that names the process and its socket."""

WAITING = 4096
"""Connections the kernel keeps for a server that answers none."""

_listening: socket.socket | None = None
_kept: list[socket.socket] = []
"""Of a server: connections of children that were there when it looked."""
_tied: int | None = None
"""The process that is tied already."""
_own: socket.socket | None = None
"""Of a child: its connection."""


def tie_children() -> None:
    """From here on the children this process forks, and those that vLLM spawns, end with it. Idempotent."""
    global _listening
    if _listening is None:
        name = f"ponder-{secrets.token_hex(16)}"
        _listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        _listening.setblocking(False)
        _listening.bind(f"\0{name}")
        _listening.listen(WAITING)
        os.environ[_SERVER] = f"{os.getpid()}:{name}"
        os.register_at_fork(after_in_child=_forked)
    _sort_out(_listening)


def end_with_parent() -> None:
    """This process is killed when the one that has started it ends, `make` for one. Linux alone."""
    parent = os.getppid()
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)


def _sort_out(listening: socket.socket) -> None:
    """Takes the connections in, so that there is room for more, and lets go of those whose children have ended."""
    while True:
        try:
            _kept.append(listening.accept()[0])
        except BlockingIOError:
            break
    over = select.poll()
    for kept in _kept:
        over.register(kept, 0)
    gone = {fd for fd, _ in over.poll(0)}
    for kept in [kept for kept in _kept if kept.fileno() in gone]:
        kept.close()
        _kept.remove(kept)


def no_platform() -> None:
    """For vLLM's plugins: this is no platform. In a process of an engine: ties it."""
    server = os.environ.get(_SERVER)
    if server is not None and os.getpid() not in (_tied, int(server.partition(":")[0])):
        _tie(server)
        os.register_at_fork(after_in_child=_forked)


def _forked() -> None:
    global _listening
    if _listening is not None:
        _listening.close()
        _listening = None
    while _kept:
        _kept.pop().close()
    if (server := os.environ.get(_SERVER)) is not None:
        _tie(server)


def _tie(server: str) -> None:
    global _tied, _own
    _tied = os.getpid()
    if _own is not None:
        _own.close()  # That of the process this one was forked from.
    _own = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _own.connect("\0" + server.partition(":")[2])
    except OSError:
        os.kill(os.getpid(), signal.SIGKILL)
        return
    fcntl.fcntl(_own, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(_own, fcntl.F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(_own, fcntl.F_SETFL, fcntl.fcntl(_own, fcntl.F_GETFL) | os.O_ASYNC)
    ended = select.poll()
    ended.register(_own, 0)
    if ended.poll(0):
        os.kill(os.getpid(), signal.SIGKILL)
