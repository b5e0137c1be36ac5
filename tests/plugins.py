"""Packages of other people, as the pages for newcomers show them: built from a page and installed in a folder."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.pages import ROOT, Page


class Newcomer:
    """Somebody who follows a page word for word, in a folder of his own, or copies a package that is here."""

    def __init__(self, folder: Path, page: Page | None = None, package: Path | None = None) -> None:
        self.folder = folder / "work"
        self.folder.mkdir()
        self.site = folder / "site"
        self.environment = {
            **os.environ,
            "PATH": os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"])),
            "PYTHONPATH": os.pathsep.join((str(self.site), str(ROOT))),
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        if package is not None:
            shutil.copytree(package, self.folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
        for block in page.blocks if page is not None else ():
            if block.title:
                file = self.folder / block.title
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(block.text)
        if (self.folder / "pyproject.toml").exists():
            self.install()

    def install(self) -> None:
        """What `pip install .` does, without the libraries, which are here."""
        uv = Path(sys.executable).parent / "uv"
        how = ["--no-deps", "--no-build-isolation", "--offline", "--python", sys.executable, "--target", str(self.site)]
        self.run(str(uv), "pip", "install", *how, ".")

    def run(self, *command: str, cwd: Path | None = None) -> str:
        """What a command prints on standard output; it may not fail."""
        where = cwd or self.folder
        done = subprocess.run(
            command, cwd=where, env=self.environment, capture_output=True, text=True, timeout=300, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def python(self, *arguments: str, cwd: Path | None = None) -> str:
        return self.run(sys.executable, *arguments, cwd=cwd)
