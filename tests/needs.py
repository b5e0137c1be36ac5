"""Tools of the machine that some tests run."""

from __future__ import annotations

import os
import shutil

import pytest


def tool(name: str, package: str) -> str:
    """The path of a tool. Without it the test is skipped; under continuous integration (`CI` is set), it fails."""
    if found := shutil.which(name):
        return found
    reason = f"this test runs {name}, which is not here: sudo apt-get install {package}"
    if os.environ.get("CI"):
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)
