"""The server as the ingress of Ray Serve: the very application that `ponder serve` serves, behind Serve's HTTP.

What Serve's HTTP does otherwise is made up for here. Serve cancels a request whose caller hangs up; the application is
told so, as by every HTTP server, and ends what it has begun. Serve does not say that a replica is to end before its
last request is over; a door that Serve counts no more begins its drain, so that answers are given while there is time.
"""

from __future__ import annotations

import asyncio
import importlib
import logging
import secrets
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, cast

from fastapi import FastAPI
from starlette.types import Message, Receive, Scope, Send

from ponder.compute.engine import Engine, RewardModel
from ponder.compute.errors import PonderError
from ponder.compute.groups import TaskGroup
from ponder.compute.lengths import Lengths
from ponder.compute.slots import Slots
from ponder.engines.ray.meetings import Meet, Meeting, Told
from ponder.engines.ray.readers import deployed_reward
from ponder.engines.replicas.known import know
from ponder.engines.replicas.member import PoolOptions
from ponder.engines.replicas.pool import ReplicaPool
from ponder.engines.replicas.server import PLACES, VllmServer, connect
from ponder.engines.reward_profiles import find_reward_profile
from ponder.engines.reward_remote import connect_reward
from ponder.metering.joined_series import joined
from ponder.metering.metrics import Metrics
from ponder.server import logs
from ponder.server.admission import Admission
from ponder.server.app import ServedModel, ServerHandle
from ponder.server.http.hosts import Hosts
from ponder.server.http.refusals import refuses
from ponder.server.load_settings import load
from ponder.server.loop_watch import LoopWatch
from ponder.server.model_paths import locate
from ponder.server.opening import opened
from ponder.server.replicas import start_replicas
from ponder.server.serve import QUIET
from ponder.server.settings import ModelSettings, WrongSettings

log = logging.getLogger("ponder.server")

ANSWER = 10.0
"""Seconds for the other doors to answer what this one asks them."""
HUNG_UP: Message = {"type": "http.disconnect"}
ENDING = 30.0
"""Seconds for a request to end whose caller has gone."""
PEERS = 1.0
"""Seconds between two looks whether Serve still counts this door."""
MISSED = 3
"""Looks in a row that have not found it, after which it begins its drain."""

Opened = Callable[[], AbstractAsyncContextManager[FastAPI]]


class Behind:
    """An ASGI application that lives as long as the lifespan of the server before it, and knows how that hangs up."""

    def __init__(self, opened: Opened, hosts: Callable[[FastAPI], Hosts]) -> None:
        self._opened, self._hosts_of = opened, hosts
        self._group = TaskGroup()
        self._app: FastAPI | None = None
        self._hosts: Hosts | None = None
        self.drained = False
        """It has been told to end."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._live(receive, send)
        elif scope["type"] == "http":
            await self._answer(scope, receive, send)

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()
        begun = False
        try:
            async with self._opened() as app, self._group:
                self._app, self._hosts = app, self._hosts_of(app)
                begun = True
                await send({"type": "lifespan.startup.complete"})
                await receive()
                await self.drain()
        except Exception as error:  # noqa: BLE001 - the last place before Serve
            kind = "shutdown" if begun else "startup"
            words = error.message if isinstance(error, PonderError) else f"{type(error).__name__}"
            log.error("the server cannot %s: %s", "end as it should" if begun else "begin", words)
            await send({"type": f"lifespan.{kind}.failed", "message": words})
        else:
            await send({"type": "lifespan.shutdown.complete"})

    async def drain(self) -> None:
        """Nobody new; returns when all have had their answers. Idempotent."""
        self.drained = True
        if self._app is not None:
            handle: ServerHandle = self._app.state.handle
            await handle.drain()

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request, to its end also where Serve cancels it."""
        gone = asyncio.Event()

        async def receiving() -> Message:
            if gone.is_set():
                return HUNG_UP
            try:
                return await receive()
            except Exception as error:  # noqa: BLE001 (Ray's own, where the caller has gone)
                log.debug("a caller has gone: %s", type(error).__name__)
                gone.set()
                return HUNG_UP

        async def sending(message: Message) -> None:
            if not gone.is_set():
                await send(message)

        running = self._group.create_task(self._quietly(scope, receiving, sending))
        try:
            await asyncio.shield(running)
        except asyncio.CancelledError:
            gone.set()
            await asyncio.wait([running], timeout=ENDING)
            running.cancel()
            raise

    async def _quietly(self, scope: Scope, receive: Receive, send: Send) -> None:
        """An error of one request is nothing to the others."""
        try:
            await (self._refused(scope) or self._app or _closed)(scope, receive, send)
        except Exception:
            log.exception("a request has failed")

    def _refused(self, scope: Scope) -> Any:
        """What answers a request that is not for this server."""
        scope.setdefault("state", {})
        named, host, origin = 0, b"", None
        for name, value in scope["headers"]:
            if name == b"host":
                named, host = named + 1, value
            elif name == b"origin":
                origin = value
        if self._hosts is None:
            return None
        url: bytes = scope.get("raw_path") or scope["path"].encode()
        fault = self._hosts.fault(named, host, origin, scope["method"].encode(), url, scope["http_version"])
        return None if fault is None else refuses(*fault)


async def taken_out(look: Callable[[], Awaitable[Sequence[object]]], own: str) -> None:
    """Returns when a door is not among those that Serve counts, after it has been. `look` asks all of them who they
    are, and raises where that cannot be told; who does not answer is an exception among those who do."""
    missed, seen = 0, False
    while missed < MISSED:
        await asyncio.sleep(PEERS)
        try:
            async with asyncio.timeout(PEERS):
                found = await look()
        except Exception as error:  # noqa: BLE001 (Serve and Ray raise a dozen kinds)
            log.debug("the doors cannot be asked: %s", type(error).__name__)
            continue
        if own in found:
            missed, seen = 0, True
        elif seen and all(isinstance(one, str) for one in found):
            missed += 1


async def _closed(scope: Scope, receive: Receive, send: Send) -> None:
    await refuses(503, "draining", "the server is going down")(scope, receive, send)


def demand(door: str, slots: Slots | None, admission: Admission | None) -> Told:
    """What a door tells the replicas of a model: what waits for a place there, and for its turn at the door."""
    if slots is None:
        return Told(door)
    outside = 0 if admission is None else admission.waiting_for(slots)
    return Told(door, slots.waiting + outside, slots.seconds)


class Door:
    """A replica of the server, as Serve knows it; it is decorated as the ingress."""

    async def __init__(
        self, file: str | None, names: Sequence[str], engines: Mapping[str, Any], rewards: Mapping[str, Any]
    ) -> None:
        """`file` is the configuration, the same on each node. `engines` and `rewards` are handles of the deployments,
        by model. Raises `WrongSettings` where the file here is another than where the application was built."""
        settings = load(file)
        logs.configure(settings.log_level, settings.log_format)
        for noisy in QUIET:
            logging.getLogger(noisy).setLevel(logging.WARNING)
        if sorted(settings.served()) != list(names):
            raise WrongSettings(
                f"{file or 'the environment'} on this node serves {', '.join(sorted(settings.served()))}, and the "
                f"application was built for {', '.join(names)}: give all nodes the same configuration"
            )
        self._id = secrets.token_hex(8)
        self._file, self._settings = file, settings
        self._engines, self._rewards = engines, rewards
        self._handle: ServerHandle | None = None
        """Of the application, while it is served."""
        self._behind = Behind(self._opened, lambda app: Hosts(settings, lambda: app.state.handle.keyring.open))

    def __serve_build_asgi_app__(self) -> Behind:
        return self._behind

    async def who(self) -> str:
        """Which door it is, asked by the others."""
        return self._id

    async def series(self, asker: str) -> tuple[str, bytes] | None:
        """Its metrics, asked by another door, with its own name; None to itself, and where it does not serve."""
        if asker == self._id or self._handle is None:
            return None
        content, _ = await self._handle.status.own_metrics()
        return self._id, content

    async def read_again(self, door: str, asker: str) -> str:
        """Reads its configuration again, asked by another door on behalf of somebody; in words what was wrong."""
        if door == self._id or self._handle is None:
            return ""
        try:
            await self._handle.reload.once(asker, written=True)
        except PonderError as error:
            return f"door {self._id}: {error.message}"
        return ""

    async def check_health(self) -> None:
        """Asked by Serve: one that drains by mistake is replaced."""
        if self._behind.drained:
            raise WrongSettings("this door has ended")

    @asynccontextmanager
    async def _opened(self) -> AsyncGenerator[FastAPI]:
        settings, metrics = self._settings, Metrics()
        async with (
            opened(settings, self._start, metrics=metrics, source=lambda: load(self._file)) as (app, _),
            TaskGroup() as group,
        ):
            handle: ServerHandle = app.state.handle
            self._handle, handle.status.joined, handle.reload.others = handle, self._joined, self._reload_others
            leaving = group.create_task(self._leaving())
            with LoopWatch(metrics.lag, metrics.held):
                yield app
            leaving.cancel()
            self._handle = None

    def _doors(self) -> Any:
        """Serve's handle of all doors."""
        serve: Any = importlib.import_module("ray.serve")
        context = serve.get_replica_context()
        return serve.get_deployment_handle(context.deployment, context.app_name)

    async def _joined(self, own: bytes) -> bytes:
        """The metrics of all doors that answer, for whoever asks one of them cannot choose which."""
        texts = {self._id: own}
        try:
            async with asyncio.timeout(ANSWER):
                asked = self._doors().broadcast("series", self._id)
                found: Sequence[object] = await asked.results_async(return_exceptions=True)
        except Exception as error:  # noqa: BLE001 (Serve and Ray raise a dozen kinds)
            log.warning("the metrics are those of one door: the others cannot be asked (%s)", type(error).__name__)
            found = []
        others = cast("list[tuple[str, bytes]]", [one for one in found if isinstance(one, tuple)])
        return joined(texts | dict(sorted(others)), "door")

    async def _reload_others(self, asker: str) -> Sequence[str]:
        """Has all other doors read the configuration again; what was wrong."""
        try:
            async with asyncio.timeout(ANSWER):
                doors = self._doors().broadcast("read_again", self._id, asker)
                found: Sequence[object] = await doors.results_async(return_exceptions=True)
        except Exception as error:  # noqa: BLE001 (Serve and Ray raise a dozen kinds)
            return [f"the other doors cannot be asked ({type(error).__name__})"]
        faults = [one if isinstance(one, str) else f"a door does not answer ({type(one).__name__})" for one in found]
        return [fault for fault in faults if fault]

    async def _leaving(self) -> None:
        """Begins the drain when Serve counts this door no more, which it does not say itself."""
        nobody: type[Exception] = importlib.import_module("ray.serve.exceptions").DeploymentUnavailableError
        doors = self._doors()

        async def look() -> Sequence[object]:
            try:
                return await doors.broadcast("who").results_async(return_exceptions=True)
            except nobody:
                return ()

        await taken_out(look, self._id)
        log.info("this door is taken out: it answers what it has begun")
        await self._behind.drain()

    async def _start(self, name: str, model: ModelSettings, stack: AsyncExitStack) -> Mapping[str, ServedModel]:
        """A model whose engines and judges are deployments, or are elsewhere."""
        reward: RewardModel | None = None
        if name in self._rewards and model.prm is not None:
            path = locate(model.prm)
            profile = model.reward_profile or find_reward_profile(path)
            meet = _meets(self._rewards[name])
            reward = await stack.enter_async_context(
                deployed_reward(path, name=Path(path).name, profile=profile, meet=meet)
            )
        elif model.prm is not None:
            reward = await connect_reward(
                model.prm, model=model.prm_model, key=model.prm_key, locate=locate, profile=model.reward_profile
            )
            stack.push_async_callback(reward.close)
        if model.replicas is not None:
            engine = await start_replicas(name, model, model.replicas, stack)
        else:
            engine = await self._engine(name, model, stack)
        served = ServedModel(
            engine=engine, lengths=Lengths(*engine.card.typical_chain), settings=model, reward_model=reward
        )
        return {engine.card.name: served}

    async def _engine(self, name: str, model: ModelSettings, stack: AsyncExitStack) -> Engine:
        """A pool of the replicas that Serve has of the model."""
        known = await know(
            locate(model.path),
            name=name,
            profile=model.model_profile,
            repetition_in_answers=model.engine.repetition_in_answers,
            grammar_seconds=model.engine.grammar_seconds,
            trust_remote_code=model.engine.trust_remote_code,
        )
        stack.callback(known.close)
        places = model.engine.max_num_seqs or PLACES
        pool: ReplicaPool | None = None

        def told() -> Told:
            admission = None if self._handle is None else self._handle.admission
            return demand(self._id, None if pool is None else pool.slots, admission)

        meeting = Meeting(name, _meets(self._engines[name]), told)

        async def reach(url: str) -> VllmServer:
            return await connect(url, known, access=meeting.access(url), served=None, places=places)

        pool = ReplicaPool(name, reach, meeting, PoolOptions(places=places))
        await stack.enter_async_context(pool.serving())
        return pool


def _meets(handle: Any) -> Meet:
    """All replicas of a deployment, told by Serve."""

    async def meet(told: Told) -> Sequence[object]:
        return await handle.broadcast("meet", told).results_async(return_exceptions=True)

    return meet
