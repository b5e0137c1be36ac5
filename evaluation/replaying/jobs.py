"""What is to be replayed, one setup after the other or several side by side in processes, and kept, so that a run that
was stopped goes on."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import asdict, astuple, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import ponder
from ponder.evaluation.pools import Pool
from ponder.evaluation.replaying.replay import CannotReplay, Conditions, Replayed, Run, Setup, replay

POLL = 0.2
"""Seconds between two looks at how far other processes are."""


@dataclass(frozen=True, slots=True)
class Job:
    """A setup over a pool."""

    pool: Pool
    setup: Setup
    conditions: Conditions

    @property
    def requests(self) -> int:
        return len(self.pool.questions()) * self.conditions.draws

    @property
    def key(self) -> str:
        """The same for jobs that come to the same: equal samples, setup, conditions and code."""
        told = json.dumps([self.setup.name, asdict(self.conditions), self.pool.most, self.pool.seed])
        return hashlib.sha256(f"{_digest(self.pool.file)} {code()} {told}".encode()).hexdigest()


@cache
def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


@cache
def code() -> str:
    """A hash of the code that a replay runs through."""
    found = hashlib.sha256()
    root = Path(next(iter(ponder.__path__)))
    for room in ("compute", "engines", "strategies", "verifiers", "evaluation"):
        for file in sorted((root / room).rglob("*.py")):
            found.update(file.read_bytes())
    return found.hexdigest()


class Kept:
    """Runs by the keys of their jobs, in a file of JSON lines; without a file in memory alone."""

    def __init__(self, file: Path | None) -> None:
        """Raises `CannotReplay` for a file that holds anything else."""
        self._file = file
        self._runs: dict[str, Run] = {}
        if file is None or not file.exists():
            return
        data = file.read_bytes()
        whole = data.rfind(b"\n") + 1
        for number, line in enumerate(data[:whole].splitlines(), 1):
            try:
                told = json.loads(line)
                requests = [[Replayed(*one) for one in question] for question in told["requests"]]
                self._runs[told["key"]] = Run(requests, told["p50"], told["p90"], told["cpu_seconds"])
            except (ValueError, KeyError, TypeError):
                raise CannotReplay(f"{file}, line {number} is no kept replay: name another file") from None
        if whole < len(data):
            # The last line was being written when the process ended.
            with file.open("ab") as cut:
                cut.truncate(whole)

    def get(self, job: Job) -> Run | None:
        return self._runs.get(job.key)

    def add(self, job: Job, run: Run) -> None:
        self._runs[job.key] = run
        if self._file is None:
            return
        told: dict[str, Any] = {
            "key": job.key,
            "pool": job.pool.name,
            "setup": job.setup.name,
            "conditions": asdict(job.conditions),
            "p50": run.p50,
            "p90": run.p90,
            "cpu_seconds": run.cpu_seconds,
            "requests": [[astuple(one) for one in question] for question in run.requests],
        }
        with self._file.open("a") as file:
            file.write(json.dumps(told) + "\n")


def run_all(jobs: Sequence[Job], kept: Kept, processes: int, told: Callable[[int], object]) -> dict[Job, Run]:
    """What became of each job, of those that are not kept so many at a time. `told` is given how many requests are over
    since the time before. Raises `CannotReplay`."""
    left = [job for job in dict.fromkeys(jobs) if kept.get(job) is None]
    if processes < 2 or len(left) < 2:
        for job in left:
            kept.add(job, _run(job, lambda: told(1)))
    else:
        _side_by_side(left, kept, processes, told)
    found = {job: kept.get(job) for job in jobs}
    return {job: run for job, run in found.items() if run is not None}


def _run(job: Job, told: Callable[[], object]) -> Run:
    return replay(job.pool.questions(), job.setup, job.conditions, told)


def _side_by_side(jobs: Sequence[Job], kept: Kept, processes: int, told: Callable[[int], object]) -> None:
    fresh = multiprocessing.get_context("spawn")
    over = fresh.Value("q", 0)
    before = 0
    # Those that take longest first, so that none of them is left to the end.
    order = sorted(jobs, key=lambda job: -job.requests)
    with ProcessPoolExecutor(min(processes, len(jobs)), fresh, _begin, (over,)) as pool:
        waiting: dict[Future[Run], Job] = {pool.submit(_in_process, job): job for job in order}
        try:
            while waiting:
                done, _ = wait(waiting, POLL, FIRST_COMPLETED)
                before, now = over.value, before
                told(before - now)
                for future in done:
                    kept.add(waiting.pop(future), future.result())
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


_over: Any = None
"""How many requests are over in all processes."""


def _begin(over: Any) -> None:
    global _over
    _over = over


def _in_process(job: Job) -> Run:
    def told() -> None:
        with _over.get_lock():
            _over.value += 1

    return _run(job, told)
