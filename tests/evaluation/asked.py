"""What tests of commands that ask a server have alike: question files, an engine that can be held up, pages as read."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncGenerator, Iterable, Mapping
from contextlib import aclosing
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from ponder.__main__ import main
from ponder.compute.engine import Delta, Sampling
from ponder.compute.text import Prompt
from ponder.compute.transcript import Transcript
from ponder.testing import EchoEngine
from ponder.testing.scripted import question

ROOT = Path(__file__).parent.parent.parent


def ponder(capsys: pytest.CaptureFixture[str], *words: str, status: int = 0) -> str:
    """What a command prints to both, and that it ends with this status."""
    with pytest.raises(SystemExit) as ended:
        main(words)
    printed = capsys.readouterr()
    assert ended.value.code == status, printed.err
    return printed.out + printed.err


def process(*words: str, code: str = "") -> subprocess.Popen[str]:
    """The same as a process of its own; `code` runs before it."""
    program = f"{code}\nimport sys\nfrom ponder.__main__ import main\nmain(sys.argv[1:])"
    return subprocess.Popen(
        [sys.executable, "-c", program, *words],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def write(path: Path, lines: Iterable[Mapping[str, Any]]) -> Path:
    """A file of questions."""
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def sums(n: int, wrong: int = 0) -> list[dict[str, str]]:
    """So many questions, which an echo answers: the first `wrong` of them wrongly."""
    return [
        {
            "id": f"q{i}",
            "question": f"What is {i} + 1? The answer is \\boxed{{{i + 1}}}.",
            "answer": str(i + 1 + (i < wrong)),
        }
        for i in range(n)
    ]


class HeldEngine(EchoEngine):
    """An echo that answers `free` calls and never those behind them. `asked` counts how often it is asked what."""

    def __init__(self, free: int | None = None) -> None:
        super().__init__("scripted", remembers=False)
        self.free = free
        self.asked = Counter[str]()

    async def generate(self, prompt: Prompt, sampling: Sampling, transcript: Transcript) -> AsyncGenerator[Delta]:
        self.asked[question(prompt)] += 1
        if self.free is not None and self.asked.total() > self.free:
            await asyncio.Event().wait()
        async with aclosing(super().generate(prompt, sampling, transcript)) as stream:
            async for delta in stream:
                yield delta


class Read(HTMLParser):
    """A page as a browser reads it: its tags, its attributes, its text."""

    VOID = ("meta", "source", "img", "br", "hr", "link", "input")

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags = Counter[str]()
        self.attributes: list[tuple[str, str, str]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(page)
        self.close()
        assert not self._open, f"{self._open} are never closed"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in self.VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag, f"</{tag}> closes something else"

    def handle_data(self, data: str) -> None:
        if self._open[-1:] != ["style"]:
            self.text += data
