"""The kinds of engines that a server of a simulation may have."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager

from ponder.compute.engine import Engine
from tests.simulation.engine import Model, supervised
from tests.simulation.replicas import replicas
from tests.simulation.world import World

ENGINES: Mapping[str, Callable[[World, Model], AbstractAsyncContextManager[Engine]]] = {
    "supervised": supervised,
    "replicas": replicas,
}
"""By name."""
