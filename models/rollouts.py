"""Stage four: step labels by Monte-Carlo rollouts of the reasoner, checked against the generator's truth.

Math-Shepherd (Wang et al., 2024): a step is good when a rollout from behind it can still reach the right answer. All
samples of a question that pass through the same lines are rollouts of their common prefix, so most prefixes are
estimated for nothing; the few rare ones are topped up to LEAST rollouts. A label counts only where the rollouts and the
generator agree: a rollout may mend a wrong step (`Wait, ...`) or fail behind a right one.
"""

from __future__ import annotations

import json
import random
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from ponder.models import tokenizer as words
from ponder.models.chains import Chain, read
from ponder.models.task import Problem, make

QUESTIONS, SAMPLES, LEAST = 2000, 8, 2
ROLLOUTS = words.WORK / "rollouts.jsonl"


@dataclass(frozen=True)
class Judged:
    """A sampled chain with, for each line: the share of rollouts that ended right, and the generator's verdict. And its
    answer, which is the end of a rollout itself: right or not."""

    question: str
    lines: list[str]
    values: list[float]
    truths: list[bool]
    answer: int | None
    right: bool

    @property
    def verdicts(self) -> list[bool]:
        """The truth about each line, and about the answer where there is one."""
        return self.truths if self.answer is None else [*self.truths, self.right]

    @property
    def labels(self) -> list[int | None]:
        """For each line, and for the answer where there is one: 1 good, 0 bad, None where rollouts and truth
        disagree."""
        verdicts = zip(self.values, self.truths, strict=True)
        labels = [int(truth) if (value > 0) == truth else None for value, truth in verdicts]
        return labels if self.answer is None else [*labels, int(self.right)]


def build(reasoner: Path, seed: int = 11) -> None:
    """Writes `work/rollouts.jsonl`, one judged chain a line; done already is done."""
    if ROLLOUTS.exists():
        return
    from ponder.models.sample import Ask, Writer, question

    rng = random.Random(seed)
    problems = [make(rng, "train", rng.randint(2, 12)) for _ in range(QUESTIONS)]
    tokenizer = words.load(reasoner)
    writer = Writer(reasoner)
    prompts = [question(problem.question) for problem in problems]
    samples = writer.write([Ask(prompt) for prompt in prompts for _ in range(SAMPLES)], seed=seed)
    chains = [(at // SAMPLES, read(tokenizer, ids)) for at, ids in enumerate(samples)]

    endings: dict[tuple[int, tuple[str, ...]], list[bool]] = defaultdict(list)
    for which, chain in chains:
        _credit(endings, which, chain, chain.right(problems[which]))
    rare = [prefix for prefix, seen in endings.items() for _ in range(LEAST - len(seen))]
    starts = [Ask(prompts[which], tuple(tokenizer.encode("\n".join(lines) + "\n").ids)) for which, lines in rare]
    for (which, lines), ids in zip(rare, writer.write(starts, seed=seed + 1), strict=True):
        endings[which, lines].append(read(tokenizer, ids).right(problems[which]))
    writer.close()

    partial = ROLLOUTS.with_suffix(".partial")
    with partial.open("w") as out:
        for which, chain in chains:
            out.write(json.dumps(vars(_judge(problems[which], which, chain, endings))) + "\n")
    partial.replace(ROLLOUTS)


def _credit(endings: dict, which: int, chain: Chain, right: bool) -> None:
    for end in range(1, len(chain.lines) + 1):
        endings[which, tuple(chain.lines[:end])].append(right)


def _judge(problem: Problem, which: int, chain: Chain, endings: dict) -> Judged:
    seen = [endings[which, tuple(chain.lines[:end])] for end in range(1, len(chain.lines) + 1)]
    values = [sum(rights) / len(rights) for rights in seen]
    return Judged(problem.question, chain.lines, values, chain.verdicts(problem), chain.answer, chain.right(problem))


def load() -> list[Judged]:
    with ROLLOUTS.open() as lines:
        return [Judged(**json.loads(line)) for line in lines]


def agreement(judged: list[Judged]) -> float:
    """The share of steps where rollouts and truth agree."""
    labels = [label for chain in judged for label in chain.labels[: len(chain.lines)]]
    return sum(label is not None for label in labels) / len(labels)
