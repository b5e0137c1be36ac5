"""The strategy that `docs/strategies.md` shows, installed as a package of its own, is listed and keeps the promises."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent


def installed(folder: Path) -> dict[str, str]:
    """The document's example as an installed package in `folder`, and the environment in which it is found."""
    code, points = re.findall(r"```(?:python|toml)\n(.*?)```", (ROOT / "docs/strategies.md").read_text(), re.DOTALL)
    package = folder / "my_package"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "first.py").write_text(code)
    info = folder / "my_package-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my-package\nVersion: 1.0\n")
    group, line = re.findall(r'entry-points\."(.*?)"\]\n(.*)', points)[0]
    (info / "entry_points.txt").write_text(f"[{group}]\n{line.replace(chr(34), '')}\n")
    return {**os.environ, "PYTHONPATH": str(folder)}


def run(env: dict[str, str], *args: str) -> str:
    done = subprocess.run([sys.executable, *args], cwd=ROOT, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_strategy_of_another_package_is_in_the_table(tmp_path: Path) -> None:
    out = run(installed(tmp_path), "-c", "from strategies import strategies; print(*strategies())")
    assert "first_to_finish" in out.split()
    assert "direct" in out.split()


def test_a_strategy_of_another_package_is_held_to_the_promises(tmp_path: Path) -> None:
    out = run(installed(tmp_path), "-m", "pytest", "tests/test_promises.py", "-k", "first_to_finish")
    passed = re.search(r"(\d+) passed", out)
    assert passed
    assert int(passed[1]) >= 25
