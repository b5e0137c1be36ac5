"""Where models lie: a folder, one bundled with this package, one that is made here, or the hub's cache."""

from __future__ import annotations

import os
import re
from importlib.util import find_spec
from pathlib import Path

from ponder.compute.errors import PonderError
from ponder.server import made

HUB_ID = re.compile(r"\w[\w.-]*/[\w.-]+")


class NoSuchModel(PonderError):
    """The configuration names a model that is neither a folder, nor bundled, nor a hub id."""


def _models() -> Path | None:
    spec = find_spec("ponder.models")
    return Path(spec.origin).parent if spec is not None and spec.origin is not None else None


def bundled() -> list[str]:
    """Names of the models that come with this package."""
    home = _models()
    return sorted(p.parent.name for p in home.glob("*/config.json")) if home else []


def model_folder(path: str) -> Path | None:
    """The folder of a model: a bundled one goes before a folder of the same name, unless that is written `./name`; so
    does one that is made here, once it has been."""
    home = _models()
    if home is not None and path in bundled():
        return home / path
    if path in made.SOURCES:
        return made.found(path)
    folder = Path(path).expanduser()
    return folder if folder.is_dir() else None


def hub_folder(path: str) -> Path | None:
    """Where the hub's cache would keep it; None where `path` cannot be a hub id."""
    if not HUB_ID.fullmatch(path):
        return None
    home = os.environ.get("HF_HOME") or "~/.cache/huggingface"
    cache = os.environ.get("HF_HUB_CACHE") or os.path.join(home, "hub")
    return Path(cache).expanduser() / f"models--{path.replace('/', '--')}"


def locate(path: str) -> str:
    """What the engine is to load: a folder or a hub id. A model that is made here is made now. Raises `NoSuchModel` and
    `made.CannotMake`."""
    if path in made.SOURCES:
        return str(made.make(path))
    folder = model_folder(path)
    if folder is not None:
        return str(folder)
    if hub_folder(path) is None:
        raise NoSuchModel(
            f"{path}: no such folder, no bundled model (there is {', '.join(bundled())}), none that is made here "
            f"({', '.join(made.SOURCES)}), and no hub id (owner/name)"
        )
    return path
