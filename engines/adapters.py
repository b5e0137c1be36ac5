"""LoRA adapters of a model: found before the engine starts, loaded before the first request.

An adapter whose files are missing would end vLLM's engine at the first request for it, so all is looked at here first.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ponder.compute.errors import EngineError

RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""Ranks that vLLM makes room for."""


@dataclass(frozen=True, slots=True)
class Adapter:
    """An adapter that is here."""

    name: str
    folder: Path
    rank: int


def find_adapters(adapters: Mapping[str, str]) -> list[Adapter]:
    """Folders, or hub ids that are fetched now, by name. Raises `EngineError` in plain words for what is no adapter."""
    return [_found(name, path) for name, path in adapters.items()]


def _found(name: str, path: str) -> Adapter:
    folder = Path(path).expanduser()
    if not folder.is_dir():
        if path.startswith(("/", ".", "~")) or path.count("/") != 1:
            raise EngineError(f"adapter {name}: there is no folder {path}")
        hub: Any = importlib.import_module("huggingface_hub")
        try:
            folder = Path(hub.snapshot_download(path))
        except Exception as error:  # noqa: BLE001 (the hub's client raises a dozen kinds)
            raise EngineError(
                f"adapter {name}: {path} is neither a folder here nor can it be had from the hub "
                f"({type(error).__name__}): check the id and the network, or download it and give its folder"
            ) from None
    file = folder / "adapter_config.json"
    if not file.is_file() or not any(folder.glob("adapter_model.*")):
        raise EngineError(f"adapter {name}: {path} holds no LoRA adapter (adapter_config.json and adapter_model.*)")
    try:
        config: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        return Adapter(name, folder, int(config["r"]))
    except (ValueError, KeyError, TypeError):
        raise EngineError(f"adapter {name}: {file} says no rank `r`, so it is not of a LoRA adapter") from None


def lora_arguments(adapters: Sequence[Adapter]) -> dict[str, Any]:
    """vLLM's arguments for these: any number of them may be asked at the same time."""
    if not adapters:
        return {}
    most = max(adapter.rank for adapter in adapters)
    room = next((rank for rank in RANKS if rank >= most), most)
    return {"enable_lora": True, "max_loras": len(adapters), "max_lora_rank": room}


async def load(llm: Any, adapter: Adapter, number: int, base: str) -> Any:
    """vLLM's request for an adapter, which it has loaded. Raises `EngineError` where the adapter does not fit."""
    requests: Any = importlib.import_module("vllm.lora.request").LoRARequest
    request = requests(lora_name=adapter.name, lora_int_id=number, lora_path=str(adapter.folder), base_model_name=base)
    try:
        await llm.add_lora(request)
    except Exception as error:
        raise EngineError(
            f"adapter {adapter.name}: it does not fit the model {base} ({type(error).__name__}: {error})"
        ) from error
    return request
