"""An environment of its own for each suite of other authors, with every package at one version: what a suite wants must
not change what is tested, nor the other way round.

An environment is named by what is in it, and made once, in the user's cache, by one process while others wait.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

from ponder.server.made import cache as cache_folder

HERE = Path(__file__).parent
BASE = [f"{sys.base_prefix}/bin/python{sys.version_info[0]}.{sys.version_info[1]}"]
"""The Python that has pip."""
TORCH = re.compile(r"^torch==[0-9.]+\+cpu$", re.MULTILINE)


def python(suite: str) -> Path:
    """The Python of a suite's environment; `tests/conformance/SUITE.txt` says what is in it. Never skipped: what cannot
    be made fails."""
    return environment(suite) / "bin" / "python"


def environment(suite: str) -> Path:
    """The folder of it."""
    return made_of(HERE / f"{suite}.txt", suite)


@cache
def made_of(pins: Path, name: str) -> Path:
    """The folder of an environment that has what a file of pins says."""
    wanted = hashlib.sha256((pins.read_text() + sys.version).encode()).hexdigest()[:16]
    folder = cache_folder() / "conformance" / f"{name}-{wanted}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "whole").exists():
            shutil.rmtree(folder, ignore_errors=True)
            uv("venv", "--seed", "--python", sys.executable, str(folder))
            with tempfile.TemporaryDirectory(prefix="ponder-wheels-") as wheels:
                more = ["--find-links", fetched(torch[0], wheels)] if (torch := TORCH.search(pins.read_text())) else []
                into = ["--python", str(folder / "bin" / "python"), "--requirements", str(pins)]
                uv("pip", "install", *into, *more)
            (folder / "whole").touch()
    return folder


def fetched(torch: str, folder: str) -> str:
    """The folder, with the CPU build of torch in it, which is not on PyPI: from where pip finds it or from its own
    index."""
    words = [*BASE, "-m", "pip", "download", "--no-deps", "--dest", folder, torch]
    try:
        ran(*words)
    except AssertionError:
        ran(*words, "--index-url", importlib.import_module("tools.install").TORCH_INDEX)
    return folder


def source(suite: str, package: str) -> Path:
    """The folder of a package's published source, of the version that the suite's environment has."""
    folder = environment(suite)
    pinned = next(line for line in (HERE / f"{suite}.txt").read_text().splitlines() if line.startswith(f"{package}=="))
    name = pinned.replace("==", "-")
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / name).exists():
            words = ["download", "--no-deps", "--no-binary", package, "--dest", str(folder / "source"), pinned]
            ran(str(folder / "bin" / "python"), "-m", "pip", *words)
            shutil.unpack_archive(next((folder / "source").glob("*.tar.gz")), folder / "unpacked", filter="data")
            (folder / "unpacked" / name).rename(folder / name)
    return folder / name


def uv(*words: str) -> None:
    """Runs uv, which is where everything of this project is installed from, with pip's own configuration."""
    ran(str(Path(sys.executable).parent / "uv"), *words)


def ran(*words: str) -> None:
    """Runs a program; uv is told what pip is configured with, as `tools/install.py` tells it."""
    install: Any = importlib.import_module("tools.install")
    environ = {**os.environ, **install.uv_environment([*BASE, "-m", "pip"])}
    done = subprocess.run(words, env=environ, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(words)}: {done.stderr[-2000:]}"
