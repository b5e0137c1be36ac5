"""A comparison as one HTML page that asks nobody for anything: table, picture, and every answer to every question."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from ponder.evaluation.asking.questions import Question
from ponder.evaluation.comparing.compare import Answered, Comparison
from ponder.evaluation.comparing.plot import drawn
from ponder.evaluation.comparing.summary import HEAD, MORE, Row, cells

SHOWN = 4000
"""Characters of a text that the page shows; the journal has all."""
SHORT = 60
"""Characters of what an answer is called."""


def page(
    title: str, comparison: Comparison, known: Mapping[tuple[str, str, int], Answered], table: Sequence[Row]
) -> str:
    """The page. Whatever questions, answers and errors hold is text in it and nothing else."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined
    )
    return environment.get_template("report.html.jinja").render(
        title=title,
        facts=list(_facts(comparison, known)),
        light=_as_data(drawn(table, "svg")),
        dark=_as_data(drawn(table, "svg", dark=True)),
        head=(*HEAD, *MORE),
        rows=[cells(row) for row in table],
        questions=[_question(one, comparison, known) for one in comparison.questions.all],
    )


def _facts(comparison: Comparison, known: Mapping[tuple[str, str, int], Answered]) -> Iterator[tuple[str, str]]:
    yield "Model", comparison.model
    yield "Questions", f"{len(comparison.questions.all)} ({comparison.questions.form})"
    yield "Answers to each in each plan", str(comparison.repeat)
    yield "Seed", "none" if comparison.seed is None else str(comparison.seed)
    if comparison.verifier is not None:
        yield "Verifier", str(comparison.verifier["name"])
    if comparison.instruction is not None:
        yield "Behind each question", comparison.instruction
    if known:
        yield "From", min(one.at for one in known.values())
        yield "To", max(one.at for one in known.values())


def _question(
    question: Question, comparison: Comparison, known: Mapping[tuple[str, str, int], Answered]
) -> dict[str, Any]:
    keys = [(plan.name, question.id, draw) for plan in comparison.plans for draw in range(comparison.repeat)]
    answers = [known[key] for key in keys if key in known]
    return {
        "id": question.id,
        "text": _cut(question.text),
        "expected": _cut(question.answer),
        "right": sum(one.right for one in answers),
        "answers": [
            {**one.model_dump(), "text": _cut(one.text), "short": _cut(one.answer or one.text or "nothing", SHORT)}
            for one in answers
        ],
    }


def _cut(text: str, most: int = SHOWN) -> str:
    return text if len(text) <= most else f"{text[:most]} ..."


def _as_data(picture: bytes) -> str:
    return f"data:image/svg+xml;base64,{b64encode(picture).decode()}"
