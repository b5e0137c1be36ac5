"""The strategy of `docs/write-a-strategy.md`, installed as a package of its own, is listed and keeps the promises."""

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
