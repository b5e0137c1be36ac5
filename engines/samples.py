"""Recorded samples of questions, read from text: what the replay engine draws from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ponder.compute.answers.grouping import group

CHAINS = ("sample", "stream", "extend", "answer")
"""Purposes of calls that answer the caller; the others are questions of a verifier."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One recorded chain. Equal answers to one question have equal numbers; None is no answer."""

    answer: int | None
    tokens: int
    steps: tuple[float, ...] = ()
    """The scores a process reward model gave its steps, where they were recorded."""
    text: str | None = None
    """The visible answer as it was written; None: a sentence that says its number."""
    visible: int | None = None
    """Of the tokens, those of the visible answer; None: not known."""
    path: tuple[int, ...] = ()
    """Its place in the tree of the request it was recorded from (`CallIdentity.path`)."""


@dataclass(frozen=True, slots=True)
class Question:
    """A question, its recorded samples, and which answers are right."""

    name: str
    right: frozenset[int]
    samples: tuple[Sample, ...]


async def read(pool: str, step_tokens: int = 64) -> list[Question]:
    """The questions of a pool from its text, one JSON object a line. Raises `ValueError` for a line that is neither of

    - `{"id", "gold", "samples": [[answer, tokens], ...]}`, where "" is no answer;
    - `{"id", "gold_groups", "samples": [{"group", "tokens", "step_scores"}, ...]}`, where equal answers are of one
      group and null is none. Without `tokens` a sample is taken to have `step_tokens` for each step;
    - a call that `ponder.engines.recorder` wrote down. Each request is a question, behind the others; its samples are
      the chains that came to their end. Which answers are right is not known.
    """
    questions: list[Question] = []
    requests: dict[str, dict[tuple[int, ...], _Call]] = {}
    for number, line in enumerate(pool.split("\n"), 1):
        try:
            if not line.strip():
                continue
            told = json.loads(line)
            if "path" in told:
                requests.setdefault(told["request"], {})[tuple(told["path"])] = _Call(
                    told["purpose"], told["hidden"], told["visible"], told["ending"], told["text"]
                )
            else:
                questions.append(await _question(told, step_tokens))
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"line {number} is no question of a pool ({error!r})") from None
    return questions + [await _recorded(request, calls) for request, calls in requests.items()]


@dataclass(frozen=True, slots=True)
class _Call:
    """What came of a call that was written down."""

    purpose: str
    hidden: int
    visible: int
    ending: str
    text: str


async def _recorded(request: str, calls: Mapping[tuple[int, ...], _Call]) -> Question:
    """A request whose calls were written down. A chain has the tokens of those that it continues, too."""
    whole = {
        path: call
        for path, call in sorted(calls.items())
        if call.purpose in CHAINS and call.ending in ("finished", "stop")
    }
    answers = await group([call.text for call in whole.values()])
    samples: list[Sample] = []
    for (path, call), answer in zip(whole.items(), answers, strict=True):
        line = [calls[path[:n]] for n in range(2, len(path) + 1) if path[:n] in calls]
        visible = sum(one.visible for one in line)
        tokens = visible + sum(one.hidden for one in line)
        samples.append(Sample(answer, tokens, (), call.text, visible, path))
    return Question(request, frozenset(), tuple(samples))


async def _question(line: dict[str, Any], step_tokens: int) -> Question:
    if "gold_groups" in line:
        scores = [(s, tuple(s.get("step_scores", ()))) for s in line["samples"]]
        samples = tuple(
            Sample(s["group"], max(2, s["tokens"] if "tokens" in s else step_tokens * len(steps)), steps)
            for s, steps in scores
        )
        return Question(str(line["id"]), frozenset(line["gold_groups"]), samples)
    answers = sorted({answer for answer, _ in line["samples"] if answer})
    gold, *groups = await group([f"\\boxed{{{answer}}}" for answer in (line["gold"], *answers)])
    number = dict(zip(answers, groups, strict=True))
    samples = tuple(Sample(number.get(answer), max(2, tokens)) for answer, tokens in line["samples"])
    return Question(str(line["id"]), frozenset(() if gold is None else (gold,)), samples)
