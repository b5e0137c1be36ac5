"""vLLM's scheduler, which knows here what was written before a call: a chain may take several calls to the engine.

vLLM begins each request anew: its grammar at the first token, its search for repetitions too. A call that goes on from
an earlier one says in its sampling parameters how many of the last tokens of its prompt are what it goes on with
(`continued`). Its grammar is advanced by those before the first token is drawn, so that a constrained answer can be cut
anywhere and stays one document; and a pattern that began in them is a repetition like any other.

`scheduler` is what vLLM's `scheduler_cls` names. This module is imported in the engine's process alone, where vLLM is.
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from typing import Any

from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.core.sched.utils import check_sequence_repetition
from vllm.v1.request import RequestStatus

EVERY = 16
"""Tokens of a chain between two looks for a repetition: at every token, as vLLM does it, a look over patterns of
hundreds of tokens costs as much as a token of a small model."""

NICE = 10
"""Steps of priority below the engine's for threads that compile grammars. On Linux each thread has its own, and hands
it on to those it starts."""

SEED = 8
"""Tokens at the end of a chain that must have stood before, or nothing repeats."""


def scheduler(vllm_config: Any, **given: Any) -> Any:
    """The scheduler that suits the configuration, as vLLM chooses between its own two."""
    made: Any = _AsyncContinuing if vllm_config.scheduler_config.async_scheduling else _Continuing
    compiling: Any = given["structured_output_manager"]
    if isinstance(getattr(compiling, "executor", None), ThreadPoolExecutor):
        # As vLLM makes it, but with a priority that leaves the processor to the chains that are written.
        compiling.executor = ThreadPoolExecutor(
            compiling.executor._max_workers, "compiling", initializer=os.nice, initargs=(NICE,)
        )
    return made(vllm_config=vllm_config, **given)


class _Continuing(Scheduler):
    """vLLM's scheduler, which also looks at the tokens a request continues."""

    def add_request(self, request: Any) -> None:
        params = request.sampling_params
        request.watched = None
        if params is not None and params.repetition_detection is not None:
            # What counts as going in circles, and how much of it was written before this call.
            request.watched = params.repetition_detection, _continued(request)
            request.sampling_params = copy(params)
            request.sampling_params.repetition_detection = None
        super().add_request(request)

    def _handle_blocked_waiting_request(self, request: Any) -> bool:
        waited = request.status == RequestStatus.WAITING_FOR_STRUCTURED_OUTPUT_GRAMMAR
        ready: bool = super()._handle_blocked_waiting_request(request)
        if not (waited and ready):
            return ready
        written = _continued(request)
        grammar = request.structured_output_request.grammar
        if written and (
            # A grammar that has ended would constrain nothing.
            not grammar.accept_tokens(request.request_id, list(request.prompt_token_ids[-written:]))
            or grammar.is_terminated()
        ):
            # Ends this request with an error, as a grammar does that cannot be made.
            request.structured_output_request.grammar = ValueError("the answer so far is not of its grammar")
            request.status = RequestStatus.WAITING_FOR_STRUCTURED_OUTPUT_GRAMMAR
            self.grammar_compile_error_reqs.add(request.request_id)
            return False
        return True

    def _update_request_with_output(
        self, request: Any, new_token_ids: list[int], is_stale: bool = False
    ) -> tuple[list[int], bool]:
        new_token_ids, stopped = super()._update_request_with_output(request, new_token_ids, is_stale=is_stale)
        if request.watched is not None and not stopped:
            pattern, written = request.watched
            length = written + request.num_output_tokens
            if length % EVERY < len(new_token_ids) and circles(request.all_token_ids, length, pattern):
                request.status = RequestStatus.FINISHED_REPETITION
                request.stop_reason = "repetition_detected"
                stopped = True
        return new_token_ids, stopped


class _AsyncContinuing(_Continuing, AsyncScheduler):
    """The same over the scheduler that plans a step while the last one runs."""


def _continued(request: Any) -> int:
    """How many of the last tokens of a prompt the request goes on with."""
    extra = request.sampling_params.extra_args if request.sampling_params is not None else None
    return int(extra.get("continued", 0)) if extra else 0


def circles(ids: Sequence[int], length: int, pattern: Any) -> bool:
    """The last `length` tokens end in a repetition (a `RepetitionDetectionParams` of vLLM's says what is one)."""
    tail = list(ids[-min(length, pattern.max_pattern_size * pattern.min_count) :])
    if len(tail) < max(SEED, pattern.min_pattern_size * pattern.min_count):
        return False
    near = array("I", tail[-pattern.max_pattern_size - SEED :]).tobytes()
    end = near[-SEED * 4 :]
    return near.find(end) < len(near) - len(end) and check_sequence_repetition(tail, pattern)
