"""A model, with a reward model or without, in this process, started as `ponder serve MODEL --prm PRM` starts them."""

from __future__ import annotations

import gc
from collections.abc import AsyncGenerator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, cast

from ponder.compute.resources import Resources
from ponder.engines.supervised import SupervisedEngine
from ponder.engines.vllm import VllmEngine
from ponder.server.serve import start_served
from ponder.server.settings import EngineSettings, ModelSettings, RewardEngineSettings


@asynccontextmanager
async def pair(
    model: str,
    prm: str | None,
    tail_cache: bool | None = None,
    context: int | None = None,
    more: Mapping[str, Any] | None = None,
) -> AsyncGenerator[tuple[VllmEngine, Resources]]:
    """Starts both, a GPU's memory shared between them, and closes them. The engine is the one behind its supervisor.
    `context`: of prompt and chain, in tokens. `more`: further settings of both engines, by their names in the
    configuration."""
    further: dict[str, Any] = dict(more or {})
    settings = ModelSettings(
        path=model,
        prm=prm,
        engine=EngineSettings(**further, tail_cache=tail_cache, max_model_len=context),
        prm_engine=RewardEngineSettings(**further, tail_cache=tail_cache),
    )
    async with AsyncExitStack() as stack:
        served = (await start_served(Path(model).name, settings, stack))[Path(model).name]
        gc.collect()
        gc.freeze()
        engine = cast("SupervisedEngine", served.engine)
        yield (
            cast("VllmEngine", engine.engine),
            Resources(engine, served.lengths, served.reward_model, evidence=served.evidence),
        )
