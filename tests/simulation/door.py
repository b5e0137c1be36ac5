"""A server of a simulation: its real parts, from the ASGI application of its dialect to its ledger, and its callers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal

from starlette.types import ASGIApp, Message

from ponder.compute.account import Accounts, Bill, Intent
from ponder.compute.lengths import Lengths
from ponder.compute.usage import Usage
from ponder.metering.ledger import NoLedger
from ponder.metering.metrics import Metrics
from ponder.server.admission import Admission
from ponder.server.app import ErrorMiddleware, ServedModel, all_dialects
from ponder.server.auth.access import AuthenticatedRoute, Guard
from ponder.server.auth.keys import Keyring, digest
from ponder.server.completions import Completions
from ponder.server.idempotency.requests import Idempotency
from ponder.server.kept.responses import KeptResponses
from ponder.server.loop_thoughts import LoopThoughts
from ponder.server.receipts import Receipts
from ponder.server.registry import Registry
from ponder.server.reload import LiveSettings, Reload
from ponder.server.running import RunningTable
from ponder.server.sealed_thoughts import passing
from ponder.server.settings import KeySettings, Limits, ModelSettings, Settings
from ponder.server.traces import Traces
from ponder.server.usage import UsageReports
from tests.simulation.database import Disk, SimulatedLedger
from tests.simulation.engine import Model, SeededRewards
from tests.simulation.kinds import ENGINES
from tests.simulation.world import Asked, World

CHAT = "/v1/chat/completions"
DRAIN = 20.0
"""Seconds of a drain."""
SEND = 5.0
"""Seconds a caller may let the server wait."""
CHECKPOINT = 64
"""Tokens of a live chain that may be uncertain after a crash."""

End = Literal["answered", "refused", "broken", "gone", "turned_down"]


@cache
def _settings() -> Settings:
    return Settings(
        models={"demo": ModelSettings(path="simulated")},
        drain_timeout=DRAIN,
        limits=Limits(send_timeout=SEND, body_timeout=10),
    )


def settings_of(world: World) -> Settings:
    """The configuration of a scenario."""
    scenario = world.scenario
    keys = [KeySettings(name=name, hash=digest(f"pk-{name}"), **limits) for name, limits in scenario.keys.items()]
    own = {"keys": keys, "max_inflight": scenario.inflight, "max_queue": scenario.queue}
    return _settings().model_copy(update=own)


@dataclass
class Inflight:
    """An account that counts what runs on all servers, to hold it against the limits at every moment."""

    everywhere: dict[str, set[str]]
    """The ids of requests that run, by the names of keys."""
    wrong: list[str] = field(default_factory=list[str])
    used: dict[str, Usage] = field(default_factory=dict[str, Usage])
    """What each request has told of its calls, by ids."""
    settled: dict[str, list[tuple[Usage, str]]] = field(default_factory=dict[str, list[tuple[Usage, str]]])
    own: dict[str, str] = field(default_factory=dict[str, str])
    """Of the requests that run here the name of the key."""

    async def reserve(self, intent: Intent) -> Bill:
        owner, quota = intent.owner, intent.quota
        running = self.everywhere.setdefault(owner, set())
        running.add(intent.request)
        self.own[intent.request] = owner
        if quota is not None and quota.inflight is not None and len(running) > quota.inflight:
            self.wrong.append(f"{len(running)} requests of {owner} run, and its limit is {quota.inflight}")
        return _Counted(self, intent)

    def over(self, id: str) -> None:
        """It runs no more."""
        if (owner := self.own.pop(id, None)) is not None:
            self.everywhere[owner].discard(id)

    def killed(self) -> None:
        """All that run here do so no more."""
        for id in list(self.own):
            self.over(id)


class _Counted:
    def __init__(self, inflight: Inflight, intent: Intent) -> None:
        self._inflight, self._intent = inflight, intent

    def used(self, usage: Usage) -> None:
        told = self._inflight.used
        told[self._intent.request] = told.get(self._intent.request, Usage()) + usage

    async def settle(self, usage: Usage, ending: str) -> None:
        self._inflight.settled.setdefault(self._intent.request, []).append((usage, ending))
        self._inflight.over(self._intent.request)


class Counting(Metrics):
    """The metrics, and what is told them of drift."""

    tokens_drifted = 0

    def drifted(self, tokens: int) -> None:
        super().drifted(tokens)
        self.tokens_drifted += tokens


@dataclass
class Server:
    """One life of the server."""

    app: ASGIApp
    ledger: SimulatedLedger
    admission: Admission
    traces: Traces
    metrics: Counting
    reload: Reload
    inflight: Inflight
    model: Model
    tasks: set[asyncio.Task[None]] = field(default_factory=set[asyncio.Task[None]])
    """Its requests."""
    killed: bool = False
    made: int | None = None
    """Tokens its engines had made when it was killed."""
    going_down: bool = False
    down: asyncio.Event = field(default_factory=asyncio.Event)
    """It has gone down."""

    @property
    def drifted(self) -> int:
        """Tokens that were made and are in no row, as the ledger tells."""
        return self.metrics.tokens_drifted


@asynccontextmanager
async def serving(world: World, disk: Disk, everywhere: dict[str, set[str]], name: str) -> AsyncGenerator[Server]:
    """A server that begins, and ends as it should unless it was killed. `everywhere` is as for `Inflight`."""
    settings, metrics, model = settings_of(world), Counting(), Model()
    ledger = SimulatedLedger(disk, metrics, CHECKPOINT)
    while True:
        try:
            await ledger.start()
            break
        except NoLedger:
            await asyncio.sleep(0.5)
    async with ENGINES[world.scenario.kind](world, model) as engine:
        rewards = SeededRewards(lambda line: (len(line) + line.count("a")) / 16, world=world, model=model)
        served = {"demo": ServedModel(engine, Lengths(60, 90), settings.served()["demo"], rewards)}
        keyring = Keyring(settings.keys, required=settings.require_key)
        registry, live = Registry(), LiveSettings(settings)
        admission = Admission(
            settings.max_inflight, settings.max_queue, metrics, chains=settings.max_chains, keys=keyring.count
        )
        traces, inflight = Traces(256, 1 << 24), Inflight(everywhere)
        idempotency = Idempotency(settings.idempotency, None, metrics, lambda: admission.draining)
        (dialect,) = (one for one in all_dialects() if one.path == CHAT)
        route = Completions(
            live,
            served,
            registry,
            admission,
            Accounts([ledger, inflight]),
            metrics,
            traces,
            LoopThoughts(settings.loop_thoughts, settings.loop_thought_bytes, settings.loop_thought_timeout, 1),
            Receipts(None, UsageReports(None)),
            dialect,
            idempotency,
            passing(),
            KeptResponses(settings.responses, None, idempotency.sealing),
            RunningTable(),
        )
        app = ErrorMiddleware(
            AuthenticatedRoute(route, "infer", dialect, Guard(keyring, metrics)), metrics, lambda _: dialect
        )
        reload = Reload(live, keyring, None, registry, lambda: settings)
        server = Server(app, ledger, admission, traces, metrics, reload, inflight, model)
        world.log(f"{name}: serves")
        yield server
    if not server.killed:
        await ledger.close()
        world.log(f"{name}: has ended")


@dataclass
class Caller:
    """One request, and all that its caller sees."""

    world: World
    asked: Asked
    status: int | None = None
    id: str = ""
    """Its `x-request-id`."""
    body: bytes = b""
    end: End | None = None
    ends: int = 0
    """How often its answer ended."""
    began: float = 0.0
    ended: float = 0.0
    stood_still: bool = False
    """It let the server wait at least once."""
    read_late: float = 0.0
    """Seconds in which it let the server wait."""
    gone: asyncio.Event = field(default_factory=asyncio.Event)
    cancelled: bool = False
    """Its task was cancelled by the server."""
    server: Server | None = None
    """That it came to."""

    @property
    def name(self) -> str:
        return f"request {self.asked.number}"

    async def ask(self, server: Server) -> None:
        """Asks, and returns when the server is done with it."""
        world, self.server = self.world, server
        self.began = world.loop.time()
        world.log(f"{self.name}: asks for {self.asked.strategy} by {self.asked.key}, has {self.asked.timeout} s")
        if world.strikes("hang_up", self.name):
            world.loop.call_later(world.chance(f"gone {self.name}").expovariate(1 / 4), self._go)
        scope = {
            "type": "http",
            "method": "POST",
            "path": CHAT,
            "query_string": b"",
            "http_version": "1.1",
            "headers": [
                (b"authorization", f"Bearer pk-{self.asked.key}".encode()),
                (b"content-type", b"application/json"),
                (b"x-request-timeout", f"{self.asked.timeout:.3f}".encode()),
            ],
        }
        try:
            await server.app(scope, self._receive(), self._send)
        except asyncio.CancelledError:
            if not server.killed:
                raise
        finally:
            self.ended = world.loop.time()
            self.end = self._end()
            world.log(f"{self.name}: {self.end} {self.status} after {self.ended - self.began:.6f} s, {self.text!r}")

    def _go(self) -> None:
        if self.end is None and not self.gone.is_set():
            self.world.log(f"{self.name}: hangs up")
            self.gone.set()

    def _receive(self) -> Any:
        whole = json.dumps(self.asked.body).encode()
        half = self.world.strikes("half_body", self.name)
        slow = self.world.strikes("slow_body", self.name)
        parts = [whole[:40], whole[40:]] if half or slow else [whole]

        async def receive() -> Message:
            if parts and not self.gone.is_set():
                if len(parts) == 1 and slow:
                    await self.world.pause(12.0, f"body {self.name}")
                if len(parts) == 1 and half:
                    await self.world.pause(12.0, f"body {self.name}")
                    self._go()
                    return {"type": "http.disconnect"}
                part = parts.pop(0)
                return {"type": "http.request", "body": part, "more_body": bool(parts)}
            await self.gone.wait()
            return {"type": "http.disconnect"}

        return receive

    async def _send(self, message: Message) -> None:
        world = self.world
        late = 2 * SEND if world.strikes("split", self.name) else 0.5 * world.strikes("slow_reader", self.name)
        if late and not self.gone.is_set():
            self.stood_still = True
            before = world.loop.time()
            try:
                with suppress(TimeoutError):
                    async with asyncio.timeout(late * world.chance(f"reads {self.name}").random()):
                        await self.gone.wait()
            finally:
                self.read_late += world.loop.time() - before
        if self.gone.is_set():
            return
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.id = dict(message["headers"])[b"x-request-id"].decode()
            return
        self.body += message.get("body", b"")
        if not message.get("more_body"):
            self.ends += 1
            # The connection is over for the server, which says so.
            self.gone.set()

    def _end(self) -> End:
        if not self.ends:
            return "gone" if self.status is None or self.gone.is_set() else "broken"
        if self.status != 200:
            return "refused"
        return "broken" if self.failure else "answered"

    # -- what it was told ---------------------------------------------------------------------------------------------

    @property
    def events(self) -> list[dict[str, Any]]:
        """The chunks that came whole."""
        lines = self.body.decode().split("\n\n")
        return [json.loads(line[6:]) for line in lines[:-1] if line.startswith("data: {")]

    @property
    def whole(self) -> dict[str, Any]:
        """An answer in one piece, or an error; empty where it has not come whole."""
        with suppress(ValueError):
            return json.loads(self.body)
        return {}

    @property
    def failure(self) -> Any:
        """The error it was told, as an answer or in a stream."""
        if self.asked.streamed and self.status == 200:
            return next((event["error"] for event in self.events if "error" in event), None)
        return self.whole.get("error")

    @property
    def texts(self) -> dict[int, str]:
        """The text of each choice, as far as it came."""
        said: dict[int, str] = {}
        for one in [self.whole] if not self.asked.streamed else self.events:
            for choice in one.get("choices", ()):
                piece = choice.get("delta", choice.get("message", {})).get("content") or ""
                said[choice["index"]] = said.get(choice["index"], "") + piece
        return said

    @property
    def text(self) -> str:
        return " | ".join(self.texts.values())

    @property
    def finishes(self) -> dict[int, str]:
        """How each choice ended."""
        ends: dict[int, str] = {}
        for one in [self.whole] if not self.asked.streamed else self.events:
            for choice in one.get("choices", ()):
                if choice.get("finish_reason"):
                    ends[choice["index"]] = choice["finish_reason"]
        return ends

    @property
    def told(self) -> dict[str, Any]:
        """`usage` and `thinking` of an answer."""
        last = self.whole
        if self.asked.streamed:
            last = next((event for event in reversed(self.events) if event.get("usage")), self.whole)
        return {"usage": last.get("usage"), "thinking": last.get("thinking")}
