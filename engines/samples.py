"""Recorded samples of questions, read from text: what the replay engine draws from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from ponder.compute.answers.grouping import group
from ponder.compute.answers.phrases import asks_for_a_number
from ponder.engines.pools import RecordedQuestion, RecordedSample, question_of, together

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
    likelihood: tuple[float, ...] = ()
    """Mean natural-log probabilities of consecutive windows of its tokens, where they were recorded."""
    window: int = 1
    """Tokens of each of these windows; the last may be shorter."""
    probes: tuple[tuple[int, int | None], ...] = ()
    """(hidden tokens so far, what it answered when its thought was closed there), in rising order."""


@dataclass(frozen=True, slots=True)
class Question:
    """A question, its recorded samples, and which answers are right."""

    name: str
    right: frozenset[int]
    samples: tuple[Sample, ...]
    text: str | None = None
    """As it was asked."""
    gold: str | None = None
    """The right answer as text."""
    prompt_tokens: int | None = None
    """How long it was for the model; None: not known."""


async def read(pool: str, step_tokens: int = 64) -> list[Question]:
    """The questions of a pool from its text, one JSON object a line (`docs/pools.md`). Raises `ValueError` with the
    number of a line that is none of

    - the general form, which has a `version` (`ponder.engines.pools`);
    - `{"id", "gold", "samples": [[answer, tokens], ...]}`, where "" is no answer;
    - `{"id", "gold_groups", "samples": [{"group", "tokens", "step_scores"}, ...]}`, where equal answers are of one
      group and null is none. Without `tokens` a sample is taken to have `step_tokens` for each step;
    - a call that `ponder.engines.recorder` wrote down. Each request is a question, behind the others; its samples are
      the chains that came to their end. Which answers are right is not known.
    """
    questions: list[Question] = []
    general: dict[str, RecordedQuestion] = {}
    requests: dict[str, dict[tuple[int, ...], _Call]] = {}
    for number, line in enumerate(pool.split("\n"), 1):
        if not line.strip():
            continue
        try:
            told: Any = json.loads(line)
            if not isinstance(told, dict):
                raise TypeError("it is no JSON object")
            told = cast("dict[str, Any]", told)
            if "version" in told:
                question = question_of(told)
                before = general.get(question.id)
                general[question.id] = together([before, question])[0] if before else question
            elif "path" in told:
                requests.setdefault(told["request"], {})[tuple(told["path"])] = _Call(
                    told["purpose"], told["hidden"], told["visible"], told["ending"], told["text"]
                )
            else:
                questions.append(await _question(told, step_tokens))
        except json.JSONDecodeError as error:
            raise ValueError(f"line {number} of the pool: it is no JSON ({error.msg}, column {error.colno})") from None
        except KeyError as error:
            raise ValueError(f"line {number} of the pool: it has no field {error}") from None
        except RecursionError:
            raise ValueError(f"line {number} of the pool: it is nested too deeply") from None
        except (AttributeError, TypeError, ValueError) as error:
            raise ValueError(f"line {number} of the pool: {error}") from None
    questions += [await _general(question) for question in general.values()]
    return questions + [await _recorded(request, calls) for request, calls in requests.items()]


async def _general(question: RecordedQuestion) -> Question:
    """A question of the general form. Its answers are compared as votes compare them."""
    samples = question.samples
    told = [sample.text or "" if sample.answer is None else _boxed(sample.answer) for sample in samples]
    probed = sorted({answer for sample in samples for _, answer in sample.probes if answer})
    numeric = None if question.question is None else asks_for_a_number(question.question)
    texts = [_boxed(question.answer or ""), *told, *map(_boxed, probed)]
    gold, *groups = await group(texts, numeric=numeric)
    numbers: dict[object, int] = {}

    def number(answer: object) -> int | None:
        return None if answer is None else numbers.setdefault(answer, len(numbers))

    right = {number(gold)} - {None}
    answers: list[int | None] = []
    for sample, found in zip(samples, groups, strict=False):
        if sample.right is None or (found is not None and sample.right == (found == gold)):
            answers.append(number(found))
        else:
            # The same text may be right where the same answer is not: programs are told apart by their tests.
            answers.append(number((sample.text if found is None else found, sample.right)))
            right |= {answers[-1]} if sample.right else set()
    at = {answer: number(found) for answer, found in zip(probed, groups[len(samples) :], strict=True)}
    return Question(
        question.id,
        frozenset(one for one in right if one is not None),
        tuple(_sample(s, answer, at, question) for s, answer in zip(samples, answers, strict=True)),
        question.question,
        question.answer,
        question.prompt_tokens,
    )


def _sample(
    sample: RecordedSample, answer: int | None, probed: Mapping[str, int | None], question: RecordedQuestion
) -> Sample:
    return Sample(
        answer,
        max(2, sample.tokens),
        sample.step_scores,
        sample.text,
        sample.visible,
        likelihood=sample.likelihood,
        window=question.likelihood_window or 1,
        probes=tuple((tokens, probed.get(told or "")) for tokens, told in sample.probes),
    )


def _boxed(answer: str) -> str:
    return f"\\boxed{{{answer}}}" if answer else ""


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
            Sample(s["group"], _count(s["tokens"] if "tokens" in s else step_tokens * len(steps)), steps)
            for s, steps in scores
        )
        return Question(str(line["id"]), frozenset(line["gold_groups"]), samples)
    answers = sorted({answer for answer, _ in line["samples"] if answer})
    gold, *groups = await group([_boxed(answer) for answer in (line["gold"], *answers)])
    number = dict(zip(answers, groups, strict=True))
    samples = tuple(Sample(number.get(answer), _count(tokens)) for answer, tokens in line["samples"])
    return Question(str(line["id"]), frozenset(() if gold is None else (gold,)), samples, gold=str(line["gold"]))


def _count(tokens: object) -> int:
    """Of a sample's tokens, one of which is its answer's."""
    if not isinstance(tokens, int) or isinstance(tokens, bool):
        raise TypeError(f"{tokens!r} is no number of tokens")
    return max(2, tokens)
