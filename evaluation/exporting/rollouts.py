"""Questions with the chains that a model wrote for each: what `ponder export` makes training data of."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ponder.compute.answers.grouping import group
from ponder.evaluation.asking import judging
from ponder.evaluation.asking.questions import Question


@dataclass(frozen=True, slots=True)
class Rollout:
    """One chain that came to its end."""

    text: str
    """As the model writes it: its thought within its markers, then its answer."""
    answer: str
    """The visible part alone."""
    tokens: int
    """That the model generated for it."""
    score: float | None = None
    """A verifier's, in [0, 1]."""
    chosen: bool = True
    """Its request was answered with it. Of a source that does not tell, all are."""
    right: bool | None = None
    """None: nobody knows."""
    agreement: float | None = None
    """Share of the question's rollouts that answer the same; None: it holds no answer."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A question and its rollouts."""

    messages: tuple[Mapping[str, Any], ...]
    """A conversation as OpenAI writes one."""
    rollouts: tuple[Rollout, ...]
    known: Question | None = None
    """What is right, where that is known."""

    @property
    def last(self) -> str:
        """The last turn, of which `Truths` know the answer."""
        content = self.messages[-1].get("content") if self.messages else None
        return content if isinstance(content, str) else ""

    @property
    def key(self) -> str:
        """Equal for questions that are the same to the letter."""
        return json.dumps(self.messages, sort_keys=True)


class Truths:
    """What is right, by the questions of a file."""

    def __init__(self, questions: Sequence[Question] = ()) -> None:
        self._by_text = {question.text.strip(): question for question in questions}

    def of(self, text: str) -> Question | None:
        """The question of this text, or of its beginning where an instruction stands behind it as a paragraph."""
        text = text.strip()
        while text:
            if (found := self._by_text.get(text)) is not None:
                return found
            text = text.rpartition("\n\n")[0].rstrip()
        return None


def together(several: Sequence[Asked]) -> list[Asked]:
    """The same, in order of first appearance, with all rollouts of equal questions under one."""
    merged: dict[str, Asked] = {}
    for one in several:
        before = merged.get(one.key)
        merged[one.key] = one if before is None else replace(before, rollouts=before.rollouts + one.rollouts)
    return list(merged.values())


async def judged(asked: Asked, truths: Truths) -> Asked:
    """The same with what is right, as far as it is known, and how many agree. Answers are compared as votes compare
    them; programs run in the sandbox. Raises `EngineError` where that is wanted and there is none."""
    known = asked.known or truths.of(asked.last)
    groups = await group([one.answer for one in asked.rollouts])
    votes = Counter(number for number in groups if number is not None)
    verdicts: dict[str, bool] = {}
    rollouts: list[Rollout] = []
    for one, number in zip(asked.rollouts, groups, strict=True):
        right = one.right
        if known is not None:
            if one.answer not in verdicts:
                verdicts[one.answer] = (await judging.judge(known, one.answer)).right
            right = verdicts[one.answer]
        agreement = None if number is None else votes[number] / len(groups)
        rollouts.append(replace(one, right=right, agreement=agreement))
    return replace(asked, rollouts=tuple(rollouts), known=known)
