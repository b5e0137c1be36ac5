"""A vLLM without a model that gives replies word for word, whatever family they are of, in portions of one size."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tests.engines.stand_in import Call, StandIn


@dataclass
class Replies(StandIn):
    """Whose turn is `reply`; and where something was put into its place, `answer` from there on."""

    chat_tokenizer: Any
    reply: str
    answer: str
    portion: int = 1000
    eos: str = ""

    def __post_init__(self) -> None:
        super().__init__(self.chat_tokenizer, 8192, len(self.chat_tokenizer))
        self.end_of_turn = self.tokenizer.token_to_id(self.eos)
        self.first: list[int] = []
        """The prompt of the first call."""
        self.prompts: list[list[int]] = []
        self.params: list[Any] = []

    def begin(self, number: str, prompt: list[int], params: Any) -> Call:
        self.first = self.first or prompt
        self.prompts.append(prompt)
        self.params.append(params)
        return _Reply(self, number, self.rest(prompt[len(self.first) :]), params)

    def rest(self, chain: Sequence[int]) -> list[int]:
        """What follows these tokens."""
        reply, answer = self.ids(self.reply), self.ids(self.answer)
        if list(chain) == reply[: len(chain)]:
            return reply[len(chain) :]
        said = next(
            n for n in range(min(len(chain), len(answer)), -1, -1) if list(chain[len(chain) - n :]) == answer[:n]
        )
        return answer[said:]


class _Reply(Call):
    """The tokens of one call, up to one of its ends."""

    def __init__(self, llm: Replies, number: str, ids: list[int], params: Any) -> None:
        super().__init__(llm, number, params)
        self.portion = llm.portion
        stops = {llm.end_of_turn, *params.stop_token_ids}
        end = next((i for i, token in enumerate(ids) if token in stops), None)
        if end is not None and end < params.max_tokens:
            ids = ids[: end + 1]
            self.reason, self.stop = "stop", None if ids[-1] == llm.end_of_turn else ids[-1]
        self.ids = ids[: params.max_tokens]

    async def get(self) -> Any:
        await asyncio.sleep(0)
        last = self.at + self.portion >= len(self.ids)
        return self.output(self.portion, self.reason if last else None)
