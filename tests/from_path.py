"""Modules that are no part of a package, loaded from their files."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType


def from_path(name: str, path: Path) -> ModuleType:
    """The module in a file, under a name of its own, not kept in `sys.modules`."""
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
