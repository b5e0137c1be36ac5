"""Strategies in packages of their own, of a page and of the examples, are listed and keep the promises."""

from __future__ import annotations

import re
from pathlib import Path

from tests.pages import ROOT, Page
from tests.plugins import Newcomer

PAGE = Page(ROOT / "docs" / "write-a-strategy.md")


def test_a_strategy_of_another_package_is_in_the_table(tmp_path: Path) -> None:
    out = Newcomer(tmp_path, PAGE).python("-c", "from ponder.strategies import strategies; print(*strategies())")
    assert "first_to_finish" in out.split()
    assert "direct" in out.split()


def test_a_strategy_of_another_package_is_held_to_the_promises(tmp_path: Path) -> None:
    newcomer = Newcomer(tmp_path, PAGE)
    out = newcomer.python("-m", "pytest", "tests/test_promises.py", "-k", "first_to_finish", cwd=ROOT)
    passed = re.search(r"(\d+) passed", out)
    assert passed
    assert int(passed[1]) >= 25


def test_the_package_among_the_examples_is_listed_and_passes_its_own_tests(tmp_path: Path) -> None:
    newcomer = Newcomer(tmp_path, package=ROOT / "examples" / "mcts")
    out = newcomer.python(
        "-c", "from ponder.server.registry import Registry; print(Registry().strategies['mcts'].schema)"
    )
    assert "exploration" in out
    passed = re.search(r"(\d+) passed", newcomer.python("-m", "pytest", "test_mcts.py", "-q", "-p", "no:cacheprovider"))
    assert passed
    assert int(passed[1]) >= 25
