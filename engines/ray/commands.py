"""What a replica of a deployment runs: vLLM's own server, as a command line made on the machine where it runs."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from typing import Any, Protocol

from ponder.compute.errors import EngineError
from ponder.engines.launch import EngineOptions, arguments, settle_environment
from ponder.engines.reward_profiles import RewardProfile, find_reward_profile

SERVER = "vllm.entrypoints.openai.api_server"


@dataclass(frozen=True, slots=True)
class Command:
    """A server to start: its words, and what is added to the environment."""

    words: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)


class Program(Protocol):
    """A server that has vLLM's routes. It can be pickled, and is asked where it is to run."""

    def __call__(self, host: str, port: int, key: str) -> Command:
        """What starts it there, for callers who have the key. Raises `EngineError` where it cannot run."""
        ...


@dataclass(frozen=True)
class Writing:
    """vLLM's server of a model that writes."""

    path: str
    """A folder, a hub id, or a name that `locate` knows."""
    name: str
    locate: Callable[[str], str]
    options: EngineOptions = field(default_factory=EngineOptions)

    def __call__(self, host: str, port: int, key: str) -> Command:
        needs_vllm()
        # What goes on with half-full blocks is told so by an engine in the same process, not over HTTP.
        options = replace(self.options, tail_cache=False)
        given = arguments(self.locate(self.path), options) | {"served_model_name": self.name}
        given |= {"enable_prompt_tokens_details": True, "enable_scale_out": True}
        return serving(given, host, port, key)


@dataclass(frozen=True)
class Judging:
    """vLLM's server of a process reward model."""

    path: str
    locate: Callable[[str], str]
    profile: RewardProfile | None = None
    options: EngineOptions = field(default_factory=EngineOptions)

    def __call__(self, host: str, port: int, key: str) -> Command:
        needs_vllm()
        given = arguments(self.locate(self.path), replace(self.options, tail_cache=False))
        if (self.profile or find_reward_profile(self.path)).verdict != "labels":
            # The default for these models gives the tagged rows only, and switches the prefix cache off.
            given |= {"runner": "pooling", "pooler_config": {"tok_pooling_type": "ALL"}}
            given.pop("structured_outputs_config", None)
        return serving(given, host, port, key)


def needs_vllm(module: str = "vllm") -> None:
    """Raises `EngineError` where vLLM is not installed."""
    if find_spec(module) is None:
        raise EngineError(
            "vLLM is not installed where this replica is to run: pip install 'ponder-server[ray,gpu]', or "
            "'ponder-server[ray,cpu]', on each node of the cluster that has engines"
        )


def serving(given: Mapping[str, Any], host: str, port: int, key: str) -> Command:
    """vLLM's server with these engine arguments. The key goes by the environment, which only its owner can read."""
    settle_environment()
    where = {"host": host, "port": port, "disable_uvicorn_access_log": True}
    return Command([sys.executable, "-m", SERVER, *flags(dict(given) | where)], {"VLLM_API_KEY": key})


def flags(given: Mapping[str, Any]) -> list[str]:
    """Engine arguments as vLLM's command line takes them."""
    words: list[str] = []
    for name, value in given.items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{flag}" if value else f"--no-{flag}")
        elif isinstance(value, Mapping):
            words += [f"--{flag}", json.dumps(value)]
        elif isinstance(value, list | tuple):
            words += [f"--{flag}", *map(str, value)]  # pyright: ignore[reportUnknownArgumentType]
        else:
            words += [f"--{flag}", str(value)]
    return words
