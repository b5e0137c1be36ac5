"""A replica as Ray Serve knows it: the class of a deployment of engines. It imports little, as each replica does."""

from __future__ import annotations

import importlib
from typing import Any

from ponder.compute.errors import EngineError
from ponder.engines.ray.commands import Program
from ponder.engines.ray.hosting import Host
from ponder.engines.ray.meetings import Told, Where


class EngineReplica:
    """Of the model `name`; see `ponder.engines.ray.hosting.Host`."""

    async def __init__(self, name: str, program: Program, drain: float) -> None:
        self._host = Host(name, program, drain, address)
        await self._host.start()

    async def meet(self, told: Told) -> Where:
        """See `ponder.engines.ray.meetings`."""
        return await self._host.meet(told)

    async def check_health(self) -> None:
        """Asked by Serve."""
        await self._host.check()

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """Asked by Serve."""
        return await self._host.demand()

    async def __del__(self) -> None:
        host: Host | None = getattr(self, "_host", None)
        if host is not None:
            await host.close()


def address() -> str:
    """This machine's, as the cluster knows it. Raises `EngineError` where that cannot be told."""
    ray: Any = importlib.import_module("ray")
    own = ray.get_runtime_context().get_node_id()
    for node in ray.nodes():
        if node["NodeID"] == own:
            return str(node["NodeManagerAddress"])
    raise EngineError("Ray does not say which address this node has")
