"""An engine in a process of its own, which writes down every token it makes before it hands it over.

The process makes tokens and knows nothing else; what they are is told by the script, here. So it can be killed or
stopped at any moment, and its file says what it had made by then.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from ponder.compute.engine import Checked, Hold, Read, Reward, unheld
from ponder.compute.errors import EngineError, Lost
from ponder.compute.identity import CallIdentity
from ponder.compute.text import Candidate, Prompt
from ponder.compute.transcript import Transcript
from ponder.testing import Chain, ScriptedEngine, ScriptedRewards
from tests.engines.mortal import drawn

ROOT = Path(__file__).parents[2]
PROGRAM = """
import os, socket, sys, time
sys.path.insert(0, sys.argv[3])
import lifeline
lifeline.no_platform()
line = socket.socket(fileno=int(sys.argv[1]))
truth = os.open(sys.argv[2], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
line.sendall(b"up\\n")
try:
    for wanted in line.makefile("rb"):
        number, what = wanted.split(b" ", 1)
        if what.startswith(b"poison"):
            os.abort()
        os.write(truth, what)
        line.sendall(number + b"\\n")
except ConnectionError:
    pass
time.sleep(600)
"""
"""At its end it does not notice that the server has ended."""


@dataclass
class TokenProcess:
    """Fulfils `ponder.engines.supervisor.Process`."""

    truth: Path
    """A line for each token: of which chain, and which of its tokens."""
    name: str = "scripted"
    progress: int = 0
    reading: int = 0
    process: subprocess.Popen[bytes] | None = None
    _waiting: dict[int, asyncio.Future[None]] = field(default_factory=dict[int, "asyncio.Future[None]"])
    _writer: asyncio.StreamWriter | None = None
    _numbers: int = 0

    @property
    def pids(self) -> Sequence[int]:
        return [] if self.process is None else [self.process.pid]

    @property
    def status(self) -> int | None:
        return None if self.process is None else self.process.poll()

    async def start(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            command = [sys.executable, "-S", "-E", "-c", PROGRAM, str(theirs.fileno()), str(self.truth)]
            command.append(str(ROOT / "engines"))
            self.process = subprocess.Popen(command, pass_fds=[theirs.fileno()])  # noqa: ASYNC220 (it takes a moment)
        reader, self._writer = await asyncio.open_connection(sock=ours)
        if await reader.readline() != b"up\n":
            raise EngineError("it does not start")
        reading = asyncio.get_running_loop().create_task(self._read(reader))
        reading.add_done_callback(lambda _: None)
        self._reading = reading

    async def _read(self, reader: asyncio.StreamReader) -> None:
        with suppress(ConnectionError):
            while line := await reader.readline():
                self.progress += 1
                if (waiting := self._waiting.pop(int(line), None)) is not None and not waiting.done():
                    waiting.set_result(None)
        waiting, self._waiting = self._waiting, {}
        for one in waiting.values():
            if not one.done():
                one.set_exception(Lost("the process went away"))

    async def end(self) -> None:
        if self.process is not None:
            self.process.kill()
            await asyncio.to_thread(self.process.wait)
            await asyncio.wait([self._reading])

    async def make(self, what: str) -> None:
        """A token. Raises `Lost`."""
        if self._writer is None or self._reading.done():
            raise Lost("the process went away")
        self._numbers += 1
        made = self._waiting[self._numbers] = asyncio.get_running_loop().create_future()
        self._writer.write(f"{self._numbers} {what}\n".encode())
        await made

    def send(self, sign: signal.Signals) -> None:
        if self.process is not None:
            os.kill(self.process.pid, sign)

    def made(self, purpose: str = "") -> Counter[str]:
        """How often each token was made, by its own account."""
        return Counter(line for line in self.truth.read_text().splitlines() if purpose in line)


@dataclass
class TokenEngine(ScriptedEngine):
    """Writes what its script says, each token made by the process."""

    process: TokenProcess = field(default_factory=lambda: TokenProcess(Path(os.devnull)))
    script: Callable[[Prompt, str, int], Chain] = drawn
    seeded: bool = True
    delay: float = 0.002
    poison: Callable[[Transcript], bool] = lambda _: False

    async def make(self, transcript: Transcript) -> None:
        await asyncio.sleep(self.delay)
        at = transcript.hidden + transcript.visible
        await self.process.make(f"{'poison ' if self.poison(transcript) else ''}{transcript.call} {at}")

    async def check(self) -> Checked | None:
        await self.process.make("check 0")
        return Checked(1, 0, 1)


@dataclass
class TokenRewards(ScriptedRewards):
    """Judges by a function of the text, when the process has made a token for it."""

    process: TokenProcess = field(default_factory=lambda: TokenProcess(Path(os.devnull)))

    async def reward(
        self,
        prompt: Prompt,
        candidates: Sequence[Candidate],
        *,
        read: Read,
        hold: Hold = unheld,
        tenant: str | None = None,
        calls: Sequence[CallIdentity] = (),
    ) -> Sequence[Reward]:
        for call in calls:
            await self.process.make(str(call))
        return await super().reward(prompt, candidates, read=read, hold=hold, tenant=tenant, calls=calls)

    async def check(self) -> Checked | None:
        await self.process.make("check 0")
        return Checked(1)
