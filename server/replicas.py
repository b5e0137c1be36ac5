"""A model whose engines are vLLM servers elsewhere: from its settings to the pool of them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import replace

from pydantic import SecretStr

from ponder.compute.engine import Engine
from ponder.compute.errors import EngineError
from ponder.engines.replicas.connection import Access
from ponder.engines.replicas.known import KnownModel, know
from ponder.engines.replicas.member import PoolOptions
from ponder.engines.replicas.membership import InDns, InFile, Listed, Membership, Together, certified
from ponder.engines.replicas.pool import ReplicaPool
from ponder.engines.replicas.server import VllmServer, connect
from ponder.server.model_paths import locate
from ponder.server.settings import ModelSettings
from ponder.server.settings.replicas import ReplicaSettings

log = logging.getLogger("ponder.server")

LONGEST_KEY = 1 << 12
"""Bytes of a file with a key."""


async def start_replicas(name: str, model: ModelSettings, replicas: ReplicaSettings, stack: AsyncExitStack) -> Engine:
    """The engine of a model whose replicas are elsewhere, until the stack ends; when the first of them can be used.
    Raises `EngineError` in plain words where none can."""
    known = await known_of(name, model)
    stack.callback(known.close)
    reach = reaching(known, replicas, lambda: pool.membership)
    options = PoolOptions(replicas.places, replicas.interval, replicas.patience, replicas.stall)
    pool = ReplicaPool(name, reach, membership_of(replicas), options)
    log.info("asking for the replicas of %s", name)
    await stack.enter_async_context(pool.serving())
    return pool


async def known_of(name: str, model: ModelSettings) -> KnownModel:
    """What the files of a model say of it. Raises `EngineError` where they cannot be had."""
    return await know(
        locate(model.path),
        name=name,
        profile=model.model_profile,
        repetition_in_answers=model.engine.repetition_in_answers,
        grammar_seconds=model.engine.grammar_seconds,
        trust_remote_code=model.engine.trust_remote_code,
    )


def reaching(
    known: KnownModel, replicas: ReplicaSettings, membership: Callable[[], Membership]
) -> Callable[[str], Awaitable[VllmServer]]:
    """What reaches the replica at an address that the membership names, with the key as it is then."""
    access = Access(key=replicas.key, ca=replicas.ca)

    async def reach(url: str) -> VllmServer:
        way = replace(access, name=certified(membership(), url))
        if replicas.key_file is not None:
            way = replace(way, key=await asyncio.to_thread(_key_in, replicas))
        return await connect(url, known, access=way, served=replicas.served_model, places=replicas.places)

    return reach


def membership_of(replicas: ReplicaSettings) -> Membership:
    """Where they are."""
    sources: list[Membership] = [Listed(replicas.urls)] if replicas.urls else []
    if replicas.file is not None:
        sources.append(InFile(replicas.file))
    if replicas.dns is not None:
        sources.append(InDns(replicas.dns, replicas.dns_interval))
    return sources[0] if len(sources) == 1 else Together(sources)


def moved(engines: Mapping[str, Engine], models: Mapping[str, ModelSettings]) -> None:
    """The configuration was read again: pools of replicas are those that it names from now on."""
    for name, engine in engines.items():
        if isinstance(engine, ReplicaPool) and name in models and (replicas := models[name].replicas) is not None:
            engine.follow(membership_of(replicas))


def _key_in(replicas: ReplicaSettings) -> SecretStr:
    file = replicas.key_file
    try:
        with open(file or "", encoding="ascii") as opened:
            key = opened.read(LONGEST_KEY).strip()
    except (OSError, UnicodeDecodeError) as error:
        raise EngineError(f"{file}: the key of the replicas cannot be read ({type(error).__name__})") from None
    if not key or not all("!" <= char <= "~" for char in key):
        raise EngineError(f"{file}: the key of the replicas is one word of printable ASCII")
    return SecretStr(key)
