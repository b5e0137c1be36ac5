"""Tools of the machine that some tests run; a model that is made, and packages that are fetched, when they are first
wanted."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

from ponder.server import made

SBIN = "/usr/local/sbin:/usr/sbin:/sbin"
"""Where servers are; not on everybody's path."""


def tool(name: str, package: str) -> str:
    """The path of a tool. Without it the test is skipped; under continuous integration (`CI` is set), it fails."""
    if found := shutil.which(name) or shutil.which(name, path=SBIN):
        return found
    reason = f"this test runs {name}, which is not here: sudo apt-get install {package}"
    if os.environ.get("CI"):
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


def model(name: str) -> Path:
    """The folder of a model that is made on this machine, once, in the user's cache. Where that cannot be the test is
    skipped; under continuous integration it fails."""
    try:
        return made.make(name)
    except made.CannotMake as error:
        if os.environ.get("CI"):
            pytest.fail(error.message, pytrace=False)
        pytest.skip(error.message)


def npm(package: str, version: str) -> Path:
    """The `node_modules` that hold a package of npm's registry in this version, without what it would run when it is
    installed. It is fetched once, into the user's cache. Where that cannot be the test is skipped; under continuous
    integration it fails."""
    return _modules(f"{package.strip('@').replace('/', '-')}-{version}", f"{package}@{version}")


def npm_project(manifest: Path) -> Path:
    """The same for all that a `package.json` names."""
    wanted = hashlib.sha256(manifest.read_bytes()).hexdigest()[:16]
    return _modules(f"{manifest.parent.name}-{wanted}", manifest=manifest)


def _modules(name: str, *packages: str, manifest: Path | None = None) -> Path:
    command = tool("npm", "npm")
    tool("node", "nodejs")
    where = made.cache() / "npm"
    where.mkdir(parents=True, exist_ok=True)
    # Of this name, for packages find one another by it.
    folder = where / name / "node_modules"
    with (where / "lock").open("w") as lock:
        # Tests of several processes want it.
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            with tempfile.TemporaryDirectory(dir=where) as fresh:
                if manifest is not None:
                    shutil.copy(manifest, fresh)
                flags = ["--prefix", fresh, "--no-audit", "--no-fund", "--ignore-scripts"]
                done = subprocess.run(
                    [command, "install", *flags, *packages],
                    cwd=fresh,
                    capture_output=True,
                    text=True,
                    timeout=300,
                )
                if done.returncode != 0:
                    reason = f"npm cannot install {manifest or packages[0]}: {done.stderr.strip()[-300:]}"
                    if os.environ.get("CI"):
                        pytest.fail(reason, pytrace=False)
                    pytest.skip(reason)
                folder.parent.mkdir(exist_ok=True)
                Path(fresh).joinpath("node_modules").rename(folder)
    return folder


def node(script: Path, modules: Path, *arguments: str) -> str:
    """What a script for Node prints, to which packages of a folder are known."""
    ran = subprocess.run(
        [tool("node", "nodejs"), str(script), *arguments],
        env={**os.environ, "NODE_PATH": str(modules)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout
