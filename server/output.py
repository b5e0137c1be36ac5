"""What is written on standard output and standard error past the log: by vLLM's processes, by libraries in C++, by
Python itself. It comes into the log, escaped and bounded, and without a word of a request.

Both are pipes while the server runs, for its children too, and a process of its own reads them (`output_reader`): a
thread would stand still, and let the pipes fill up, where a library writes much while it holds the interpreter's lock.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager, suppress
from typing import IO, Literal, TextIO, cast

from ponder.server.logs import LogFormat

LibraryOutput = Literal["places", "all"]

PATIENCE = 2.0
"""Seconds the reader has to tell what is still in the pipes when the server ends."""


class Output:
    """The streams the server had when it began; they are its own now."""

    def __init__(self, out: TextIO, err: TextIO, control: IO[bytes]) -> None:
        self.out, self.err = out, err
        self._control = control

    def serving(self) -> None:
        """From here on what is written may quote a request."""
        with suppress(BrokenPipeError):
            self._control.write(b"s")
            self._control.flush()


@contextmanager
def captured(level: str, form: LogFormat, library_output: LibraryOutput) -> Generator[Output]:
    """Within the block standard output and standard error are read by another process; what it makes of them goes to
    standard error as it was before. For the main thread, before other processes are started."""
    kept = os.dup(1), os.dup(2)
    out, err = (os.fdopen(os.dup(fd), "w", encoding="utf-8", errors="replace", buffering=1) for fd in kept)
    pipes = os.pipe(), os.pipe()
    command = [sys.executable, "-P", "-m", "ponder.server.output_reader", level, form, library_output]
    reader = subprocess.Popen(  # noqa: S603 (a command of ours)
        [*command, *(str(reading) for reading, _ in pipes)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(os.path.abspath(folder) for folder in sys.path)},
        stdin=subprocess.PIPE,
        stdout=kept[1],
        stderr=kept[1],
        pass_fds=[reading for reading, _ in pipes],
        start_new_session=True,
    )
    control = cast("IO[bytes]", reader.stdin)
    for fd, (reading, writing) in enumerate(pipes, 1):
        _flush()
        os.dup2(writing, fd)
        os.close(writing)
        os.close(reading)
    try:
        yield Output(out, err, control)
    finally:
        _flush()
        for fd, before in enumerate(kept, 1):
            os.dup2(before, fd)
            os.close(before)
        # `out` and `err` stay open: what is logged while the interpreter ends goes there.
        with suppress(BrokenPipeError):
            control.close()
        with suppress(subprocess.TimeoutExpired):
            reader.wait(PATIENCE)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
