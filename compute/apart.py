"""Work on other people's text that may hang or swell (computer algebra, patterns, schemas), done in a process apart.

A few worker processes, started on first need, each driven by one thread. One that does not answer in time is killed and
the next call starts a fresh one; the event loop never waits. Workers end when this process does, however it ends:
their input closes. Run as a script, this file is the worker; it imports nothing of ours.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import json
import os
import queue
import re
import resource
import selectors
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache, lru_cache
from importlib import import_module
from typing import Any, Literal

WORKERS = 2
MEMORY = 2 * 2**30
"""Bytes of address space of one worker."""
WARMING = 60.0
"""Seconds a worker may take to start and to import what a task needs."""

Task = Literal["same", "match", "schema"]
"""Are two mathematical expressions equal · is the pattern (first) found in the text (second) · does the JSON text
(second) fulfil the JSON schema (first)."""


async def apart(task: Task, first: str, second: str, seconds: float) -> bool:
    """The worker's verdict. Raises `TimeoutError` when it took longer than `seconds` and was killed, `ValueError` when
    it could not tell (not an expression, a faulty schema, out of memory). A wait for a free worker does not count."""
    return await asyncio.get_running_loop().run_in_executor(_threads(), _call, task, first, second, seconds)


# -- this side --------------------------------------------------------------------------------------------------------


class _Worker:
    """One worker process; used by one thread."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(  # noqa: S603
            [sys.executable, "-P", __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={k: v for k, v in os.environ.items() if k in ("PATH", "LANG", "PYTHONPATH", "VIRTUAL_ENV")},
        )
        self._warm: set[str] = set()

    def call(self, task: str, first: str, second: str, seconds: float) -> bool:
        if task not in self._warm:
            self._exchange(task, *EASY[task], WARMING)
            self._warm.add(task)
        return self._exchange(task, first, second, seconds)

    def _exchange(self, task: str, first: str, second: str, seconds: float) -> bool:
        pipe_in, pipe_out = self._process.stdin, self._process.stdout
        if pipe_in is None or pipe_out is None:
            raise ValueError("the worker has no pipes")
        pipe_in.write(json.dumps([task, first, second]).encode() + b"\n")
        pipe_in.flush()
        until, answer = time.monotonic() + seconds, b""
        with selectors.DefaultSelector() as selector:
            selector.register(pipe_out, selectors.EVENT_READ)
            while not answer.endswith(b"\n"):
                if not selector.select(max(0.0, until - time.monotonic())):
                    raise TimeoutError(f"{task} took longer than {seconds:g} s")
                part = os.read(pipe_out.fileno(), 4096)
                if not part:
                    raise ValueError(f"the worker died over {task}")
                answer += part
        if answer == b"null\n":
            raise ValueError(f"{task} cannot be told")
        return answer == b"true\n"

    def end(self) -> None:
        """Kills the process. Idempotent."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()


_own = threading.local()
_living: set[_Worker] = set()


@cache
def _threads() -> ThreadPoolExecutor:
    atexit.register(_end_all)
    return ThreadPoolExecutor(WORKERS, thread_name_prefix="apart")


def _call(task: str, first: str, second: str, seconds: float) -> bool:
    worker: _Worker | None = getattr(_own, "worker", None)
    if worker is None:
        worker = _own.worker = _Worker()
        _living.add(worker)
    try:
        return worker.call(task, first, second, seconds)
    except (TimeoutError, BrokenPipeError):
        _drop(worker)
        raise
    except ValueError:
        if worker._process.poll() is not None:  # pyright: ignore[reportPrivateUsage]
            _drop(worker)
        raise


def _drop(worker: _Worker) -> None:
    _own.worker = None
    _living.discard(worker)
    worker.end()


def _end_all() -> None:
    for worker in list(_living):
        worker.end()
    _living.clear()


# -- the worker's side ------------------------------------------------------------------------------------------------


@cache
def _algebra() -> tuple[Callable[[str], list[Any]], Callable[[Any, Any], bool]]:
    math_verify = import_module("math_verify")
    latex = [math_verify.LatexExtractionConfig()]

    @lru_cache(maxsize=4096)
    def parse(expression: str) -> list[Any]:
        return math_verify.parse(
            f"${expression}$", extraction_config=latex, parsing_timeout=None, fallback_mode="no_fallback"
        )

    def verify(a: list[Any], b: list[Any]) -> bool:
        return bool(math_verify.verify(a, b, timeout_seconds=None))

    return parse, verify


def _same(first: str, second: str) -> bool:
    parse, verify = _algebra()
    a, b = parse(first), parse(second)
    if not a or not b:
        raise ValueError("not an expression")
    return verify(a, b) or verify(b, a)


def _match(pattern: str, text: str) -> bool:
    return re.search(pattern, text) is not None


def _schema(schema: str, text: str) -> bool:
    # The registry of the specifications alone: a remote reference in a schema is an error, never fetched.
    registry = import_module("jsonschema_specifications").REGISTRY
    rules = json.loads(schema)
    kind = import_module("jsonschema").validators.validator_for(rules)
    kind.check_schema(rules)
    try:
        value = json.loads(text)
    except ValueError:
        return False
    return bool(kind(rules, registry=registry).is_valid(value))


TASKS: dict[str, Callable[[str, str], bool]] = {"same": _same, "match": _match, "schema": _schema}
EASY = {"same": ("x+1", "1+x"), "match": ("a", "a"), "schema": ("{}", "{}")}
"""A first exercise for each task, which takes as long as its imports."""


def _work() -> None:
    """Answers requests, one line each, until the input closes; then ends at once, whatever it is at."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    out = os.dup(1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    requests: queue.SimpleQueue[list[str]] = queue.SimpleQueue()

    def read() -> None:
        for line in sys.stdin:
            requests.put(json.loads(line))
        os._exit(0)

    threading.Thread(target=read, daemon=True).start()
    while True:
        task, first, second = requests.get()
        verdict: bool | None = None
        # Anything may come out of parsing what a model wrote; whatever it is, the verdict is "cannot tell".
        with contextlib.suppress(Exception):
            verdict = TASKS[task](first, second)
        os.write(out, json.dumps(verdict).encode() + b"\n")


if __name__ == "__main__":
    _work()
