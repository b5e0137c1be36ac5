"""The calls of a chain as requests for `/v1/completions`, and the events of its answers as outputs.

Token ids go in and token ids come back. It is this route and not `/inference/v1/generate`, made for token ids, because
vLLM 0.32 has that one switched off, and older versions have none. What a server sends is checked before it is used: it
may be another program, another model, or broken.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any, cast

from ponder.compute.engine import Sampling
from ponder.compute.errors import EngineError, Lost
from ponder.engines.held_grammars import Held
from ponder.engines.model import Model
from ponder.engines.replicas.events import Events
from ponder.engines.vllm_calls import REPETITION
from ponder.engines.writing import Call

COMPLETIONS = "/v1/completions"

LINE, LINE_FOR_TOKEN = 1 << 20, 16
"""Bytes of an event at most: so many, and so many more for each token of the prompt, which the first one repeats."""
FOR_TOKEN, FOR_LOGPROB = 1 << 11, 1 << 6
"""Bytes of an answer for each token it may have, and for each log-probability; one event of one token has 300."""
OVER_ZERO = 1e-3
"""What a log-probability may be above 0, by rounding."""

REASONS = frozenset({"stop", "length", "abort", "repetition"})


@dataclass(slots=True)
class Flat:
    """Log-probabilities as `ponder.engines.logprobs.FlatLogprobs` has them."""

    start_indices: list[int]
    end_indices: list[int]
    token_ids: list[int]
    logprobs: list[float]


@dataclass(frozen=True, slots=True)
class Output:
    """What one event tells."""

    ids: list[int]
    logprobs: Flat | None
    reason: str | None
    """How the call ended, with the last output."""
    stop: int | str | None


def body(model: Model, served: str, sampling: Sampling, call: Call, grammar: Held | None) -> dict[str, Any]:
    """A call as vLLM's server takes it, in the words of `VllmCalls.parameters`. All that the server would otherwise
    take from the model's `generation_config.json` is said."""
    asked: dict[str, Any] = {
        "model": served,
        "prompt": call.ids,
        "max_tokens": call.limit,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k,
        "min_p": sampling.min_p,
        "presence_penalty": sampling.presence_penalty,
        "frequency_penalty": sampling.frequency_penalty,
        "repetition_penalty": 1.0,
        "stop_token_ids": [*call.stops, *model.turn_ends],
        "stream_interval": call.every,
        **streamed(),
    }
    if call.seed is not None:
        asked["seed"] = call.seed
    if sampling.tenant:
        asked["cache_salt"] = sampling.tenant
    logprobs = 0 if sampling.likelihood else None
    if call.phase == "answer":
        logprobs = sampling.logprobs if sampling.logprobs is not None else logprobs
        if bias := dict(sampling.logit_bias) | model.logit_bans:
            asked["logit_bias"] = {str(token): value for token, value in bias.items()}
        if model.word_bans:
            asked["bad_words"] = model.word_bans
        if sampling.stop and not call.headless:
            asked["stop"] = list(sampling.stop)
        if grammar is not None:
            asked["structured_outputs"] = {grammar.kind: grammar.text}
    if logprobs is not None:
        asked |= {"logprobs": logprobs, "return_tokens_as_token_ids": True}
    return asked


def streamed() -> dict[str, Any]:
    """What every call says of its answer: a stream, with the ids and with the counts at its end."""
    return {"stream": True, "stream_options": {"include_usage": True}, "return_token_ids": True}


def continuing(call: Call) -> dict[str, Any]:
    """What a server that runs `ponder.engines.scheduling` is told besides: what was written before, and what counts as
    going in circles."""
    more: dict[str, Any] = {"vllm_xargs": {"continued": call.continued}} if call.continued else {}
    return more | {"repetition_detection": REPETITION} if call.watched else more


class Reader:
    """The answer to one call, read as it comes."""

    def __init__(
        self, who: str, served: str, ids: Sequence[int], limit: int, *, vocabulary: int, logprobs: int | None
    ) -> None:
        """`ids`: the prompt. `limit`: tokens at most. `vocabulary`: every id is below. `logprobs`: of so many likeliest
        tokens beside the drawn one; None where none are wanted."""
        self.who, self._served, self._ids, self._limit = who, served, ids, limit
        self._vocabulary, self._logprobs = vocabulary, logprobs
        whole = LINE + (LINE_FOR_TOKEN + 8) * len(ids) + limit * (FOR_TOKEN + FOR_LOGPROB * (logprobs or 0))
        self._events = Events(who, line=LINE + LINE_FOR_TOKEN * len(ids), whole=whole)
        self.made = 0
        """Tokens of all outputs."""
        self.ended = False
        """The last output was read."""
        self.over = False
        """So was all of the answer."""
        self.cached: int | None = None
        """Of the prompt, what was in the prefix cache; None where the server has not said."""
        self._prompt_seen = False

    def feed(self, data: bytes) -> Iterator[Output]:
        """The outputs in what has come. Raises `EngineError` where it is no answer to this call, and `Lost` where the
        server says that it has failed; behind the outputs that were good."""
        for event in self._events.feed(data):
            if event == b"[DONE]":
                self.over = True
            elif (output := self._read(event)) is not None:
                yield output

    def _read(self, event: bytes) -> Output | None:
        try:
            told: Any = json.loads(event)
        except (ValueError, RecursionError):
            raise self._wrong("an event that is no JSON") from None
        if not isinstance(told, dict):
            raise self._wrong("an event that is no object")
        told = cast("dict[str, Any]", told)
        if "error" in told:
            raise Lost(f"{self.who} gave up on a request")
        if self.over or told.get("model") != self._served:
            raise self._wrong("an event of another model" if not self.over else "more behind the end of its answer")
        choices = told.get("choices")
        if choices == []:
            self._count(told.get("usage"))
            return None
        if not isinstance(choices, list) or len(cast("list[Any]", choices)) != 1 or not isinstance(choices[0], dict):
            raise self._wrong("an event without its one choice")
        return self._output(cast("dict[str, Any]", choices[0]))

    def _output(self, choice: dict[str, Any]) -> Output:
        if self.ended:
            raise self._wrong("tokens behind the last one")
        ids = choice.get("token_ids")
        if not isinstance(ids, list) or not self._tokens(ids := cast("list[Any]", ids)):
            raise self._wrong("an event without token ids of this model's vocabulary")
        if not self._prompt_seen and (read := choice.get("prompt_token_ids")) is not None:
            self._prompt_seen = True
            if read != list(self._ids):
                raise self._wrong("a prompt that it was not sent")
        reason, stop = choice.get("finish_reason"), choice.get("stop_reason")
        if reason is not None:
            if reason not in REASONS or not (stop is None or type(stop) in (int, str)):
                raise self._wrong("an end of a kind that is not known")
            self.ended = True
        logprobs = self._flat(ids, choice.get("logprobs")) if self._logprobs is not None else None
        self.made += len(ids)
        return Output(ids, logprobs, reason, stop)

    def _tokens(self, ids: list[Any]) -> bool:
        vocabulary = self._vocabulary
        return all(type(token) is int and 0 <= token < vocabulary for token in ids)

    def _flat(self, ids: list[int], told: Any) -> Flat:
        """Raises `EngineError` where it has not the log-probabilities of these tokens."""
        flat, most = Flat([], [], [], []), (self._logprobs or 0) + 1
        try:
            # Of each token its own first, then the likeliest, it perhaps among them.
            if len(told["top_logprobs"]) != len(ids) or len(told["token_logprobs"]) != len(ids):
                raise ValueError
            for token, own, others in zip(ids, told["token_logprobs"], told["top_logprobs"], strict=True):
                here = {token: float(own)}
                for name, value in others.items():
                    here.setdefault(int(name.removeprefix("token_id:")), float(value))
                if not all(isfinite(value) and value <= OVER_ZERO for value in here.values()) or len(here) > most:
                    raise ValueError
                if not self._tokens(list(here)):
                    raise ValueError
                flat.start_indices.append(len(flat.token_ids))
                flat.token_ids += here
                flat.logprobs += here.values()
                flat.end_indices.append(len(flat.token_ids))
        except (TypeError, ValueError, KeyError, AttributeError):
            raise self._wrong("log-probabilities that are none of its tokens") from None
        return flat

    def _count(self, usage: Any) -> None:
        """The counts of the whole call."""
        try:
            prompt, made = usage["prompt_tokens"], usage["completion_tokens"]
            details = usage.get("prompt_tokens_details")
            cached = None if details is None else details.get("cached_tokens")
        except (TypeError, KeyError, AttributeError):
            raise self._wrong("an event without its counts") from None
        if prompt != len(self._ids) or made != self.made:
            raise self._wrong(f"the counts {prompt!s:.20} and {made!s:.20}, of {len(self._ids)} and {self.made} tokens")
        if cached is not None:
            if type(cached) is not int or not 0 <= cached <= prompt:
                raise self._wrong("a count of cached tokens that cannot be")
            self.cached = cached

    def _wrong(self, what: str) -> EngineError:
        return EngineError(f"{self.who} sends {what}: is it a vLLM server of this model?")

    @property
    def surplus(self) -> int:
        """Tokens it has sent beyond what it was asked for."""
        return max(0, self.made - self._limit)
