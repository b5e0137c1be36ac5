"""Long tests keep what came of them: `pytest -m soak --soak-results FILE` writes a line of JSON for each test that is
over, and goes on where a run was cut: what has passed at this commit is not run again.

Machine, versions and commit head the lines they belong to. A test says what it counted by pytest's `record_property`.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from bench.machine import describe

HEAD = ("when", "commit", "machine", "versions")
RESULTS = ":(top,exclude)bench/results"
"""What is measured is no part of what is measured."""


def pytest_addoption(parser: pytest.Parser) -> None:
    words = "append a line of JSON for each test to FILE, and leave out those that passed at this commit"
    parser.addoption("--soak-results", metavar="FILE", type=Path, default=None, help=words)


def pytest_configure(config: pytest.Config) -> None:
    if (file := config.getoption("--soak-results")) is not None:
        config.pluginmanager.register(Campaign(file, commit(config.rootpath)))


def commit(folder: Path) -> str:
    """The last commit that changed more than results, marked where files have been changed since."""

    def line(*command: str) -> str:
        done = subprocess.run(["git", *command, "--", ":/", RESULTS], cwd=folder, capture_output=True, check=True)
        return done.stdout.decode().strip()

    return line("log", "-1", "--format=%h") + ("-dirty" if line("status", "--porcelain") else "")


@dataclass
class Campaign:
    """The results of one commit, in a file that may have those of others, too."""

    file: Path
    commit: str
    begun: bool = False
    """Its head is written."""
    phases: list[pytest.TestReport] = field(default_factory=list[pytest.TestReport])
    """Of the test that runs: set up, called, torn down."""

    def passed(self) -> set[str]:
        """Tests that need not run again. Of files that differ from a commit nothing is known."""
        found, here = set[str](), False
        for line in self._lines():
            if "commit" in line:
                here = line["commit"] == self.commit
            elif here and not self.commit.endswith("-dirty"):
                (found.add if line["outcome"] == "passed" else found.discard)(line["test"])
        return found

    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        passed = self.passed()
        config.hook.pytest_deselected(items=[item for item in items if item.nodeid in passed])
        items[:] = [item for item in items if item.nodeid not in passed]

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, Any, Any]:
        self.phases.clear()
        result = yield
        if self.phases:
            self._keep(self.phases)
        return result

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.phases.append(report)

    def _keep(self, phases: Sequence[pytest.TestReport]) -> None:
        outcomes = [phase.outcome for phase in phases]
        self._write(
            {
                "test": phases[0].nodeid,
                "outcome": next((outcome for outcome in outcomes if outcome != "passed"), "passed"),
                "seconds": round(sum(phase.duration for phase in phases), 1),
                "counted": dict(phases[-1].user_properties),
            }
        )

    def _write(self, line: dict[str, Any]) -> None:
        """One line, and whole: a run that is killed loses the test it is at."""
        lines = [line]
        if not self.begun:
            self.begun = True
            about = describe() | {"commit": self.commit}
            lines.insert(0, {name: about[name] for name in HEAD})
        self.file.parent.mkdir(parents=True, exist_ok=True)
        whole = not self.file.exists() or self.file.read_bytes()[-1:] in (b"", b"\n")
        with self.file.open("a") as file:
            file.write("".join(["" if whole else "\n", *(json.dumps(line) + "\n" for line in lines)]))

    def _lines(self) -> Generator[dict[str, Any]]:
        """Those that were written whole."""
        if not self.file.exists():
            return
        for line in self.file.read_text().splitlines():
            try:
                yield json.loads(line)
            except ValueError:
                continue
