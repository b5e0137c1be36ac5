"""A server that was asked to end ends in the time it has, whatever holds it, and says what that was."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from ponder.server.ending import AFTER

ROOT = Path(__file__).parents[2]
SERVER = """
import asyncio, sys, threading, time
from contextlib import AsyncExitStack
import uvloop
from ponder.metering.metrics import Metrics
from ponder.server import logs
from ponder.server.serve import until_asked
from ponder.server.settings import Settings
from ponder.server.handoff import Listening
from ponder.server.http.sockets import bind, listen, url_of
from tests.server.serving import door, scripted

HOLDS = sys.argv[1]

def held_by_a_thread():
    time.sleep(600)

async def held_by_an_engine():
    time.sleep(600)

async def held_by_a_task():
    while True:
        try:
            await asyncio.sleep(600)
        except asyncio.CancelledError:
            pass

async def main():
    logs.configure("info", "text")
    settings = Settings(drain_timeout=0.2)
    metrics = Metrics()
    app = door(scripted(), settings, metrics=metrics)
    async with AsyncExitStack() as stack:
        if HOLDS == "everything":
            threading.Thread(target=held_by_a_thread).start()
            asyncio.get_running_loop().run_in_executor(None, held_by_a_thread)
            stack.push_async_callback(held_by_an_engine)
        if HOLDS in ("everything", "a task"):
            task = asyncio.create_task(held_by_a_task())
        with bind("127.0.0.1", 0) as sock:
            listen(sock)
            print(url_of(sock), flush=True)
            await until_asked(app, settings, Listening(sock), metrics)

with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
    runner.run(main())
"""


@pytest.mark.parametrize("holds", ["nothing", "a task", "everything"])
def test_a_drain_ends_whatever_holds_the_process(holds: str) -> None:
    """What holds it does so for ten minutes."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [sys.executable, "-c", SERVER, holds], cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as server:
        assert server.stdout is not None
        assert server.stderr is not None
        try:
            url = server.stdout.readline().decode().strip()
            assert httpx.get(f"{url}/livez", timeout=30).status_code == 200
            server.send_signal(signal.SIGTERM)
            status = server.wait(60 + AFTER)
            told = server.stderr.read().decode()
        finally:
            server.kill()
    assert status == 0, told
    assert bool(re.search("the server does not end by itself", told)) == (holds != "nothing"), told
    if holds == "everything":
        assert "held_by_a_thread" in told
        assert "held_by_an_engine" in told
