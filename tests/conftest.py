"""What the tests of real engines share, wherever they are; and how tests are shared out among processes."""

from __future__ import annotations

import asyncio
import atexit
import os
import shutil
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from hypothesis import settings

pytest_plugins = ("tests.campaign", "tests.metering.databases")

# How long an example takes says more of the machine than of what is tested.
settings.register_profile("ponder", deadline=None)
settings.load_profile("ponder")

# What a server that a test starts would keep in the user's state folder, its ledger, goes where it is thrown away.
os.environ["XDG_STATE_HOME"] = tempfile.mkdtemp(prefix="ponder-state-")
atexit.register(shutil.rmtree, os.environ["XDG_STATE_HOME"], ignore_errors=True)

HERE = Path(__file__).parent
MEMORY = 4 << 30
"""Bytes that a process of tests may want, with an engine."""
LONGEST = (
    "server/test_stories.py",
    "server/test_serve.py",
    "engines/test_smollm2.py",
    "conformance/test_described.py",
    "simulation/test_simulation.py",
    "ray/test_serve.py",
    "server/test_structured.py",
    "engines/test_continuing.py",
    "server/test_handoff.py",
    "server/test_thoughts_stay_inside.py",
    "engines/test_vllm_restarts.py",
    "engines/test_vllm.py",
    "engines/test_tails.py",
    "models/test_engine.py",
    "server/test_every_dialect.py",
    "engines/test_replica_vllm.py",
    "test_docs.py",
    "server/test_seeds.py",
    "server/test_command.py",
    "engines/test_replay.py",
    "engines/test_reward_remote.py",
    "console/test_demo_models.py",
    "server/test_dialect_plugins.py",
    "server/test_written_arguments.py",
    "test_promises.py",
    "test_growth.py",
    "server/test_call_formats.py",
    "console/test_asking.py",
    "clients/test_examples.py",
    "testing/test_promises_bite.py",
    "conformance/test_openai_python.py",
    "test_one_name.py",
)
"""Files that take half a minute and more, the longest first. They are begun first, so that no process ends long after
the others."""

if "PYTEST_XDIST_WORKER" in os.environ:
    # Bound to cores, as vLLM has it, the engines of two processes would be bound to the same one.
    os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """How many processes `-n auto` starts: one for each core, as long as the memory lasts."""
    return max(1, min(len(os.sched_getaffinity(0)), psutil.virtual_memory().available // MEMORY))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first, where several processes take one file each at a time."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        first = {HERE / name: place for place, name in enumerate(LONGEST)}
        assert all(path.exists() for path in first), "LONGEST names a file that is not here"
        items.sort(key=lambda item: first.get(item.path, len(first)))


@pytest.fixture(scope="module")
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    """A loop in a thread of its own, in which an engine outlives a test."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    yield loop
    loop.call_soon_threadsafe(loop.stop)
    thread.join(10)
    loop.close()
