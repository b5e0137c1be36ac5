"""A vLLM without a model whose chains have a real one's shape: thoughts of thousands of tokens, answers of hundreds.

A stand-in for `AsyncLLM` over a tokenizer with Qwen3's markers and the switches of its chat template. A
chain names its case at the head of its thought and of its answer, so a call that goes on with one, closed by force or
cut anywhere, finds out which it is and goes on from where it stands.
"""

from __future__ import annotations

import itertools
import json
import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache, lru_cache
from typing import Any, cast

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from ponder.compute.engine import ModelCard
from ponder.engines.profiles import PROFILES
from ponder.engines.vllm import VllmEngine
from tests.engines.stand_in import Call, Reply, StandIn

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
MARKERS = ("<think>", "</think>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>")
"""Tokens of their own that are no special ones, as in Qwen3."""
TEMPLATE = (
    "{%- if tools %}{{- '<|im_start|>system\\n# Tools\\n' }}"
    "{%- for tool in tools %}{{- tool | tojson }}{{- '\\n' }}{%- endfor %}{{- '<|im_end|>\\n' }}{%- endif %}"
    "{%- for message in messages %}{{- '<|im_start|>' + message.role + '\\n' }}"
    "{{- message.content + '<|im_end|>\\n' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}"
    "{%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}"
    "{%- endif %}"
)
HEADER = "<|im_start|>assistant\n"
TEXT = (
    "so we add the number to what came before and check that the sum is right because each step has to follow from "
    "the last one and nothing may be left out of it now let us see what this gives if we take the other way round"
)
WORDS = TEXT.split()
JUDGE = "You are checking somebody's work."
SOUND, FAULTY = "this holds", "this is a slip"


@cache
def tokenizer() -> Any:
    """A byte-level BPE of some hundred words, with Qwen3's markers."""
    made: Any = Tokenizer(models.BPE())
    pieces = pre_tokenizers.Split(Regex(r"\s*[\r\n]+|\s?[^\s\d]+|\d|\s+"), behavior="isolated")
    plain = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    made.pre_tokenizer = cast(Any, pre_tokenizers.Sequence([pieces, plain]))
    made.decoder = cast(Any, decoders.ByteLevel())
    trainer = trainers.BpeTrainer(
        vocab_size=1000,
        show_progress=False,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    text = " ".join(["", *WORDS, SOUND, FAULTY, "case answer The Of", "so\n\nso\n\nso", "steps value"])
    made.train_from_iterator([text] * 3, trainer)
    made.add_tokens([AddedToken(marker, special=False, normalized=False) for marker in MARKERS])
    made.add_tokens([AddedToken(label, special=False, normalized=False) for label in ("Yes", "No")])
    return PreTrainedTokenizerFast(
        tokenizer_object=made, eos_token="<|im_end|>", pad_token="<|endoftext|>", chat_template=TEMPLATE
    )


@lru_cache(maxsize=1024)
def encoded(text: str) -> list[int]:
    """A search goes on with one chain many times, and the chains of one number are the same in all tests."""
    return cast("list[int]", tokenizer().backend_tokenizer.encode(text, add_special_tokens=False).ids)


@dataclass(frozen=True)
class Case:
    """What one chain comes to when nothing cuts it short."""

    thought: int
    """Tokens of its thought, at least."""
    answer: int
    """Tokens of its answer, about."""
    value: int
    right: bool = True


@dataclass
class Habits:
    """How chains are drawn: thoughts log-normal around `median`, right with probability `p`."""

    answer: int = 150
    p: float = 0.75
    median: int = 1500
    sigma: float = 0.7
    right: int = 7
    wrong: Sequence[int] = (3, 5, 11, 13)
    sure: Callable[[int], bool] | None = None
    """Which chains are right, by their number, in place of `p`."""

    def draw(self, number: int, seed: int) -> Case:
        chance = random.Random(f"{number}:{seed}")
        thought = min(8000, max(500, int(self.median * chance.lognormvariate(0, self.sigma))))
        right = chance.random() < self.p if self.sure is None else self.sure(number)
        return Case(thought, self.answer, self.right if right else chance.choice(self.wrong), right)


@dataclass
class RealShape(StandIn):
    """Whose chains are drawn by habits."""

    habits: Habits = field(default_factory=Habits)
    portion: int = 48
    """Tokens of an output at most."""
    context: int = 40960
    cases: list[Case] = field(default_factory=list[Case])
    prompts: int = 0

    def __post_init__(self) -> None:
        backend = cast(Tokenizer, tokenizer().backend_tokenizer)
        super().__init__(tokenizer(), self.context, backend.get_vocab_size(with_added_tokens=True))
        self.end_of_thought = cast(int, backend.token_to_id("</think>"))

    def begin(self, number: str, prompt: list[int], params: Any) -> Call:
        self.prompts += 1
        return _Portions(self, number, prompt, params)

    def ids(self, text: str) -> list[int]:
        return encoded(text)

    # -- what it writes -----------------------------------------------------------------------------------------------

    def goes_on(self, prompt: list[int], params: Any) -> tuple[list[int], Case | None]:
        """All that follows this prompt, up to the end of the turn, and whose it is."""
        text = self.tokenizer.decode(prompt, skip_special_tokens=False)
        written = text[text.rindex(HEADER) + len(HEADER) :]
        if JUDGE in text:
            return [*self.ids("Yes"), self.end_of_turn], None
        thought, closed, answer = written.partition("</think>")
        found = re.search(r"case (\d+)[.:]", written)
        if found is None:
            number = len(self.cases)
            self.cases.append(self.habits.draw(number, params.seed or 0))
        else:
            number = int(found[1])
        case = self.cases[number]
        ids: list[int] = []
        if not closed:
            ids += self._rest(self.thought(number), thought.removeprefix("<think>").lstrip("\n"))
            ids += [self.end_of_thought]
        shaped = params.structured_outputs is not None
        whole = self.shaped(number) if shaped else self.answer(number)
        ids += self._rest(whole if closed else "\n\n" * (not shaped) + whole, answer.lstrip("\n") if closed else "")
        return [*ids, self.end_of_turn], case

    def _rest(self, whole: str, begun: str) -> list[int]:
        """The tokens of `whole` behind what is written of it. What was put in its place by force stays."""
        return self.ids(whole[len(begun) :])

    def thought(self, number: int) -> str:
        case = self.cases[number]
        mark = SOUND if case.right else FAULTY
        words = itertools.cycle(WORDS)
        lines = [f"case {number}: {mark}"]
        # Words are one token, and so is what stands between lines.
        for _ in range(max(1, case.thought // (14 + len(mark.split())))):
            lines.append(f"{' '.join(itertools.islice(words, 12))} so {mark}")
        return "\n\n".join(lines) + "\n"

    def answer(self, number: int) -> str:
        case = self.cases[number]
        end = f"The answer is \\boxed{{{case.value}}}."
        filler = " ".join(itertools.islice(itertools.cycle(WORDS), max(0, case.answer - 25)))
        return end if case.answer < 25 else f"Of case {number}. {filler}. {end}"

    def shaped(self, number: int) -> str:
        case = self.cases[number]
        steps = list(range(max(1, case.answer // 4)))
        return json.dumps({"case": f"case {number}.", "steps": steps, "answer": case.value})


class _Portions(Reply):
    """Its outputs have equal sizes."""

    tail = 3

    def __init__(self, llm: RealShape, number: str, prompt: list[int], params: Any) -> None:
        ids, case = llm.goes_on(prompt, params)
        super().__init__(llm, number, ids, params, llm.portion)
        self.likelihood = -0.1 if case and case.right else -0.5


def engine(llm: RealShape) -> VllmEngine:
    """The real engine over it, as Qwen3."""
    return VllmEngine(llm, llm.get_tokenizer(), PROFILES["qwen3"], "qwen3")


def card(llm: RealShape) -> ModelCard:
    return engine(llm).card
