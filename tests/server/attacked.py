"""A server in a process of its own, to be attacked and loaded: the real door and log over a scripted model.

python -m tests.server.attacked SETTINGS HEAP    # JSON, and a file; prints its address
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import psutil
import uvloop

from ponder.compute.engine import Delta, Sampling
from ponder.compute.lengths import Lengths
from ponder.compute.text import Prompt
from ponder.compute.transcript import Transcript
from ponder.server import logs
from ponder.server.app import ServedModel, create_app
from ponder.server.http.server import run
from ponder.server.http.sockets import bind, listen, url_of
from ponder.server.output import captured
from ponder.server.settings import ModelSettings, Settings
from ponder.testing import Chain, ScriptedEngine, always

ROOT = Path(__file__).parents[2]


class _Forgetful(ScriptedEngine):
    """Keeps nothing of its calls: that would look like the server's."""

    def generate(self, prompt: Prompt, sampling: Sampling, transcript: Transcript) -> AsyncGenerator[Delta]:
        for told in (self.prompts, self.samplings, self.identities):
            told.clear()
        return super().generate(prompt, sampling, transcript)


class _MallInfo(ctypes.Structure):
    """What mallinfo2(3) returns."""

    _fields_ = tuple(
        (name, ctypes.c_size_t)
        for name in (
            "arena",
            "ordblks",
            "smblks",
            "hblks",
            "hblkhd",
            "usmblks",
            "fsmblks",
            "uordblks",
            "fordblks",
            "rest",
        )
    )


def _tell_heap(file: Path) -> None:
    """Writes down what lives: Python's blocks when all garbage is collected, and the bytes that malloc has given out.
    What is resident is more: both keep what was once wanted at a time."""
    gc.collect()
    info = ctypes.CDLL(None).mallinfo2
    info.restype = _MallInfo
    told = info()
    line = json.dumps([sys.getallocatedblocks(), told.uordblks + told.hblkhd])
    with file.open("a") as heap:
        heap.write(line + "\n")


async def _serve(settings: Settings, heap: Path) -> None:
    engine = _Forgetful(always(Chain("so it is\n" * 3, "It is 7."), Chain("so it is\n", "It is 8.")), delay=0.0005)
    served = ServedModel(engine, Lengths(20, 40), ModelSettings(path="scripted"))
    with bind("127.0.0.1", 0) as sock, captured("info", "json", "places") as output:
        lines = logs.configure("info", "json", output.err)
        app = create_app(settings, {"demo": served})
        listen(sock)
        lines.brief = True
        output.serving()
        output.out.write(url_of(sock) + "\n")
        handle = app.state.handle
        asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, _tell_heap, heap)
        await run(app, settings, sock, handle.drain, handle.metrics.lag, handle.hurry)


@dataclass
class Attacked:
    """The server as it is seen from outside."""

    url: str
    process: psutil.Process
    log: Path

    @property
    def address(self) -> tuple[str, int]:
        parts = urlsplit(self.url)
        return str(parts.hostname), int(parts.port or 0)

    @property
    def memory(self) -> int:
        """Resident bytes."""
        return int(self.process.memory_info().rss)

    @property
    def files(self) -> int:
        """Open descriptors."""
        return int(self.process.num_fds())

    @property
    def heap(self) -> Path:
        """See `tell_heap`."""
        return self.log.with_name("heap")

    def tell_heap(self) -> None:
        """Has it add a line to its file `heap`: blocks of Python's that live, and bytes that malloc has given out."""
        self.process.send_signal(signal.SIGUSR1)

    @property
    def inflight(self) -> float:
        """Requests at work, by its metrics."""
        text = httpx.get(f"{self.url}/metrics", timeout=30).text
        return next(
            float(line.split()[1]) for line in text.splitlines() if line.startswith("ponder_inflight_requests ")
        )


@contextmanager
def attacked(folder: Path, **settings: object) -> Generator[Attacked]:
    """The server, for as long as the block lasts. It ends at a signal, in order."""
    log = folder / "log"
    command = [sys.executable, "-m", "tests.server.attacked", json.dumps(settings), str(folder / "heap")]
    with (
        log.open("wb") as err,
        subprocess.Popen(
            command, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, stderr=err, text=True
        ) as process,
    ):
        try:
            assert process.stdout is not None
            url = process.stdout.readline().strip()
            assert url.startswith("http"), log.read_text()
            yield Attacked(url, psutil.Process(process.pid), log)
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0
        finally:
            process.kill()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(Settings(**json.loads(sys.argv[1])), Path(sys.argv[2])))
