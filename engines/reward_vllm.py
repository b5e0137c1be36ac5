"""A process reward model in vLLM, in this process.

Of a longer prefix only the new tokens are read: the rest is in the engine's prefix cache.
"""

from __future__ import annotations

import asyncio
import gc
import importlib
import itertools
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from ponder.compute.errors import EngineError, Lost
from ponder.compute.slots import Slots
from ponder.engines.launch import (
    SHUTDOWN_SECONDS,
    EngineOptions,
    arguments,
    dead,
    forget,
    launch,
    on_cpu,
    places,
    read_config,
    settle_environment,
)
from ponder.engines.reward import ProcessRewardModel
from ponder.engines.reward_profiles import RewardProfile, find_reward_profile
from ponder.engines.reward_reader import LIKELIEST, Reading, of_labels
from ponder.engines.supervised import SupervisedRewardModel
from ponder.engines.supervisor import Supervisor
from ponder.engines.vllm_process import Seen, VllmProcess

GPU_SHARE = 0.22
"""Share of a GPU for a reward model in this process, where none is given."""

TYPICAL = 256
"""Tokens that are read for one verdict, before any was."""


async def start_reward(
    path: str, *, name: str, profile: RewardProfile | None, options: EngineOptions
) -> ProcessRewardModel:
    """Loads a process reward model into this process. Raises `EngineError` in plain words where it cannot."""
    settle_environment()
    await asyncio.to_thread(read_config, path)
    profile = profile or find_reward_profile(path)
    given = arguments(path, options)
    # The engine's own series are of the models that write.
    given |= {"disable_log_stats": True}
    if not on_cpu() and options.gpu_memory_utilization is None:
        given |= {"gpu_memory_utilization": GPU_SHARE}
    if profile.verdict != "labels":
        config: Any = importlib.import_module("vllm.config.pooler").PoolerConfig
        # The default for these models gives the tagged rows only, and switches the prefix cache off.
        given |= {"runner": "pooling", "pooler_config": config(tok_pooling_type="ALL")}
        given.pop("structured_outputs_config", None)
    began = time.monotonic()
    llm = launch(given)
    try:
        reader = VllmReader(llm, name, Slots(places(llm), TYPICAL))
        model = ProcessRewardModel(reader, llm.get_tokenizer(), profile, name)
        reader.process = VllmProcess(name, given, llm, time.monotonic() - began, reader.seen, reader.take)
        return model
    except BaseException:
        llm.shutdown()
        raise
    finally:
        del llm  # see `ponder.engines.launch.launch`


@asynccontextmanager
async def supervised_reward(model: ProcessRewardModel) -> AsyncGenerator[SupervisedRewardModel]:
    """A model that `start_reward` has made, in front of an engine that is started again when it goes away, within the
    block."""
    process = model.reader.process if isinstance(model.reader, VllmReader) else None
    if process is None:
        raise TypeError("only a reward model that was started here can be started again")
    supervisor = Supervisor(process, model.check, took=process.took)
    async with supervisor.watching():
        yield SupervisedRewardModel(model, supervisor)


@dataclass(frozen=True, slots=True)
class _Prompt:
    """What is being read."""

    ids: Sequence[int]
    read: bool = False


class VllmReader:
    """Reads with a model in vLLM, in this process."""

    def __init__(self, llm: Any, name: str, slots: Slots | None = None) -> None:
        self._llm = llm
        self._name = name
        self._context = int(llm.model_config.max_model_len)
        self._inputs: Any = importlib.import_module("vllm.inputs.engine")
        self._refusal: type[Exception] = importlib.import_module("vllm.exceptions").VLLMClientError
        self._numbers = itertools.count()
        self.process: VllmProcess | None = None
        """What can be started again, where `start_reward` has made this."""
        self.seen = Seen()
        self._closed = False
        self.slots = slots

    async def take(self, llm: Any) -> None:
        """Reads with this one from now on."""
        self._llm = llm

    @property
    def context(self) -> int:
        return self._context

    async def read(self, ids: Sequence[int], labels: Sequence[int], tenant: str | None, name: str = "check") -> Reading:
        """One call to the engine; see the contract."""
        try:
            out = await self._answer(ids, self._sampling() if labels else self._pooling(), tenant, name)
        except dead() as error:
            raise Lost(f"reward model {self._name}: the engine is dead") from error
        self.seen.last = time.monotonic()
        hits = int(out.num_cached_tokens or 0)
        if labels:
            logprobs = out.outputs[0].logprobs
            likely = dict(zip(logprobs.token_ids, logprobs.logprobs, strict=True))
            return Reading((of_labels(labels, likely),), hits)
        rows = out.outputs.data
        return Reading(rows.reshape(len(rows), -1).tolist(), hits)

    async def _answer(self, ids: Sequence[int], params: Any, tenant: str | None, name: str) -> Any:
        llm, call = self._llm, _Prompt(ids)
        stream = await self._submit(ids, params, tenant, name)
        done = False
        self.seen.calls[id(call)] = call
        try:
            out: Any = await stream.get()
            done = True
        finally:
            del self.seen.calls[id(call)]
            if not done:
                await llm.abort(stream.request_id, internal=True)
        return out

    async def _submit(self, ids: Sequence[int], params: Any, tenant: str | None, name: str) -> Any:
        if self._closed:
            raise EngineError(f"reward model {self._name} is closed")
        number = f"{name}-{next(self._numbers)}"
        try:
            return await self._llm.add_request(number, self._inputs.tokens_input(list(ids), cache_salt=tenant), params)
        except (ValueError, self._refusal) as error:
            raise EngineError(f"reward model {self._name} refuses a chain: {type(error).__name__}") from None

    def _pooling(self) -> Any:
        pooling: Any = importlib.import_module("vllm.pooling_params").PoolingParams
        return pooling(task="token_classify", skip_reading_prefix_cache=False)

    def _sampling(self) -> Any:
        sampling: Any = importlib.import_module("vllm.sampling_params")
        return sampling.SamplingParams(
            max_tokens=1,
            temperature=0.0,
            logprobs=LIKELIEST,
            flat_logprobs=True,
            detokenize=False,
            output_kind=sampling.RequestOutputKind.FINAL_ONLY,
        )

    async def close(self) -> None:
        """Lets go of the model. Idempotent."""
        if not self._closed:
            self._closed = True
            self._llm.shutdown(timeout=SHUTDOWN_SECONDS)
            forget(self._llm)
            if self.process is not None:
                self.process.let_go()
            del self._llm
            gc.unfreeze()
            gc.collect()
