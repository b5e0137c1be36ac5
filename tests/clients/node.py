"""Packages of npm that some tests speak through, each installed once in the user's cache."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
from pathlib import Path

import pytest

from ponder.server import made
from tests.needs import tool


def package(name: str, version: str) -> Path:
    """The folder that has this package of npm under `node_modules`. Where it cannot be had the test is skipped; under
    continuous integration it fails. No script of any package is run."""
    tool("node", "nodejs")
    npm = tool("npm", "npm")
    folder = made.cache() / "npm" / f"{name.replace('/', '_')}-{version}"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        there = folder / "node_modules" / name / "package.json"
        if not there.exists():
            command = [npm, "install", "--prefix", str(folder), "--no-audit", "--no-fund", "--ignore-scripts"]
            done = subprocess.run([*command, f"{name}@{version}"], capture_output=True, text=True, check=False)
            if done.returncode:
                reason = f"npm cannot install {name}@{version}: {done.stderr.strip().splitlines()[-1:]}"
                if os.environ.get("CI"):
                    pytest.fail(reason, pytrace=False)
                pytest.skip(reason)
        assert json.loads(there.read_text())["version"] == version
    return folder
