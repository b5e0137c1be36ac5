"""Prompts for the two models as token ids, and what is read back out of what the reasoner wrote."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from tokenizers import Tokenizer

from ponder.models.lessons import Lesson, boxed
from ponder.models.task import Problem, judge_lines, read_answer
from ponder.models.tokenizer import THINK, UNTHINK


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


def laid_out(
    tokenizer: Tokenizer, question: str, lines: Sequence[str], answer: int | None = None
) -> tuple[list[int], list[int]]:
    """What the PRM reads, as the reasoner wrote it: the question, the lines of the thought and, of a finished chain,
    the answer. With it the places where verdicts are read: the line breaks, and the answer's last token."""
    written = Lesson(tokenizer, ask(tokenizer, question))
    written.put(THINK)
    written.put("\n")
    places: list[int] = []
    for line in lines:
        written.put(line + "\n")
        places.append(len(written.ids) - 1)
    if answer is not None:
        written.close_thought()
        written.put(boxed(answer))
        places.append(len(written.ids) - 1)
    return written.ids, places


def vote(answers: Sequence[int | None], weights: Sequence[float] | None = None) -> int | None:
    """The answer with the most weight, the earliest on a tie; None when nobody answered."""
    total: Counter[int] = Counter()
    for answer, weight in zip(answers, weights or [1.0] * len(answers), strict=True):
        if answer is not None:
            total[answer] += weight  # type: ignore[assignment]
    return total.most_common(1)[0][0] if total else None
