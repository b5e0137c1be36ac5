"""The server's log: one line a record, whatever is in it, as text or as JSON, each with the id of its request.

What a line tells may come from outside (a path, a library's words about a schema), so line breaks and other control
characters are written as escapes: nobody can make a line that looks like one of ours.
"""

from __future__ import annotations

import json
import logging
import re
import sys
import time
from contextvars import ContextVar
from typing import Literal

LONGEST = 8192
"""Characters of one message."""
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")

REQUEST_ID: ContextVar[str] = ContextVar("request_id", default="")
"""Of the request that is being answered; tasks take it along."""

LogFormat = Literal["text", "json"]


class Lines(logging.Formatter):
    """One line a record."""

    def __init__(self, form: LogFormat) -> None:
        super().__init__()
        self._json = form == "json"

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end."""
        message = super().format(record)
        if len(message) > LONGEST:
            message = message[:LONGEST] + "..."
        request_id = REQUEST_ID.get()
        seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        moment = f"{seconds}.{int(record.msecs):03d}Z"
        if self._json:
            told = {"time": moment, "level": record.levelname.lower(), "logger": record.name, "message": message}
            return json.dumps(told | ({"request_id": request_id} if request_id else {}))
        about = f" {request_id}" if request_id and request_id not in message else ""
        return escaped(f"{moment} {record.levelname} {record.name}:{about} {message}")


def escaped(text: str) -> str:
    """Without line breaks and other control characters."""
    return CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def configure(level: str, form: LogFormat) -> None:
    """Makes all that is logged go to standard error so, from `level` on."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Lines(form))
    logging.basicConfig(level=level.upper(), handlers=[handler])
