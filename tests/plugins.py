"""Packages of other people, as the documents show them: installed in a folder of their own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def installed(folder: Path, document: str) -> dict[str, str]:
    """A document's example as an installed package in `folder`, and the environment in which it is found."""
    text = (ROOT / document).read_text()
    code = re.findall(r"```python\n(.*?)```", text, re.DOTALL)[-1]
    group, line = re.findall(r'entry-points\."(.*?)"\]\n(.*)', text)[-1]
    module = re.findall(r'"my_package\.(\w+):', line)[0]
    package = folder / "my_package"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / f"{module}.py").write_text(code)
    info = folder / "my_package-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my-package\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[{group}]\n{line.replace(chr(34), '')}\n")
    return {**os.environ, "PYTHONPATH": str(folder)}


def run(env: dict[str, str], *args: str) -> str:
    """What a Python process in this environment prints."""
    done = subprocess.run([sys.executable, *args], cwd=ROOT, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
