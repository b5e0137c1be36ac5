"""vLLM's own server on the CPU, as anybody starts it: a process of its own, at a port that is free."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path

import httpx

STARTS = 400.0
"""Seconds in which it is up."""
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_NO_USAGE_STATS": "1"}


def command(model: Path, flags: Mapping[str, str], *switches: str) -> tuple[str, list[str]]:
    """The address that it will have, and what starts it there."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    flags = {
        "--model": str(model),
        "--host": "127.0.0.1",
        "--port": str(port),
        "--block-size": "32",
        "--dtype": "float32",
        "--max-model-len": "2048",
        **flags,
    }
    words = [word for pair in flags.items() for word in pair]
    module = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--enforce-eager"]
    return f"http://127.0.0.1:{port}", [*module, *switches, *words]


@contextmanager
def vllm_serving(model: Path, log: Path, flags: Mapping[str, str], *switches: str) -> Generator[str]:
    """The address of one, for as long as the block lasts."""
    url, words = command(model, flags, *switches)
    with (
        log.open("wb") as out,
        subprocess.Popen(words, env=os.environ | ENVIRONMENT, stdout=out, stderr=out) as process,
    ):
        try:
            end = time.monotonic() + STARTS
            while not answers(f"{url}/health"):
                assert process.poll() is None, log.read_text()[-4000:]
                assert time.monotonic() < end, log.read_text()[-4000:]
                time.sleep(0.2)
            yield url
        finally:
            process.terminate()
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()


def answers(url: str) -> bool:
    """Whether a server says there that all is well."""
    try:
        return httpx.get(url, timeout=5).status_code == 200
    except httpx.HTTPError:
        return False
