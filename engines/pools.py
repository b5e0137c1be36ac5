"""A pool of recorded samples as lines of JSON: what `ponder record` writes and replays read. `docs/pools.md` says what
each field means."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Annotated, Any, Literal

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, ValidationError, model_validator

VERSION = 1


class _Line(BaseModel):
    """Fields that are not known are passed over, so that a pool may tell more than is read."""

    model_config = ConfigDict(extra="ignore", frozen=True, coerce_numbers_to_str=True, allow_inf_nan=False)


class RecordedSample(_Line):
    """One chain that came to its end."""

    answer: str | None = None
    """What it finally answers. Left out, it is read off `text`; empty is none."""
    tokens: int = Field(ge=1)
    """All that the model generated for it."""
    visible: int | None = Field(default=None, ge=0)
    """Of them, those of the visible answer."""
    text: str | None = None
    """The visible answer as it was written."""
    right: bool | None = None
    """Whether it was found right, where there is no answer to compare with (a program and its tests)."""
    likelihood: tuple[float, ...] = ()
    """Mean natural-log probabilities of consecutive windows of its tokens; the last may be shorter."""
    step_scores: tuple[Annotated[float, Field(ge=0, le=1)], ...] = ()
    """The scores a process reward model gave the steps of its thought, which are taken to be equally long."""
    probes: tuple[tuple[Annotated[int, Field(ge=0)], str | None], ...] = ()
    """(hidden tokens so far, what the chain answered when its thought was closed there), in rising order; null or
    empty is no answer."""

    @model_validator(mode="after")
    def _possible(self) -> RecordedSample:
        if self.answer is None and self.text is None and self.right is None:
            raise ValueError("a sample wants an answer or a text")
        if self.visible is not None and self.visible > self.tokens:
            raise ValueError(f"of {self.tokens} tokens {self.visible} cannot be visible")
        places = [tokens for tokens, _ in self.probes]
        if places != sorted(set(places)):
            raise ValueError("probes have to be in rising order")
        return self


class RecordedQuestion(_Line):
    """A question and samples of it. Several lines with one `id` are one question, whose samples are together."""

    version: Literal[1] = VERSION
    id: str
    question: str | None = None
    answer: str | None = Field(default=None, validation_alias=AliasChoices("answer", "gold"))
    """The right one. Left out, samples say of themselves whether they are right, or nobody knows."""
    prompt_tokens: int | None = Field(default=None, ge=1)
    """Of the question as the model reads it."""
    likelihood_window: int | None = Field(default=None, ge=1)
    """Tokens of each window of `likelihood`."""
    samples: tuple[RecordedSample, ...] = ()

    @model_validator(mode="after")
    def _possible(self) -> RecordedQuestion:
        if self.likelihood_window is None and any(sample.likelihood for sample in self.samples):
            raise ValueError("likelihoods want likelihood_window, the tokens of each")
        return self


def line(question: RecordedQuestion) -> str:
    """A line of a pool, with its end."""
    return json.dumps(told(question), ensure_ascii=False) + "\n"


def told(question: RecordedQuestion) -> dict[str, Any]:
    """What a line says as JSON. What was not recorded is left out."""
    return {"version": VERSION, **question.model_dump(mode="json", exclude_defaults=True, exclude={"version"})}


def question_of(line: Any) -> RecordedQuestion:
    """A question from the JSON of a line. Raises `ValueError`, which says what is wrong and where in the line."""
    try:
        return RecordedQuestion.model_validate(line)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))
        what = first["msg"].removeprefix("Value error, ")
        raise ValueError(f"{where}: {what}" if where else what) from None


ONCE = ("question", "answer", "prompt_tokens", "likelihood_window")
"""Fields of a question that one of its lines has to say; the others may."""


def together(questions: Iterable[RecordedQuestion]) -> list[RecordedQuestion]:
    """The same, in order of first appearance, with all lines of a question as one. Raises `ValueError` where lines of
    one question contradict each other."""
    merged: dict[str, RecordedQuestion] = {}
    for question in questions:
        before = merged.get(question.id)
        if before is None:
            merged[question.id] = question
            continue
        known: dict[str, Any] = {}
        for field in ONCE:
            values = [v for one in (before, question) if (v := getattr(one, field)) is not None]
            if len(values) == 2 and values[0] != values[1]:
                raise ValueError(f"question {question.id} has another {field} on an earlier line")
            known[field] = values[0] if values else None
        merged[question.id] = before.model_copy(update={**known, "samples": before.samples + question.samples})
    return list(merged.values())
