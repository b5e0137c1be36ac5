"""Engine processes end with the server, however it ends: even when it is killed, none is left that takes memory.

vLLM runs an engine in child processes, and a child does not notice when its parent is killed. So the server keeps a
pipe to which nobody writes, and each child asks the kernel for a SIGKILL when its writing end closes (`F_SETSIG`,
fcntl(2)). Nothing in the child has to be able to run for that, it reaches a child's children too, and unlike
`PR_SET_PDEATHSIG` it does not fire at the end of the thread that started the child.

A forked child is tied at its birth. One that is spawned is tied while it imports vLLM: `no_platform` is an entry point
of a kind that vLLM asks before anything else. Where the server is gone by then, the child goes too.
"""

from __future__ import annotations

import fcntl
import os
import select
import signal

_SERVER = "_PONDER_LIFELINE"
"""The environment variable that names the pipe: process, descriptor, inode."""

_writer: int | None = None
_tied: int | None = None
"""The process that is tied already."""


def tie_children() -> None:
    """From here on the children this process forks, and those that vLLM spawns, end with it. Idempotent."""
    global _writer
    if _writer is None:
        reader, _writer = os.pipe()
        os.environ[_SERVER] = f"{os.getpid()}:{reader}:{os.fstat(reader).st_ino}"
        os.register_at_fork(after_in_child=_forked)


def no_platform() -> None:
    """For vLLM's plugins: this is no platform. In a process of an engine: ties it."""
    server = os.environ.get(_SERVER)
    if server is not None and os.getpid() not in (_tied, int(server.partition(":")[0])):
        _tie(server)
        os.register_at_fork(after_in_child=_forked)


def _forked() -> None:
    global _writer
    if _writer is not None:
        os.close(_writer)
        _writer = None
    if (server := os.environ.get(_SERVER)) is not None:
        _tie(server)


def _tie(server: str) -> None:
    global _tied
    _tied = os.getpid()
    process, reader, inode = server.split(":")
    pipe = f"/proc/{process}/fd/{reader}"
    try:
        if os.stat(pipe).st_ino != int(inode):
            raise FileNotFoundError(pipe)
        # An opening of its own: that which a fork inherits is shared, and so is whom it signals.
        own = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        os.kill(os.getpid(), signal.SIGKILL)
        return
    fcntl.fcntl(own, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(own, fcntl.F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(own, fcntl.F_SETFL, fcntl.fcntl(own, fcntl.F_GETFL) | os.O_ASYNC)
    ended = select.poll()
    ended.register(own, 0)
    if ended.poll(0):
        os.kill(os.getpid(), signal.SIGKILL)
