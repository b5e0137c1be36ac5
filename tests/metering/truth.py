"""A model in another process that writes down every token it makes, for tests in which the server's process dies."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Generator, Mapping
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from ponder.compute.engine import Delta, Sampling
from ponder.compute.errors import Lost
from ponder.compute.identity import CallIdentity
from ponder.compute.text import Prompt
from ponder.compute.transcript import Transcript
from ponder.testing import ScriptedEngine

PROCESS = Path(__file__).parent / "truth_process.py"


@dataclass
class Truth:
    """The process, by its socket and its file."""

    socket: str
    file: Path

    def made(self) -> Counter[str]:
        """Tokens that were made, by the id of the request."""
        return Counter(line.partition("/")[0] for line in self.file.read_text().splitlines())

    @property
    def tokens(self) -> int:
        return self.file.read_bytes().count(b"\n")


@contextmanager
def truth(folder: Path) -> Generator[Truth]:
    """The process, for as long as the block lasts."""
    made = Truth(str(folder / "model.sock"), folder / "truth")
    command = [sys.executable, str(PROCESS), made.socket, str(made.file)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            yield made
        finally:
            process.kill()


@dataclass
class _Line:
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    left: int | None
    """Tokens until the model goes away; None where it stays."""
    owed: int = 0
    """Tokens asked for that have not come back yet."""

    async def token(self) -> None:
        if self.left == 0:
            raise Lost("the model is away")
        if self.left is not None:
            self.left -= 1
        self.owed += 1
        self.writer.write(b"t")
        await self.reader.readexactly(1)
        self.owed -= 1

    async def drain(self) -> asyncio.CancelledError | None:
        """Takes what is still to come, also where that is cancelled meanwhile."""
        cancelled, left = None, self.owed
        while left:
            try:
                await self.reader.readexactly(1)
                left -= 1
            except asyncio.CancelledError as error:
                cancelled = error
        return cancelled


@dataclass
class DistantEngine(ScriptedEngine):
    """A scripted engine whose tokens are made by the other process, one at a time."""

    socket: str = ""
    away_at: Mapping[int, int] = field(default_factory=dict[int, int])
    """The model goes away in the middle of a call: its number, and after how many of its tokens."""
    held: Callable[[], bool] = lambda: False
    """The next token waits for as long as this is true: for a model that is slower than the disk."""
    lines: dict[CallIdentity, _Line] = field(default_factory=dict[CallIdentity, _Line])

    async def wait(self, call: CallIdentity) -> None:
        await super().wait(call)
        while self.held():  # noqa: ASYNC110 - the ledger tells nobody
            await asyncio.sleep(0.001)
        await self.lines[call].token()

    async def generate(self, prompt: Prompt, sampling: Sampling, transcript: Transcript) -> AsyncGenerator[Delta]:
        call = transcript.call
        left = self.away_at.get(self.calls)
        line = _Line(*await asyncio.open_unix_connection(self.socket), left)
        line.writer.write(f"{call}\n".encode())
        self.lines[call] = line
        try:
            async with aclosing(super().generate(prompt, sampling, transcript)) as stream:
                async for delta in stream:
                    yield delta
        finally:
            # A token that was under way when the stream was closed is made, and counted.
            cancelled = await line.drain()
            self.produced += line.owed
            if line.owed and transcript.candidate().thinking:
                transcript.think([ord(".")] * line.owed)
            elif line.owed:
                transcript.say([ord(".")] * line.owed, "")
            del self.lines[call]
            line.writer.close()
            if cancelled is not None:
                raise cancelled
