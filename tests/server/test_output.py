"""What libraries and engines write past the log comes into it: a line a record, bounded, without a caller's words."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from ponder.server.output_reader import BURST, LONGEST_WINDOW, WINDOW, Teller

SECRET = "the-callers-own-words"
FORGED = f"x\n2026-01-01T00:00:00.000Z ERROR ponder.server: {SECRET}\r\x1b[2J\u2028"
SERVER = """
import ctypes, os, subprocess, sys
from ponder.server import logs
from ponder.server.output import captured

form, library_output, *what = sys.argv[1:]
with captured("info", form, library_output) as output:
    lines = logs.configure("info", form, output.err)
    os.write(2, b"before callers\\n")
    output.out.write("ready\\n")
    if "serving" in what:
        lines.brief = library_output != "all"
        output.serving()
        import time; time.sleep(0.3)
    for text in what[1:]:
        # A child's, this process's own past Python, and Python's.
        subprocess.run([sys.executable, "-c", "import os, sys; os.write(2, sys.argv[1].encode() + b'\\\\n')", text])
        os.write(1, text.encode() + b"\\n")
        print(text, file=sys.stderr)
        logs.logging.getLogger("vllm.engine").warning("a library says %s", text)
    if not what[1:]:
        # As a library in C++ does, which holds the interpreter's lock.
        held = ctypes.PyDLL(None)
        for _ in range(64):
            held.write(2, b"\\n" * 65536, 65536)
"""


def served(form: str, library_output: str, *what: str) -> tuple[str, list[str]]:
    """Standard output of a process that captures, and the lines of its standard error."""
    command = [sys.executable, "-c", SERVER, form, library_output, *what]
    done = subprocess.run(command, capture_output=True, timeout=60, check=True, env=os.environ)
    return done.stdout.decode(), done.stderr.decode().split("\n")[:-1]


@pytest.mark.parametrize("form", ["text", "json"])
def test_what_children_and_libraries_write_makes_no_line_of_its_own(form: str) -> None:
    out, lines = served(form, "all", "loading", FORGED)
    assert out == "ready\n"
    assert any("before callers" in line for line in lines)
    assert sum(SECRET in line for line in lines) == 4
    for line in lines:
        assert line.isprintable()
        if form == "json":
            assert json.loads(line)["logger"] in ("ponder.output", "vllm.engine")
        else:
            assert line.split()[2] in ("ponder.output:", "vllm.engine:")


def test_once_callers_are_served_none_of_their_words_is_in_the_log() -> None:
    trace = f'Traceback (most recent call last):\n  File "{os.__file__}", line 12, in {SECRET}\nValueError: {SECRET}'
    made_up = f'File "/{SECRET}.py", line 1, in x\n{SECRET}.py:3\n{SECRET}Error: no\nan OutOfMemoryError'
    out, lines = served("text", "places", "serving", FORGED, trace, made_up)
    log = "\n".join(lines)
    assert out == "ready\n"
    assert "before callers" in log
    assert "callers-own" not in log
    assert "os.py:12" in log
    assert "ValueError" in log
    assert "bytes) on standard error" in log
    assert "bytes) on standard output" in log
    assert "vllm.engine: <string>:" in log


def test_a_library_that_writes_more_than_a_pipe_holds_and_lets_no_thread_run_does_not_stand_still() -> None:
    assert served("text", "places", "serving")[0] == "ready\n"


class Told:
    """What a `Teller` told, on a clock in the hand."""

    def __init__(self, *, brief: bool, whole: bool = False) -> None:
        self.now = 0.0
        self.lines: list[str] = []
        self.teller = Teller("standard error", self.lines.append, lambda: self.now, whole=whole)
        self.teller.brief = brief

    def feed(self, *texts: str) -> None:
        for text in texts:
            self.teller.feed(text.encode())

    def later(self, seconds: float) -> Sequence[str]:
        """What is told until then."""
        self.now += seconds
        self.teller.tick()
        told, self.lines[:] = self.lines[:], []
        return told


def test_lines_that_somebody_can_cause_are_few_however_many_are_written() -> None:
    brief = Told(brief=True)
    told = 0
    for _ in range(600):
        brief.feed("line\n" * 1000)
        told += len(brief.later(1))
    assert told < 20
    assert not brief.later(LONGEST_WINDOW)[1:]
    assert not brief.later(LONGEST_WINDOW)
    brief.later(LONGEST_WINDOW)
    brief.feed("again\n")
    assert len(brief.later(WINDOW)) == 1
    whole = Told(brief=True, whole=True)
    whole.feed("line\n" * 100_000)
    assert len(whole.later(0)) == BURST
    whole.feed("next\n")
    assert not whole.later(1)
    whole.feed("then\n")
    assert list(whole.later(1)) == [f"{100_001 - BURST} lines on standard error were left out", "then"]


def test_a_line_without_an_end_is_told_piece_by_piece_and_kept_in_bounds() -> None:
    whole = Told(brief=False)
    whole.feed(*(["x" * 50_000] * 100))
    assert 70 < len(whole.later(0)) < 80


def test_vllms_own_lines_are_told_by_their_place() -> None:
    brief = Told(brief=True)
    brief.feed(
        f"(EngineCore pid=7) ERROR 11-26 03:00:00 [core.py:1100] {SECRET}\n", "(EngineCore pid=7) KeyError: 'x'\n"
    )
    assert "core.py:1100, KeyError" in "".join(brief.later(WINDOW))


def test_the_reader_ends_with_the_server_that_is_killed(tmp_path: Path) -> None:
    code = SERVER.split("with captured")[0] + (
        "import signal, time\nwith captured('info', 'text', 'places') as output:\n"
        "    os.write(2, b'last words\\n')\n    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    # The pipes come to their end when the last process that has them is gone.
    done = subprocess.run(
        [sys.executable, "-c", code, "text", "places"], cwd=tmp_path, capture_output=True, timeout=30, check=False
    )
    assert done.returncode == -9
    assert b"last words" in done.stderr
