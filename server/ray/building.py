"""From the configuration to deployments: the server as the ingress, and one deployment for each model and each reward
model, which scales by seconds of backlog."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ponder.engines.launch import on_cpu
from ponder.engines.ray.commands import Judging, Program, Writing
from ponder.engines.ray.hosting import END_SECONDS
from ponder.engines.ray.replica import EngineReplica
from ponder.engines.ray.scaling import BacklogPolicy
from ponder.engines.replicas.server import PLACES
from ponder.server.idempotency.seal import configured as sealed_answers
from ponder.server.load_settings import config_file, load
from ponder.server.model_paths import locate
from ponder.server.policies import policies_of
from ponder.server.ray.door import Door
from ponder.server.registry import Registry
from ponder.server.sealed_thoughts import configured as sealed_thoughts
from ponder.server.serve import options_of
from ponder.server.settings import ModelSettings, Settings, WrongSettings
from ponder.server.settings.deployment import DeploymentSettings

LOOK_BACK = 15.0
"""Seconds of what replicas have told that Serve keeps; it asks each five times in them."""
HEALTH_SECONDS = 2.0
"""Between two looks of Serve's at a replica."""
BEYOND = 64
"""Requests that a server is given beside those that it runs and those that wait: pages, and what it refuses itself."""
REST = 10.0
"""Seconds that a server has to end beside its drain."""

Programs = Callable[[str, ModelSettings], Program]
"""What a replica of a model runs."""


@dataclass(frozen=True)
class Kind:
    """A deployment of engines."""

    name: str
    program: Program
    settings: DeploymentSettings
    places: int
    gpus: float


def check_arguments(arguments: Mapping[str, str]) -> str | None:
    """The file that `serve run ... config=FILE` names. Raises `WrongSettings` for what is no argument."""
    if unknown := sorted(arguments.keys() - {"config"}):
        raise WrongSettings(f"{unknown[0]}: there is no such argument; config=FILE names the configuration")
    return arguments.get("config")


def written(name: str, model: ModelSettings) -> Program:
    """vLLM's server of a model."""
    own, _ = options_of(model, cpu=True)
    return Writing(model.path, name, locate, own)


def application(
    config: str | Path | None = None, *, programs: Programs = written, judges: Programs | None = None
) -> Any:
    """The application for `serve.run`. `programs` and `judges` are what replicas of models and of reward models run,
    where that is not vLLM's server. Raises `PonderError` in plain words."""
    serve: Any = importlib.import_module("ray.serve")
    if not hasattr(importlib.import_module("ray.serve.handle").DeploymentHandle, "broadcast"):
        raise WrongSettings("this Ray is too old: ponder-server[ray] wants the newest 2.x, 2.60 at least")
    file = config_file(config)
    settings = load(file)
    check(settings)
    engines: dict[str, Any] = {}
    rewards: dict[str, Any] = {}
    for number, (name, model) in enumerate(settings.served().items()):
        place = f"{number}-{re.sub('[^A-Za-z0-9_.-]', '_', name)}"
        if model.replicas is None:
            places = model.engine.max_num_seqs or PLACES
            gpus = gpus_of(model.ray, model.engine.tensor_parallel_size)
            kind = Kind(f"engine-{place}", programs(name, model), model.ray, places, gpus)
            engines[name] = deployment(serve, kind, settings.drain_timeout)
        if model.prm is not None and not model.prm_is_remote:
            gpus = gpus_of(model.prm_ray, model.prm_engine.tensor_parallel_size)
            places = model.prm_engine.max_num_seqs or PLACES
            program = (judges or judging)(name, model)
            kind = Kind(f"reward-{place}", program, model.prm_ray, places, gpus)
            rewards[name] = deployment(serve, kind, settings.drain_timeout)
    door = serve.deployment(
        serve.ingress()(Door),
        name="door",
        num_replicas=settings.ray_doors,
        max_ongoing_requests=settings.max_inflight + settings.max_queue + BEYOND,
        graceful_shutdown_timeout_s=settings.drain_timeout + REST,
        graceful_shutdown_wait_loop_s=0.2,
        health_check_period_s=HEALTH_SECONDS,
        logging_config={"enable_access_log": False},
    )
    return door.bind(None if file is None else str(file.absolute()), sorted(settings.served()), engines, rewards)


def judging(name: str, model: ModelSettings) -> Program:
    """vLLM's server of a model's reward model."""
    _, beside = options_of(model, cpu=True)
    return Judging(model.prm or "", locate, model.reward_profile, beside)


def deployment(serve: Any, kind: Kind, drain: float) -> Any:
    """A deployment of engines or of reward models."""
    scale, policy = kind.settings, {"places": kind.places, "seconds": kind.settings.backlog_seconds}
    made = serve.deployment(
        EngineReplica,
        name=kind.name,
        ray_actor_options={"num_cpus": scale.cpus, "num_gpus": kind.gpus},
        graceful_shutdown_timeout_s=drain + END_SECONDS,
        graceful_shutdown_wait_loop_s=0.2,
        health_check_period_s=HEALTH_SECONDS,
        logging_config={"enable_access_log": False},
        autoscaling_config={
            "min_replicas": scale.min_replicas,
            "max_replicas": scale.most,
            "upscale_delay_s": scale.up_after,
            "downscale_delay_s": scale.down_after,
            "look_back_period_s": LOOK_BACK,
            "policy": {"policy_function": BacklogPolicy, "policy_kwargs": policy},
        },
    )
    return made.bind(kind.name, kind.program, drain)


def gpus_of(scale: DeploymentSettings, spread: int) -> float:
    """GPUs that a replica takes of the cluster."""
    if scale.gpus is not None:
        return scale.gpus
    return 0.0 if on_cpu() else float(spread)


def check(settings: Settings) -> None:
    """Raises `PonderError` for what cannot be served so, before anything is started."""
    Registry().check(settings)
    policies_of(settings.served())
    sealed_answers(settings.idempotency)
    sealed_thoughts(settings.sealed_thoughts)
    database = settings.ledger.database
    if database is not None and database.file is not None:
        raise WrongSettings(
            "ledger.url: on Ray Serve the ledger is in PostgreSQL, which a server that is started elsewhere finds: "
            'url = "postgresql://user:password@host/database", or "none" for no ledger'
        )
    if database is None and settings.ray_doors > 1:
        raise WrongSettings(
            f"ray_doors: {settings.ray_doors} servers share what they know in PostgreSQL, and [ledger] url is none"
        )
    if settings.tls_cert is not None:
        raise WrongSettings(
            "tls_cert: on Ray Serve the connections are Serve's: TLS ends before it, or in its http_options"
        )
    for name, model in settings.served().items():
        if model.adapters:
            raise WrongSettings(
                f"adapters: those of {name} are not loaded on Ray Serve; serve each as a model of its own"
            )
