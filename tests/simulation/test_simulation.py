"""Seeds of the simulation: 500 each time, 10,000 in the long run; and that the simulation itself can be relied on."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from tests.simulation.run import Ran, simulate
from tests.simulation.world import EVERY

ROOT = Path(__file__).parents[2]
EACH = 50
"""Seeds of a test."""
FIRST = 500
"""Seeds that are run each time; the others are in the long run."""
LAST = 10_000
LONG = 250
"""Seeds of a test of the long run, which goes on behind the last that passed."""


def passed(seeds: Sequence[int], told: Callable[[str, object], None]) -> None:
    """Runs the seeds; says how to replay those that fail."""
    failed: list[Ran] = []
    struck, ends = Counter[str](), Counter[str]()
    for seed in seeds:
        ran = simulate(seed)
        struck.update(ran.struck)
        ends.update(ran.ends)
        failed += [ran] if ran.problems else []
    told("seeds", len(seeds))
    told("faults", struck.total())
    told("requests", dict(ends))
    words = [f"python -m tests.simulation --seed {ran.scenario.seed}\n    {ran.problems}" for ran in failed]
    assert not failed, "\n".join(["seeds that fail, and what replays them:", *words])


@pytest.mark.parametrize("first", range(0, FIRST, EACH))
def test_seeds(first: int, record_property: Callable[[str, object], None]) -> None:
    passed(range(first, first + EACH), record_property)


@pytest.mark.soak
@pytest.mark.parametrize("first", range(0, LAST, LONG))
def test_ten_thousand_seeds(first: int, record_property: Callable[[str, object], None]) -> None:
    passed(range(first, first + LONG), record_property)


def test_a_seed_is_the_same_in_every_process() -> None:
    command = [sys.executable, "-m", "tests.simulation", "--seeds", "0:12", "--hash"]
    told = [
        subprocess.run(
            command, cwd=ROOT, env=os.environ | {"PYTHONHASHSEED": salt}, capture_output=True, text=True, check=True
        ).stdout.splitlines()[:-1]
        for salt in ("1", "2")
    ]
    assert len(told[0]) == 12
    assert told[0] == told[1]


def test_a_fault_that_is_switched_off_does_not_happen() -> None:
    seed = next(seed for seed in range(100) if len(simulate(seed).struck) > 2)
    assert simulate(seed, without=EVERY).struck == {}
