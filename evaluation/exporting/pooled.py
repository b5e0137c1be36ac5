"""Rollouts of recorded pools. A pool says how long a chain has thought and not what: its rollouts are answers."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from ponder.compute.answers.phrases import asks_for_a_number
from ponder.engines.pools import RecordedQuestion, question_of
from ponder.engines.pools import together as as_one
from ponder.evaluation.asking.questions import Expected, Question
from ponder.evaluation.exporting.rollouts import Asked, Rollout, together


def from_pools(paths: Sequence[Path], left_out: Counter[str]) -> list[Asked]:
    """The questions of pools. What cannot be used is counted in `left_out`. Raises `ValueError` with the line that is
    none of a pool, `OSError` for a file that cannot be read."""
    return together([one for path in paths for question in _read(path) for one in _asked(question, left_out)])


def _read(path: Path) -> list[RecordedQuestion]:
    questions: list[RecordedQuestion] = []
    for number, line in enumerate(path.read_text("utf-8").split("\n"), 1):
        if not line.strip():
            continue
        try:
            questions.append(question_of(json.loads(line)))
        except RecursionError:
            raise ValueError(f"{path}, line {number}: it is nested too deeply") from None
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: {error}") from None
    return as_one(questions)


def _asked(question: RecordedQuestion, left_out: Counter[str]) -> list[Asked]:
    if question.question is None:
        left_out["questions without their words"] += 1
        return []
    messages = ({"role": "user", "content": question.question},)
    known: Question | None = None
    if question.answer is not None:
        known = Question(question.id, messages, Expected(question.answer, asks_for_a_number(question.question)))
    rollouts: list[Rollout] = []
    for sample in question.samples:
        if not sample.text:
            left_out["samples without text"] += 1
            continue
        score = sample.step_scores[-1] if sample.step_scores else None
        rollouts.append(Rollout(sample.text, sample.text, sample.tokens, score, right=sample.right))
    return [Asked(messages, tuple(rollouts), known)]
