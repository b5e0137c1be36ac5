"""The server's log: one line a record, whatever is in it, as text or as JSON, each with the id of its request.

What a line tells may come from outside (a path, a library's words about a schema), so line breaks and other control
characters are written as escapes: nobody can make a line that looks like one of ours. As soon as callers get in,
records of libraries are told by their place in the code alone, because their words may quote a request. And a place in
the code may write so many lines a minute, so that nobody can fill the log either.
"""

from __future__ import annotations

import json
import logging
import re
import sys
import time
from collections.abc import Callable
from contextvars import ContextVar
from typing import Literal, TextIO

LONGEST = 8192
"""Characters of one message."""
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
BURST = 20
"""Lines of one place in the code within `WINDOW`."""
WINDOW = 60.0
"""Seconds."""
UNBOUNDED = "ponder.access"
"""The logger whose lines are as many as there are requests: that is what it is switched on for."""

REQUEST_ID: ContextVar[str] = ContextVar("request_id", default="")
"""Of the request that is being answered; tasks take it along."""

TRACE: ContextVar[tuple[str, str] | None] = ContextVar("trace", default=None)
"""Ids of the OpenTelemetry trace and span of that request, where there are any."""

LogFormat = Literal["text", "json"]


class Lines(logging.Formatter):
    """One line a record."""

    def __init__(self, form: LogFormat) -> None:
        super().__init__()
        self._json = form == "json"
        self.brief = False
        """Of records that are not ours the place alone."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end."""
        message = self._message(record)
        if len(message) > LONGEST:
            message = message[:LONGEST] + "..."
        request_id = REQUEST_ID.get()
        seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        moment = f"{seconds}.{int(record.msecs):03d}Z"
        if self._json:
            told = {"time": moment, "level": record.levelname.lower(), "logger": record.name, "message": message}
            if (trace := TRACE.get()) is not None:
                told |= {"trace_id": trace[0], "span_id": trace[1]}
            return json.dumps(told | ({"request_id": request_id} if request_id else {}))
        about = f" {request_id}" if request_id and request_id not in message else ""
        if (trace := TRACE.get()) is not None:
            about += f" trace_id={trace[0]}"
        return escaped(f"{moment} {record.levelname} {record.name}:{about} {message}")

    def _message(self, record: logging.LogRecord) -> str:
        if not self.brief or record.name.partition(".")[0] == "ponder":
            return super().format(record)
        error = record.exc_info[1] if record.exc_info else None
        raised = "" if error is None else f" ({type(error).__name__})"
        return f"{record.filename}:{record.lineno}{raised}: its words may quote a request and are left out"


class Handler(logging.StreamHandler[TextIO]):
    """Writes lines, of one place in the code no more than `BURST` within `WINDOW`, and how many more there were."""

    def __init__(self, stream: TextIO, lines: Lines, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(stream)
        self.setFormatter(lines)
        self._clock = clock
        self._windows: dict[tuple[str, int], _Window] = {}

    def emit(self, record: logging.LogRecord) -> None:
        """Called with the handler's lock held."""
        if record.name == UNBOUNDED:
            super().emit(record)
            return
        now, place = self._clock(), (record.pathname, record.lineno)
        for over in [key for key, window in self._windows.items() if now - window.began >= WINDOW]:
            window = self._windows.pop(over)
            if window.left_out:
                super().emit(window.told())
        window = self._windows.setdefault(place, _Window(now, record))
        window.lines += 1
        if window.lines <= BURST:
            super().emit(record)
        else:
            window.left_out += 1


class _Window:
    """The lines of one place in the code."""

    def __init__(self, began: float, record: logging.LogRecord) -> None:
        self.began = began
        self.lines = self.left_out = 0
        self._of = record.levelno, record.pathname, record.lineno, record.filename

    def told(self) -> logging.LogRecord:
        """A record in place of those that were left out."""
        level, path, line, file = self._of
        words = "%d more lines of %s:%d were left out"
        return logging.LogRecord(__name__, level, path, line, words, (self.left_out, file, line), None)


def escaped(text: str) -> str:
    """Without line breaks and other control characters."""
    return CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def configure(level: str, form: LogFormat, stream: TextIO | None = None) -> Lines:
    """Makes all that is logged go to a stream (None: standard error) so, from `level` on; the formatter of it."""
    lines = Lines(form)
    logging.basicConfig(level=level.upper(), handlers=[Handler(stream or sys.stderr, lines)])
    return lines
