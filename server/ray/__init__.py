"""The server, its engines and its reward models as deployments of Ray Serve: `serve run ponder.server.ray:app`.

The address of the configuration is an argument, `config=FILE`; without one it is found as `ponder serve` finds it.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

from ponder.server.ray.building import application, check_arguments
from ponder.server.settings import WrongSettings

if find_spec("ray") is None or find_spec("ray.serve") is None:
    raise WrongSettings("Ray Serve is not installed: pip install 'ponder-server[ray]'")


def app(arguments: Mapping[str, str]) -> Any:
    """What `serve run` calls. Raises `PonderError` in plain words where the configuration cannot be served."""
    return application(check_arguments(arguments))


__all__ = ["app", "application"]
