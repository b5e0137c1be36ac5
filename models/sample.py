"""The one place where the recipe generates or scores text: prompts of token ids in, token ids or scores out, by vLLM.

On a CPU the settings below matter more than the model: one OpenMP thread and no second process, or vLLM is many times
slower; float32, because few CPUs multiply bfloat16 fast.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")

import torch
from vllm import LLM, PoolingParams, SamplingParams
from vllm.config import PoolerConfig

from models.tokenizer import END


@dataclass(frozen=True)
class Sample:
    """What followed a prompt: token ids without the one it stopped at, and the log-probability of each where asked."""

    ids: list[int]
    logprobs: list[float]
    stopped: bool


def _engine(folder: Path, **more: Any) -> LLM:
    where: dict[str, Any] = {"gpu_memory_utilization": 0.4}
    if not torch.cuda.is_available():
        where = {"block_size": 32, "kv_cache_memory_bytes": 1 << 30, "dtype": "float32", "enforce_eager": True}
    return LLM(
        str(folder),
        max_model_len=2048,
        max_num_seqs=256,
        enable_prefix_caching=True,
        enable_chunked_prefill=True,
        disable_log_stats=True,
        **where,
        **more,
    )


class Writer:
    """The reasoner, loaded once."""

    def __init__(self, folder: Path) -> None:
        self._engine = _engine(folder)

    def write(
        self,
        prompts: Sequence[list[int]],
        *,
        seed: int,
        tokens: int = 256,
        stop: Sequence[int] = (END,),
        logprobs: bool = False,
        temperature: float = 1.0,
    ) -> list[Sample]:
        """One sample a prompt, in order; repeat a prompt for more.

        The seed is given to the whole call, through torch: a seed of its own kills a request on a CPU whose prompt
        is prefilled in two parts ("CPU Generator does not use offset").
        """
        torch.manual_seed(seed)
        wish = SamplingParams(
            temperature=temperature,
            max_tokens=tokens,
            stop_token_ids=list(stop),
            logprobs=0 if logprobs else None,
            flat_logprobs=logprobs,
            detokenize=False,
        )
        outputs = self._engine.generate([{"prompt_token_ids": ids} for ids in prompts], wish, use_tqdm=True)
        samples: list[Sample] = []
        for output in outputs:
            found = output.outputs[0]
            stopped = found.finish_reason == "stop"
            ids = list(found.token_ids)
            likely = list(found.logprobs.logprobs)[: len(ids)] if logprobs else []
            cut = len(ids) - 1 if stopped and ids and ids[-1] in (*stop, END) else len(ids)
            samples.append(Sample(ids[:cut], likely[:cut], stopped))
        return samples


class Judge:
    """The process reward model, loaded once."""

    def __init__(self, folder: Path) -> None:
        self._engine = _engine(folder, runner="pooling", pooler_config=PoolerConfig(tok_pooling_type="ALL"))

    def judge(self, sequences: Sequence[list[int]], tag: int) -> list[list[float]]:
        """For each sequence the probability of "good" at each of its step tags."""
        outputs = self._engine.encode(
            [{"prompt_token_ids": ids} for ids in sequences],
            PoolingParams(task="token_classify"),
            pooling_task="token_classify",
            use_tqdm=True,
        )
        scores: list[list[float]] = []
        for ids, output in zip(sequences, outputs, strict=True):
            rows = output.outputs.data.float()
            scores.append([float(rows[at, 1]) for at, token in enumerate(ids) if token == tag])
        return scores
