"""Files of recorded samples (`docs/pools.md`) as a command is told them: folders and files, all questions or some."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from ponder.engines.samples import Question, read


class WrongPool(ValueError):
    """A file that cannot be read or is no pool, or a folder without one; the message names it."""


def files(paths: Sequence[Path]) -> list[Path]:
    """Those named and, of a folder, every `*.jsonl` in it; each once. Raises `WrongPool` for a folder without one."""
    found: list[Path] = []
    for path in paths:
        within = sorted(path.glob("*.jsonl")) if path.is_dir() else [path]
        if not within:
            raise WrongPool(f"{path}: there is no *.jsonl in this folder")
        found += within
    return list(dict.fromkeys(found))


@dataclass(frozen=True, slots=True)
class Pool:
    """A file of recorded samples, or some of its questions."""

    file: Path
    most: int | None = None
    """Questions at most, drawn by `seed`."""
    seed: int = 0

    @property
    def name(self) -> str:
        return self.file.stem

    def questions(self) -> Sequence[Question]:
        """Raises `WrongPool`, also where of no question it is known which answers are right."""
        return _questions(self)


@cache
def _questions(pool: Pool) -> Sequence[Question]:
    try:
        questions = asyncio.run(read(pool.file.read_text()))
    except (OSError, ValueError) as error:
        raise WrongPool(f"{pool.file}: {error}") from None
    questions = [question for question in questions if question.samples]
    if not questions:
        raise WrongPool(f"{pool.file}: there is no question with samples")
    if not any(question.right for question in questions):
        raise WrongPool(f"{pool.file}: of no question it is known which answers are right")
    if pool.most is None or pool.most >= len(questions):
        return questions
    return random.Random(pool.seed + 1).sample(questions, pool.most)  # noqa: S311 (no secret)
