"""`ponder serve`: starts the engines, accepts connections, and shuts down in order."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import AsyncExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import uvloop
from fastapi import FastAPI

from ponder.compute.engine import Engine, RewardModel, supervision_of
from ponder.compute.lengths import Lengths
from ponder.compute.replicas import HasReplicas
from ponder.engines.launch import EngineOptions, metrics_text, on_cpu
from ponder.engines.reward_remote import connect_reward
from ponder.engines.reward_vllm import GPU_SHARE, start_reward, supervised_reward
from ponder.engines.vllm import start, supervised
from ponder.metering.metrics import Metrics
from ponder.server import logs, systemd
from ponder.server.app import ServedModel, ServerHandle, all_dialects
from ponder.server.dialect import Dialect
from ponder.server.ending import LastResort
from ponder.server.handoff import Handoff, Listening, Streams, listening
from ponder.server.http.server import Sharing, run
from ponder.server.http.sockets import check_tls, listen, url_of
from ponder.server.idempotency.seal import configured
from ponder.server.loop_watch import LoopWatch
from ponder.server.model_paths import locate
from ponder.server.opening import opened
from ponder.server.output import captured
from ponder.server.policies import policies_of
from ponder.server.registry import Registry
from ponder.server.reload import Reload, Terminal, at_signal
from ponder.server.replicas import start_replicas
from ponder.server.sealed_thoughts import configured as sealed_with
from ponder.server.settings import ModelSettings, Settings, WrongSettings

QUIET = ("alembic", "httpx", "httpcore", "vllm", "transformers", "uvicorn.error")
"""Libraries that say at `info` what only their authors want to know."""

log = logging.getLogger("ponder.server")

TOGETHER = 0.92
"""Share of a GPU for a model and its reward model."""


def serve(settings: Settings, source: Callable[[], Settings] | None = None, *, bound: bool = False) -> None:
    """Serves until SIGTERM or SIGINT; at SIGHUP, and when it is asked to, it reads the configuration again from
    `source`; at SIGUSR2 it hands its socket to a new process, unless it is `bound` to the one that started it. Raises
    `PonderError` where it cannot begin: before an engine is started, where that can be known."""
    registry = Registry()
    registry.check(settings)
    policies_of(settings.served())
    dialects = all_dialects()
    check_tls(settings.tls_cert, settings.tls_key)
    configured(settings.idempotency)
    sealed_with(settings.sealed_thoughts)
    place = listening(settings)
    with (
        place.sock,
        captured(settings.log_level, settings.log_format, settings.library_output) as output,
    ):
        lines = logs.configure(settings.log_level, settings.log_format, output.err)
        for noisy in QUIET:
            logging.getLogger(noisy).setLevel(logging.WARNING)

        def announce(told: str) -> None:
            """Says that callers get in, who may be quoted from here on."""
            lines.brief = settings.library_output != "all"
            output.serving()
            output.out.write(f"ponder: {told} (Ctrl-C ends)\n")

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            starting = Starting()
            signal.signal(signal.SIGTERM, starting)
            signal.signal(signal.SIGHUP, starting.hung_up)
            signal.signal(signal.SIGUSR2, starting.too_soon)
            streams = output.out, output.err
            runner.run(_serve(settings, dialects, place, starting, announce, source, streams, bound))


class Starting:
    """SIGTERM while the models are loaded: ends the process where it stands, or, should the code it strikes swallow
    that (a finalizer, a library that catches everything), as soon as they are."""

    def __init__(self) -> None:
        self.ended = False
        self.terminal = Terminal()
        self.outdated = False
        """SIGHUP came: the configuration is to be read again as soon as there is a server."""

    def __call__(self, *_: object) -> NoReturn:
        self.ended = True
        sys.exit(128 + signal.SIGTERM)

    def hung_up(self, *_: object) -> None:
        """SIGHUP meanwhile."""
        if self.terminal.gone:
            self()
        self.outdated = True

    def too_soon(self, *_: object) -> None:
        """SIGUSR2 meanwhile. Where the loop has not looked by then, it comes to the server after all."""
        log.warning("SIGUSR2: this process does not serve yet: send it again when it does")


async def _serve(
    settings: Settings,
    dialects: Sequence[Dialect],
    place: Listening,
    starting: Starting,
    announce: Callable[[str], None],
    source: Callable[[], Settings] | None,
    streams: Streams,
    bound: bool,
) -> None:
    metrics = Metrics()
    follows = place.before is not None
    async with opened(
        settings,
        start_served,
        metrics=metrics,
        dialects=dialects,
        engine_metrics=metrics_text,
        source=source,
        follows=follows,
    ) as (app, models):
        if starting.ended:
            sys.exit(128 + signal.SIGTERM)
        listen(place.sock)
        scheme = "http" if settings.tls_cert is None else "https"
        announce(f"serving {', '.join(models)} at {url_of(place.sock, scheme)}")
        alone = "--with-parent has it end with the process that started it" if bound else engines_here(models)
        if os.getpid() == 1:
            alone = "it is the first process of a container, which ends with it: start another container"
        with rereading(app.state.handle.reload, starting):
            await until_asked(app, settings, place, metrics, alone, streams)


async def until_asked(
    app: FastAPI,
    settings: Settings,
    place: Listening,
    metrics: Metrics,
    alone: str | None = None,
    streams: Streams = (None, None),
) -> None:
    """Serves until SIGTERM or SIGINT, or until a process that it started at SIGUSR2 does. From then on the process has
    the time of a drain to end, whatever holds it. `alone`: why no other can take over; `streams`: where that writes."""
    handle: ServerHandle = app.state.handle
    resort, admission = LastResort(settings.drain_timeout), handle.admission
    sharing = Sharing(place.kept, place.begun, busy=lambda: admission.inside + admission.queued > 0)
    handoff = Handoff(place.sock, sharing, alone, streams)

    async def drain() -> None:
        resort.begin()
        handoff.abandon()
        if not sharing.handed.is_set():
            systemd.tell(STOPPING=1)
        if place.before is not None:
            place.before.end()
        await handle.drain()

    with LoopWatch(metrics.lag, metrics.held), handing_on(handoff):
        await run(app, settings, place.sock, drain, metrics.lag, handle.hurry, lambda: handle.keyring.open, sharing)
        if place.before is not None and not sharing.handed.is_set():
            # Who started this one may end the others with it.
            await place.before.ended()
    resort.served = True


@contextmanager
def handing_on(handoff: Handoff) -> Generator[None]:
    """At SIGUSR2 another process is started to take over."""
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGUSR2, handoff.ask)
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGUSR2)
        signal.signal(signal.SIGUSR2, signal.SIG_IGN)


def engines_here(models: Mapping[str, ServedModel]) -> str | None:
    """Why no other process can take over: there is no room for a second of what this one has started. None: all
    its models run elsewhere."""
    own = [name for name, served in models.items() if _is_here(served.engine) or _is_here(served.reward_model)]
    return f"it runs engines of its own, of {', '.join(own)}: restart it instead" if own else None


@contextmanager
def rereading(reload: Reload, starting: Starting) -> Generator[None]:
    """At SIGHUP the configuration is read again, or, where the server's terminal is gone, the server ends."""
    loop, tasks = asyncio.get_running_loop(), set[asyncio.Task[None]]()

    def on_signal() -> None:
        if starting.terminal.gone:
            os.kill(os.getpid(), signal.SIGTERM)
            return
        task = loop.create_task(at_signal(reload))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    loop.add_signal_handler(signal.SIGHUP, on_signal)
    if starting.outdated:
        on_signal()
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGHUP)


async def start_served(name: str, model: ModelSettings, stack: AsyncExitStack) -> dict[str, ServedModel]:
    """One model with its adapters, by their names, and its reward model, where it has one; engines here are started one
    after the other."""
    if model.replicas is not None and (model.prm is None or model.prm_is_remote):
        options = beside = EngineOptions()
    else:
        options, beside = options_of(model, cpu=on_cpu())
    prm = locate(model.prm) if model.prm and not model.prm_is_remote else None
    reward_model: RewardModel | None = None
    if model.prm and model.prm_is_remote:
        log.info("asking for %s's reward model (%s)", name, model.prm)
        reward_model = await connect_reward(
            model.prm, model=model.prm_model, key=model.prm_key, locate=locate, profile=model.reward_profile
        )
        stack.push_async_callback(reward_model.close)
    served: Sequence[Engine]
    if model.replicas is not None:
        served = [await start_replicas(name, model, model.replicas, stack)]
    else:
        engine = await start(
            locate(model.path), name=name, profile=model.model_profile, options=options, adapters=model.adapters
        )
        stack.push_async_callback(engine.close)
        served = await stack.enter_async_context(supervised(engine))
    if prm is not None:
        log.info("loading %s's reward model (%s)", name, model.prm)
        judge = await start_reward(prm, name=Path(prm).name, profile=model.reward_profile, options=beside)
        stack.push_async_callback(judge.close)
        reward_model = await stack.enter_async_context(supervised_reward(judge))
    return {
        one.card.name: ServedModel(
            engine=one, lengths=Lengths(*one.card.typical_chain), settings=model, reward_model=reward_model
        )
        for one in served
    }


def options_of(model: ModelSettings, *, cpu: bool) -> tuple[EngineOptions, EngineOptions]:
    """How the engines of a model, and of a reward model beside it, are started: a GPU's memory is shared between them.
    Raises `WrongSettings` where it does not suffice."""
    own = EngineOptions(**model.engine.options)
    alike = model.engine.model_dump(include={"dtype", "enforce_eager", "seed", "trust_remote_code"})
    judge = {name: value for name, value in model.prm_engine.options.items() if value is not None}
    beside = EngineOptions(**alike | judge)
    if cpu or not model.prm or model.prm_is_remote:
        return own, beside
    share = beside.gpu_memory_utilization or GPU_SHARE
    rest = own.gpu_memory_utilization or round(TOGETHER - share, 3)
    if rest <= 0 or rest + share > 1:
        raise WrongSettings(
            f"gpu_memory_utilization: {share} for the reward model {model.prm} does not leave "
            f"{own.gpu_memory_utilization or 'anything'} for {model.path} on the same GPU"
        )
    return replace(own, gpu_memory_utilization=rest), replace(beside, gpu_memory_utilization=share)


def _is_here(model: Engine | RewardModel | None) -> bool:
    """It was started by this process. Replicas elsewhere are watched as well, and have a list of themselves."""
    return supervision_of(model) is not None and not isinstance(model, HasReplicas)
