"""The log: a record is a line, whoever wrote what is in it, and a request's lines have its id."""

from __future__ import annotations

import io
import json
import logging

import pytest

from ponder.server.logs import BURST, WINDOW, Handler, Lines, LogFormat
from tests.server.serving import chat, door, scripted

FORGED = "x\n2026-01-01T00:00:00.000Z ERROR ponder.server: all is lost\r\x1b[2J\u2028\x85\ud800"


def record(message: str) -> logging.LogRecord:
    return logging.LogRecord("ponder.server", logging.INFO, __file__, 1, "about %s", (message,), None)


@pytest.mark.parametrize("form", ["text", "json"])
def test_no_text_makes_a_line_of_its_own(form: LogFormat) -> None:
    line = Lines(form).format(record(FORGED))
    assert len(line.splitlines()) == 1
    assert line.isprintable()
    if form == "json":
        told = json.loads(line)
        assert told.keys() == {"time", "level", "logger", "message"}
        assert (told["level"], told["logger"], told["message"]) == ("info", "ponder.server", f"about {FORGED}")
    assert len(Lines(form).format(record("y" * 100_000))) < 10_000


@pytest.mark.parametrize("form", ["text", "json"])
def test_the_lines_of_a_request_have_its_id(form: LogFormat) -> None:
    lines: list[str] = []

    class Kept(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(self.format(record))

    handler = Kept()
    handler.setFormatter(Lines(form))
    logging.getLogger("ponder").addHandler(handler)
    try:
        app = door(scripted(fail_at=0))
        answers = [chat(app), chat(app, strategy="best_of_n", thinking_budget=1000, verifier={"name": "judge"})]
    finally:
        logging.getLogger("ponder").removeHandler(handler)
    assert lines
    ids = {answer.headers["x-request-id"] for answer in answers}
    assert all(any(one in line for one in ids) for line in lines)


def test_a_place_in_the_code_writes_so_many_lines_and_then_how_many_there_were() -> None:
    now, stream = 0.0, io.StringIO()
    handler = Handler(stream, Lines("text"), lambda: now)
    for _ in range(1000):
        handler.handle(record("caused by a caller"))
    other = logging.LogRecord("ponder.server", logging.INFO, __file__, 2, "of another place", (), None)
    access = logging.LogRecord("ponder.access", logging.INFO, __file__, 3, "a request", (), None)
    handler.handle(other)
    for _ in range(100):
        handler.handle(access)
    told = stream.getvalue()
    assert told.count("caused by a caller") == BURST
    assert told.count("of another place") == 1
    assert told.count("a request") == 100
    now = WINDOW
    handler.handle(other)
    assert f"{1000 - BURST} more lines of test_logs.py:1 were left out" in stream.getvalue()


def test_once_callers_are_served_libraries_are_told_by_their_place_alone() -> None:
    lines = Lines("text")
    lines.brief = True
    try:
        raise ValueError("words of a caller")
    except ValueError as error:
        failed = type(error), error, error.__traceback__
    told = lines.format(logging.LogRecord("asyncio", logging.ERROR, "/x/events.py", 7, "words of a caller", (), failed))
    assert "words of a caller" not in told
    assert "ERROR asyncio: events.py:7 (ValueError)" in told
    assert "about x" in lines.format(record("x"))
