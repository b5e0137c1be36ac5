"""The process that reads what others wrote on standard output and standard error, and tells it as lines of the log.

While models are loaded it tells all. Once callers get in a line may quote a request: xgrammar names the reference of a
schema it does not know, and a traceback ends in a message. Then it is told how much was written and which places in the
code it names: files that are there, with the line, and errors that Python or an engine knows by that name. A text that
a caller made up is neither.
"""

from __future__ import annotations

import builtins
import logging
import os
import re
import select
import signal
import sys
import time
from collections.abc import Callable, Sequence
from typing import cast

from ponder.server.logs import Lines, LogFormat

LONGEST_LINE = 1 << 16
"""Bytes of a line that are looked at; what is longer counts as several."""
BURST, A_SECOND = 200, 20
"""Whole lines told at once, and more of them a second."""
WINDOW, LONGEST_WINDOW = 1.0, 60.0
"""Seconds of which a summary is told; twice as many each time, while there is something to tell."""
MOST_PLACES = 16

STREAMS = (("standard output", logging.INFO), ("standard error", logging.WARNING))
PLACE = re.compile(
    r'File "(/[^"\x00-\x1f]{1,512}\.py)", line ([0-9]{1,6})\b|(?<![\w./-])([A-Za-z0-9_]{1,64}\.py):([0-9]{1,6})\b'
)
"""As a traceback names it, and as vLLM's log does."""
ERROR = re.compile(r"^(?:\([^()]{0,80}\) )?(?:[A-Za-z_]\w{0,64}\.){0,8}([A-Z]\w{2,64})(?=:|\s*$)")
ENGINE_ERRORS = ("OutOfMemoryError", "EngineDeadError", "EngineGenerateError", "AcceleratorError", "DistBackendError")
ERRORS = frozenset(
    name for name, kind in vars(builtins).items() if isinstance(kind, type) and issubclass(kind, BaseException)
) | frozenset(ENGINE_ERRORS)


class Summary:
    """What was written within one window."""

    def __init__(self) -> None:
        self.lines = self.bytes = 0
        self._places: dict[str, None] = {}

    def add(self, line: str, size: int, modules: frozenset[str]) -> None:
        """Takes in a line."""
        self.lines += 1
        self.bytes += size
        if len(self._places) >= MOST_PLACES:
            return
        for path, at, name, number in PLACE.findall(line):
            if path and os.path.isfile(path):
                self._places[f"{os.path.basename(path)}:{at}"] = None
            elif name in modules:
                self._places[f"{name}:{number}"] = None
        error = ERROR.match(line)
        if error is not None and error[1] in ERRORS:
            self._places[error[1]] = None

    def told(self, stream: str) -> str:
        """In words."""
        named = ", ".join(list(self._places)[:MOST_PLACES])
        return (
            f"libraries wrote {self.lines} lines ({self.bytes} bytes) on {stream}"
            + (f", naming {named}" if named else "")
            + '; they may quote requests, and library_output = "all" shows them'
        )


class Teller:
    """Tells the log about one stream."""

    def __init__(self, stream: str, tell: Callable[[str], None], clock: Callable[[], float], *, whole: bool) -> None:
        self._stream, self._tell, self._clock = stream, tell, clock
        self._whole = whole
        self.brief = False
        self._rest = b""
        self._room, self._since, self._left_out = float(BURST), clock(), 0
        self._window, self._summary, self._until = WINDOW, Summary(), float("inf")

    def feed(self, data: bytes) -> None:
        """Takes in what was read."""
        *lines, self._rest = re.split(rb"[\r\n]", self._rest + data)
        while len(self._rest) > LONGEST_LINE:
            lines.append(self._rest[:LONGEST_LINE])
            self._rest = self._rest[LONGEST_LINE:]
        for line in lines:
            if line.strip():
                self._take(line)

    def _take(self, line: bytes) -> None:
        if self.brief and not self._whole:
            if not self._summary.lines:
                self._until = self._clock() + self._window
            self._summary.add(line.decode(errors="replace"), len(line), modules())
            return
        now = self._clock()
        self._room = min(float(BURST), self._room + (now - self._since) * A_SECOND)
        self._since = now
        if self._room < 1:
            self._left_out += 1
            return
        self._room -= 1
        if self._left_out:
            self._tell(f"{self._left_out} lines on {self._stream} were left out")
            self._left_out = 0
        self._tell(line.decode(errors="replace"))

    @property
    def due(self) -> float | None:
        """Seconds until the summary is to be told; None: there is none."""
        return max(0.0, self._until - self._clock()) if self._summary.lines else None

    def tick(self, *, last: bool = False) -> None:
        """Tells the summary, where its window is over; with `last` in any case, and the line that has no end."""
        if last:
            self.feed(b"\n")
            if self._left_out:
                self._tell(f"{self._left_out} lines on {self._stream} were left out")
        now = self._clock()
        if self._summary.lines and (last or now >= self._until):
            self._tell(self._summary.told(self._stream))
            self._summary, self._window = Summary(), min(LONGEST_WINDOW, 2 * self._window)
            self._until = now
        elif not self._summary.lines and now - self._until > self._window:
            self._window = WINDOW


_modules: list[frozenset[str]] = []


def modules() -> frozenset[str]:
    """Names of the files of Python code that vLLM's log lines may come from."""
    if not _modules:
        found: set[str] = set()
        for folder in sys.path:
            for package in ("vllm", "ponder"):
                for _, _, files in os.walk(os.path.join(folder, package), followlinks=True):
                    found.update(name for name in files if name.endswith(".py"))
        _modules.append(frozenset(found))
    return _modules[0]


def main(arguments: Sequence[str]) -> None:
    """Reads until the server ends, or nobody can write any more. Told by its standard input when callers get in, and by
    the end of that when the server goes."""
    level, form, library_output, *pipes = arguments
    # It ends behind all the others, whoever is told to go.
    for sign in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(sign, signal.SIG_IGN)
    lines, least = Lines(cast("LogFormat", form)), logging.getLevelNamesMapping()[level.upper()]

    def teller(stream: str, severity: int) -> Teller:
        def tell(text: str) -> None:
            if severity >= least or not one.brief:
                record = logging.LogRecord("ponder.output", severity, __file__, 0, "%s", (text,), None)
                os.write(1, (lines.format(record) + "\n").encode(errors="replace"))

        one = Teller(stream, tell, time.monotonic, whole=library_output == "all")
        return one

    tellers = {int(pipe): teller(*stream) for pipe, stream in zip(pipes, STREAMS, strict=True)}
    waiting = select.poll()
    for fd in (0, *tellers):
        os.set_blocking(fd, False)
        waiting.register(fd, select.POLLIN)
    open_, ends = set(tellers), False
    while open_ and not ends:
        due = [seconds for one in tellers.values() if (seconds := one.due) is not None]
        # What was written before callers got in is read before they are.
        for fd, _ in sorted(waiting.poll(1000 * min(due) + 1 if due else None), reverse=True):
            if fd == 0:
                told = os.read(0, 64)
                ends = not told
                for one in tellers.values():
                    one.brief = one.brief or bool(told)
            elif not _read(fd, tellers[fd], 1 << 18):
                waiting.unregister(fd)
                open_.discard(fd)
        for one in tellers.values():
            one.tick()
    for fd, one in tellers.items():
        if fd in open_:
            _read(fd, one, 1 << 24)
        one.tick(last=True)


def _read(fd: int, one: Teller, most: int) -> bool:
    """Reads what is there, about `most` bytes of it; False at the end of the stream."""
    while most > 0:
        try:
            data = os.read(fd, 1 << 16)
        except BlockingIOError:
            return True
        if not data:
            return False
        one.feed(data)
        most -= len(data)
    return True


if __name__ == "__main__":
    main(sys.argv[1:])
