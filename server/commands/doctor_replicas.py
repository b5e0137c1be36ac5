"""What the doctor finds of replicas: which answer, whether each serves the model, and what each is started without."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from dataclasses import dataclass

from ponder.compute.errors import PonderError
from ponder.compute.groups import TaskGroup
from ponder.engines.replicas.server import VllmServer
from ponder.server.replicas import known_of, membership_of, reaching
from ponder.server.settings import ModelSettings
from ponder.server.settings.replicas import ReplicaSettings

AT_ONCE = 16
"""Replicas that are asked at a time."""
PATIENCE = 60.0
"""Seconds in which one has to show what it is."""


@dataclass(frozen=True, slots=True)
class ReplicaFound:
    """One replica: what is wrong with it, or what it serves and lacks."""

    url: str
    fault: str = ""
    """Why it cannot be used; empty where it can."""
    context: int = 0
    """Tokens of its context."""
    version: str = ""
    """Of its vLLM."""
    lacks: Sequence[str] = ()
    """What it cannot do, each with what it should be started with."""


async def found_of(name: str, model: ModelSettings, replicas: ReplicaSettings) -> Sequence[ReplicaFound]:
    """Each replica that the settings name now; none where a file or a name has no address. Raises `EngineError` where
    the files of the model cannot be had."""
    known = await known_of(name, model)
    try:
        membership = membership_of(replicas)
        urls = list(dict.fromkeys(await membership.read() or ()))
        return [one async for one in _asked(urls, reaching(known, replicas, lambda: membership))]
    finally:
        known.close()


async def _asked(urls: Sequence[str], reach: Callable[[str], Awaitable[VllmServer]]) -> AsyncGenerator[ReplicaFound]:
    for first in range(0, len(urls), AT_ONCE):
        async with TaskGroup() as group:
            asking = [group.create_task(_look(url, reach)) for url in urls[first : first + AT_ONCE]]
        for one in asking:
            yield one.result()


async def _look(url: str, reach: Callable[[str], Awaitable[VllmServer]]) -> ReplicaFound:
    try:
        async with asyncio.timeout(PATIENCE):
            server = await reach(url)
            try:
                await server.health()
            finally:
                await server.close()
    except PonderError as error:
        return ReplicaFound(url, error.message)
    except TimeoutError:
        return ReplicaFound(url, f"the vLLM server at {url} does not show within {PATIENCE:.0f} s what it is")
    features = server.features
    return ReplicaFound(url, "", features.context, features.version, features.shortcomings)
