"""A long campaign of tests keeps what came of each, and goes on where it was cut."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
TESTS = """
import pathlib, pytest

@pytest.mark.parametrize("n", range(3))
def test_counts(n, record_property):
    record_property("tokens", 10 * n)
    with pathlib.Path("ran").open("a") as file:
        file.write(str(n))
    assert n < 2 or pathlib.Path("mended").exists()

def test_is_left_out():
    pytest.skip("no such tool")
"""


class Checkout:
    """A repository of its own with a few tests, and the results of their runs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.results = folder / "bench" / "results" / "soak.jsonl"
        (folder / "test_it.py").write_text(TESTS)
        (folder / ".gitignore").write_text("ran\nmended\n__pycache__/\n.pytest_cache/\n")
        self.git("init", "-q")
        self.commit()

    def git(self, *command: str) -> None:
        who = ["-c", "user.name=T", "-c", "user.email=t@example.org"]
        subprocess.run(["git", *who, *command], cwd=self.folder, check=True)

    def commit(self) -> None:
        self.git("add", "-A")
        self.git("commit", "-qm", "So far")

    def soak(self, *more: str) -> str:
        """Runs the tests; those that ran, in order."""
        (self.folder / "ran").write_text("")
        command = [sys.executable, "-m", "pytest", "-p", "tests.campaign", "-p", "no:cacheprovider", "--rootdir=."]
        command += ["-q", "--soak-results", str(self.results), *more]
        environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
        done = subprocess.run(command, cwd=self.folder, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode in (0, 1, 5), done.stdout + done.stderr
        return (self.folder / "ran").read_text()

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.results.read_text().splitlines()]


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path)


def test_each_test_leaves_a_line_under_one_head(checkout: Checkout) -> None:
    assert checkout.soak() == "012"
    head, *lines = checkout.lines()
    assert {"commit", "machine", "versions"} <= head.keys()
    assert [(line["test"], line["outcome"], line["counted"]) for line in lines] == [
        ("test_it.py::test_counts[0]", "passed", {"tokens": 0}),
        ("test_it.py::test_counts[1]", "passed", {"tokens": 10}),
        ("test_it.py::test_counts[2]", "failed", {"tokens": 20}),
        ("test_it.py::test_is_left_out", "skipped", {}),
    ]
    assert all(line["seconds"] >= 0 for line in lines)
    assert str(checkout.folder) not in checkout.results.read_text()


def test_what_has_passed_at_this_commit_is_not_run_again(checkout: Checkout) -> None:
    """Also when results were committed in between, and when a run was killed within a line."""
    assert checkout.soak("-k", "counts") == "012"
    with checkout.results.open("a") as file:
        file.write('{"test": "test_it.py::test_cou')
    (checkout.folder / "mended").touch()
    assert checkout.soak() == "2"
    checkout.commit()
    assert checkout.soak() == ""


def test_another_commit_and_changed_files_begin_anew(checkout: Checkout) -> None:
    (checkout.folder / "mended").touch()
    assert checkout.soak() == "012"
    (checkout.folder / "other.py").touch()
    assert checkout.soak() == checkout.soak() == "012"
    checkout.commit()
    assert checkout.soak() == "012"
    assert checkout.soak() == ""
