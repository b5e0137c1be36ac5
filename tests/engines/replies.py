"""A vLLM without a model that gives replies word for word, whatever family they are of, in portions of one size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tests.engines.stand_in import Call, Reply, StandIn


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
        end = self.tokenizer.token_to_id(self.eos)
        assert end is not None, f"{self.eos!r} is no token of the vocabulary"
        self.end_of_turn = end
        self.first: list[int] = []
        """The prompt of the first call."""
        self.prompts: list[list[int]] = []
        self.params: list[Any] = []

    def begin(self, number: str, prompt: list[int], params: Any) -> Call:
        self.first = self.first or prompt
        self.prompts.append(prompt)
        self.params.append(params)
        return Reply(self, number, self.rest(prompt[len(self.first) :]) or [self.end_of_turn], params, self.portion)

    def rest(self, chain: Sequence[int]) -> list[int]:
        """What follows these tokens."""
        reply, answer = self.ids(self.reply), self.ids(self.answer)
        if list(chain) == reply[: len(chain)]:
            return reply[len(chain) :]
        said = next(
            n for n in range(min(len(chain), len(answer)), -1, -1) if list(chain[len(chain) - n :]) == answer[:n]
        )
        return answer[said:]
