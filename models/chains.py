"""Prompts for the two models as token ids, and what is read back out of what the reasoner wrote."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from tokenizers import Tokenizer

from models.lessons import Lesson
from models.task import Problem, judge_lines, read_answer
from models.tokenizer import TAG, THINK, UNTHINK


def ask(tokenizer: Tokenizer, question: str) -> list[int]:
    """The prompt for a question as ids, ended where the reasoner opens its thought."""
    written = Lesson(tokenizer)
    written.turn("user", question)
    written.open("assistant")
    return written.ids


@dataclass(frozen=True)
class Chain:
    """One finished sample: the lines of its thought, its answer (None without one), its length in tokens."""

    lines: list[str]
    answer: int | None
    tokens: int

    def right(self, problem: Problem) -> bool:
        return self.answer == problem.answer

    def verdicts(self, problem: Problem) -> list[bool]:
        return judge_lines(problem, self.lines)


def read(tokenizer: Tokenizer, ids: Sequence[int]) -> Chain:
    """A sample as a chain, from its ids behind the opened `<think>`. A thought that was never closed has no answer."""
    close = thought_length(ids)
    lines = [line for line in tokenizer.decode(list(ids[:close])).split("\n") if line.strip()]
    return Chain(lines, read_answer(tokenizer.decode(list(ids[close + 1 :]))), len(ids))


def read_at_once(tokenizer: Tokenizer, ids: Sequence[int]) -> Chain:
    """A sample without a thought."""
    return Chain([], read_answer(tokenizer.decode(list(ids))), len(ids))


def thought_length(ids: Sequence[int]) -> int:
    """Tokens before the closing marker."""
    return ids.index(UNTHINK) if UNTHINK in ids else len(ids)


def tagged(tokenizer: Tokenizer, question: str, lines: Sequence[str]) -> list[int]:
    """What the PRM reads: the question, then each line of the thought with a step tag behind its line break."""
    written = Lesson(tokenizer, ask(tokenizer, question))
    written.put(THINK)
    written.put("\n")
    for line in lines:
        written.put(line + "\n")
        written.put(TAG)
    return written.ids


def vote(answers: Sequence[int | None], weights: Sequence[float] | None = None) -> int | None:
    """The answer with the most weight, the earliest on a tie; None when nobody answered."""
    total: Counter[int] = Counter()
    for answer, weight in zip(answers, weights or [1.0] * len(answers), strict=True):
        if answer is not None:
            total[answer] += weight  # type: ignore[assignment]
    return total.most_common(1)[0][0] if total else None
