"""Tools of the machine that some tests run, and a model that is made when it is first wanted."""

from __future__ import annotations

import os
import shutil
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
