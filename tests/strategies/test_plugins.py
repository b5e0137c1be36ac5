"""The strategy that `docs/strategies.md` shows, installed as a package of its own, is listed and keeps the promises."""

from __future__ import annotations

import re
from pathlib import Path

from tests.plugins import installed, run

DOCUMENT = "docs/strategies.md"


def test_a_strategy_of_another_package_is_in_the_table(tmp_path: Path) -> None:
    out = run(installed(tmp_path, DOCUMENT), "-c", "from ponder.strategies import strategies; print(*strategies())")
    assert "first_to_finish" in out.split()
    assert "direct" in out.split()


def test_a_strategy_of_another_package_is_held_to_the_promises(tmp_path: Path) -> None:
    out = run(installed(tmp_path, DOCUMENT), "-m", "pytest", "tests/test_promises.py", "-k", "first_to_finish")
    passed = re.search(r"(\d+) passed", out)
    assert passed
    assert int(passed[1]) >= 25
