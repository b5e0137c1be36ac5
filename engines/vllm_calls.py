"""The calls of a chain as vLLM's: its sampling parameters are made here, and its outputs read."""

from __future__ import annotations

import importlib
from typing import Any

from ponder.compute.engine import Delta, Sampling
from ponder.engines.held_grammars import Held
from ponder.engines.launch import BACKEND
from ponder.engines.model import Model
from ponder.engines.writing import Call, Writing

REPETITION = {"min_pattern_size": 128, "max_pattern_size": 512, "min_count": 4}
"""What counts as going in circles: four times the same 128 to 512 tokens, each right behind the one before. A shorter
pattern counts when it fills as many, so it takes 512 tokens in a row at least, whatever repeats. A table, an array of
200 zeros or a loop unrolled by hand is over before that; a model in a circle goes on to the end of its budget."""


class VllmCalls:
    """Makes vLLM's parameters for the calls to one model."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._vllm: Any = importlib.import_module("vllm.sampling_params")
        self.repetition: Any = self._vllm.RepetitionDetectionParams(**REPETITION)

    def parameters(self, sampling: Sampling, call: Call, grammar: Held | None) -> Any:
        """vLLM's `SamplingParams` for a call; `grammar` is what the answer is held to."""
        model = self._model
        wishes: dict[str, Any] = {}
        logprobs = 0 if sampling.likelihood else None
        if call.phase == "answer":
            bias = dict(sampling.logit_bias) | model.logit_bans
            logprobs = sampling.logprobs if sampling.logprobs is not None else logprobs
            wishes["logit_bias"] = bias or None
            if model.word_bans:
                wishes["bad_words"] = model.word_bans
            if sampling.stop and not call.headless:
                wishes |= {"stop": list(sampling.stop), "detokenize": True}
            if grammar is not None:
                wishes["structured_outputs"] = self.held_to(grammar)
        if call.watched:
            wishes["repetition_detection"] = self.repetition
        if call.continued:
            # See `ponder.engines.scheduling`.
            wishes["extra_args"] = {"continued": call.continued}
        return self._vllm.SamplingParams(
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=sampling.top_k,
            min_p=sampling.min_p,
            presence_penalty=sampling.presence_penalty,
            frequency_penalty=sampling.frequency_penalty,
            seed=call.seed,
            max_tokens=call.limit,
            stop_token_ids=[*call.stops, *model.turn_ends],
            logprobs=logprobs,
            flat_logprobs=logprobs is not None,
            output_kind=self._vllm.RequestOutputKind.DELTA,
            stream_interval=call.every,
            skip_clone=True,
            **{"detokenize": False, **wishes},
        )

    def for_one_token(self) -> Any:
        """Parameters of a call that shows whether the model answers."""
        kind = self._vllm.RequestOutputKind.FINAL_ONLY
        return self._vllm.SamplingParams(max_tokens=1, detokenize=False, output_kind=kind)

    def held_to(self, grammar: Held) -> Any:
        """The grammar as vLLM takes it."""
        made = self._vllm.StructuredOutputsParams(**{grammar.kind: grammar.text})
        # As vLLM's own check of the text sets it, which is left out (`ponder.engines.launch`).
        made._backend = BACKEND
        return made


def take(writing: Writing, call: Call, out: Any) -> Delta | None:
    """Gives a chain the tokens of one of vLLM's outputs; returns the visible text among them, to be streamed."""
    completion = out.outputs[0]
    if out.finished:
        call.reason, call.stop = completion.finish_reason, completion.stop_reason
    return writing.take(call, completion.token_ids, completion.logprobs, out.num_cached_tokens or 0)
