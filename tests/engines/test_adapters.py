"""LoRA adapters as models of their own name, in the real engine; and vLLM's own options with it."""

from __future__ import annotations

import asyncio
import json
from contextlib import AsyncExitStack, aclosing
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import safetensors.numpy

from ponder.compute.budget import Budget, Spending
from ponder.compute.engine import Sampling
from ponder.compute.errors import EngineError, Unavailable
from ponder.compute.text import Message, Prompt
from ponder.compute.transcript import Transcript
from ponder.engines.adapters import find_adapters, lora_arguments
from ponder.engines.launch import EngineOptions, arguments
from ponder.engines.supervised import SupervisedEngine
from ponder.engines.vllm import VllmEngine
from ponder.server.serve import start_served
from ponder.server.settings import EngineSettings, ModelSettings

DEMO = Path(__file__).parents[2] / "models" / "demo"
PROMPT = Prompt((Message("user", "Tom has 12 apples. Tom gets 7 more. How many apples does Tom have now?"),))


def adapter(folder: Path, strength: float, rank: int = 12) -> Path:
    """An adapter of the demo model's; of no strength it changes nothing."""
    folder.mkdir()
    chance = np.random.default_rng(7)
    weights: dict[str, Any] = {}
    for layer in range(4):
        name = f"base_model.model.model.layers.{layer}.mlp.down_proj"
        weights[f"{name}.lora_A.weight"] = chance.normal(size=(rank, 384)).astype(np.float32)
        weights[f"{name}.lora_B.weight"] = (strength * chance.normal(size=(128, rank))).astype(np.float32)
    cast(Any, safetensors.numpy).save_file(weights, str(folder / "adapter_model.safetensors"))
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": rank, "target_modules": ["down_proj"], "bias": "none"}
    (folder / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


async def written(engine: VllmEngine) -> tuple[int, ...]:
    reservation = Spending(Budget(100_000, 100_000)).reserve("test", thinking=24, answer=24, bound=True)
    transcript = Transcript(reservation, PROMPT, None)
    sampling = Sampling(thinking=24, answer=24, temperature=0.0)
    async with aclosing(engine.generate(PROMPT, sampling, transcript)) as stream:
        async for _ in stream:
            pass
    return transcript.candidate().ids.unseal()


def test_adapters_are_asked_by_their_own_names(tmp_path: Path) -> None:
    loras = {"demo-odd": str(adapter(tmp_path / "odd", 3.0)), "demo-same": str(adapter(tmp_path / "same", 0.0, 3))}
    options = EngineSettings.model_validate(
        {"kv_cache_memory_bytes": 1 << 27, "dtype": "float32", "max_num_batched_tokens": 4096}
    )

    async def go() -> None:
        async with AsyncExitStack() as stack:
            settings = ModelSettings(path=str(DEMO), engine=options, adapters=loras)
            served = await start_served("demo", settings, stack)
            assert list(served) == ["demo", "demo-odd", "demo-same"]
            engines = {name: cast("VllmEngine", one.engine) for name, one in served.items()}
            demo = cast("VllmEngine", cast("SupervisedEngine", served["demo"].engine).engine)
            assert demo.llm.vllm_config.scheduler_config.max_num_batched_tokens == 4096
            base = await written(engines["demo"])
            assert await written(engines["demo-same"]) == base
            odd = await written(engines["demo-odd"])
            assert odd != base
            # What one has in the cache is of no use to another.
            assert await written(engines["demo"]) == base
            assert await written(engines["demo-odd"]) == odd
            await engines["demo-odd"].check()
            assert engines["demo-odd"].card.name == "demo-odd"
        with pytest.raises(Unavailable, match="demo-odd is closed"):
            await written(engines["demo-odd"])

    asyncio.run(go())


def test_what_is_no_adapter_is_said_before_the_engine_starts(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    ranked = adapter(tmp_path / "ranked", 1.0)
    (ranked / "adapter_config.json").write_text('{"peft_type": "IA3"}', encoding="utf-8")
    for path, words in (
        (str(tmp_path / "none"), "adapter law: there is no folder"),
        (str(empty), "adapter law: .* holds no LoRA adapter"),
        (str(ranked), "says no rank"),
    ):
        with pytest.raises(EngineError, match=words):
            find_adapters({"law": path})


def test_there_is_room_for_the_adapters_unless_an_option_says_otherwise(tmp_path: Path) -> None:
    found = find_adapters({"a": str(adapter(tmp_path / "a", 1.0)), "b": str(adapter(tmp_path / "b", 1.0, 40))})
    assert lora_arguments(found) == {"enable_lora": True, "max_loras": 2, "max_lora_rank": 64}
    assert lora_arguments([]) == {}


def test_options_of_vllms_go_before_the_devices_defaults_and_not_before_the_servers_own() -> None:
    given = arguments("m", EngineOptions(more={"block_size": 64, "quantization": "fp8"}, tail_cache=False))
    assert (given["block_size"], given["quantization"]) == (64, "fp8")
    assert given["enable_prefix_caching"] is True
    with pytest.raises(EngineError, match="set tail_cache = false"):
        arguments("m", EngineOptions(more={"kv_transfer_config": {}}, tail_cache=True))
