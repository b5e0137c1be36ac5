"""A vLLM without a model: what `VllmEngine` uses of `AsyncLLM`, whoever writes the tokens."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, cast

from tokenizers import Tokenizer


class StandIn:
    """Holds the calls that run and counts their tokens. Its kinds say in `begin` who writes a call."""

    def __init__(self, tokenizer: Any, context: int, vocabulary: int) -> None:
        self.made = 0
        """Tokens that were handed out."""
        self.running = 0
        self.errored = False
        self.model_config = SimpleNamespace(
            max_model_len=context,
            max_logprobs=-1,
            is_diffusion=False,
            get_vocab_size=lambda: vocabulary,
            hf_config=SimpleNamespace(model_type="scripted"),
        )
        self.vllm_config = SimpleNamespace(
            model_config=self.model_config,
            speculative_config=None,
            structured_outputs_config=SimpleNamespace(disable_any_whitespace=True),
        )
        self._tokenizer = tokenizer
        self.tokenizer = cast(Tokenizer, tokenizer.backend_tokenizer)
        self.end_of_turn = cast(int, self.tokenizer.token_to_id("<|im_end|>"))
        self.calls: dict[str, Call] = {}

    def begin(self, number: str, prompt: list[int], params: Any) -> Call:
        """The call that goes on with a prompt; or raises what is wrong with it."""
        raise NotImplementedError

    def get_tokenizer(self) -> Any:
        return self._tokenizer

    def shutdown(self, timeout: float | None = None) -> None:
        self.errored = True

    async def add_request(self, number: str, inputs: Any, params: Any) -> Call:
        self.calls[number] = call = self.begin(number, list(inputs["prompt_token_ids"]), params)
        self.running += 1
        return call

    async def abort(self, number: str, internal: bool = False) -> None:
        if (call := self.calls.pop(number, None)) is not None:
            call.aborted = True

    def ids(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False).ids


class Call:
    """One request: its outputs as `VllmEngine` reads them."""

    tail = 2
    """Tokens that are still under way when it is aborted."""

    def __init__(self, llm: StandIn, number: str, params: Any) -> None:
        self.llm, self.request_id, self.params = llm, number, params
        self.ids: list[int] = []
        """All that it comes to, where nobody aborts it."""
        self.at = 0
        self.likelihood = -0.5
        self.aborted = self.over = False
        self.reason = "length"
        self.stop: int | str | None = None

    async def get(self) -> Any:
        """The next output."""
        raise NotImplementedError

    def get_nowait(self) -> Any:
        """What came in behind the reader's back when the request was aborted."""
        return self.output(self.tail, "abort") if self.aborted and not self.over else None

    def output(self, size: int, reason: str | None) -> Any:
        """An output of so many tokens at most, with a reason the last."""
        ids = self.ids[self.at : self.at + size]
        self.at += len(ids)
        self.llm.made += len(ids)
        if reason is not None:
            self.over = True
            self.llm.running -= 1
            self.llm.calls.pop(self.request_id, None)
        completion = SimpleNamespace(
            token_ids=ids,
            logprobs=self._logprobs(ids),
            finish_reason=reason,
            stop_reason=self.stop if reason == "stop" else None,
        )
        return SimpleNamespace(outputs=[completion], finished=reason is not None, num_cached_tokens=0)

    def _logprobs(self, ids: Sequence[int]) -> Any:
        if self.params.logprobs is None:
            return None
        encode = self.llm.tokenizer.encode
        others = encode("Yes", add_special_tokens=False).ids + encode("No", add_special_tokens=False).ids
        width = 1 + min(self.params.logprobs, len(others))
        return SimpleNamespace(
            start_indices=[i * width for i in range(len(ids))],
            end_indices=[(i + 1) * width for i in range(len(ids))],
            token_ids=[i for token in ids for i in (token, *others[: width - 1])],
            logprobs=[self.likelihood, *[-1.0] * (width - 1)] * len(ids),
        )


class Reply(Call):
    """A call whose tokens are known when it begins: up to one of its ends, and handed out in portions."""

    def __init__(self, llm: StandIn, number: str, ids: Sequence[int], params: Any, portion: int) -> None:
        """`portion`: tokens of an output at most."""
        super().__init__(llm, number, params)
        self.portion = portion
        stops = {llm.end_of_turn, *params.stop_token_ids}
        end = next((i for i, token in enumerate(ids) if token in stops), None)
        if end is not None and end < params.max_tokens:
            ids = ids[: end + 1]
            self.reason, self.stop = "stop", None if ids[-1] == llm.end_of_turn else ids[-1]
        self.ids = list(ids[: params.max_tokens])

    async def get(self) -> Any:
        await asyncio.sleep(0)
        last = self.at + self.portion >= len(self.ids)
        return self.output(self.portion, self.reason if last else None)
