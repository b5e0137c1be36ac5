"""A model and its reward model in this process, started as `ponder serve MODEL --prm PRM` starts them."""

from __future__ import annotations

import gc
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

from compute.budget import Lengths
from compute.run import Means
from engines import reward, vllm
from server.places import locate
from server.serve import options_of
from server.settings import ModelSettings


@asynccontextmanager
async def pair(model: str, prm: str) -> AsyncGenerator[tuple[vllm.VllmEngine, Means]]:
    """Starts both, a GPU's memory shared between them, and closes them."""
    settings = ModelSettings(path=model, prm=prm)
    own, beside = options_of(settings, cpu=vllm.on_cpu())
    engine = await vllm.start(locate(model), name=Path(model).name, profile=None, options=own)
    try:
        judge = await reward.start_reward(locate(prm), name=Path(prm).name, profile=None, options=beside)
        try:
            gc.collect()
            gc.freeze()
            yield engine, Means(engine, Lengths(*engine.card.typical_chain), judge)
        finally:
            await judge.close()
    finally:
        await engine.close()
