"""`ponder answers`: what texts finally answer and which of them answer the same, so that somebody can see why they did
or did not vote together."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable
from typing import Any, TextIO, cast

from ponder.compute.answers.extraction import final_answer
from ponder.compute.answers.grouping import group_answers
from ponder.compute.answers.phrases import asks_for_a_number

FIELDS = ("texts", "question")


class WrongLine(Exception):
    """A line that is none of ours; the message says what it should be, and does not quote it."""


def tell(lines: Iterable[str], out: TextIO, errors: TextIO) -> int:
    """Writes one line of JSON for each line of JSON and returns the exit status, 1 where a line was wrong.

    `{"texts": [...]}`, with `"question": "..."` where it is known what was asked, becomes `{"answers": [...],
    "groups": [...]}`. A text without an answer has null in both. What is wrong with a line is said in `errors`, with
    its number, and the others are read on.
    """
    return asyncio.run(_tell(lines, out, errors))


async def _tell(lines: Iterable[str], out: TextIO, errors: TextIO) -> int:
    status = 0
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            told = await grouped(line)
        except WrongLine as wrong:
            errors.write(f"ponder: line {number}: {wrong}\n")
            status = 1
        else:
            out.write(_written(told) + "\n")
            out.flush()
    return status


async def grouped(line: str) -> dict[str, Any]:
    """The answers and groups of one line. Raises `WrongLine`."""
    texts, question = _read(line)
    numeric = None if question is None else asks_for_a_number(question)
    answers = [final_answer(text, numeric) for text in texts]
    return {"answers": answers, "groups": await group_answers(answers)}


def _written(told: dict[str, Any]) -> str:
    text = json.dumps(told, ensure_ascii=False)
    # Half of a surrogate pair cannot be written as it is.
    return text if text.isascii() or text == text.encode("utf-8", "replace").decode() else json.dumps(told)


def _read(line: str) -> tuple[list[str], str | None]:
    try:
        found: Any = json.loads(line)
    except json.JSONDecodeError as error:
        raise WrongLine(f"is no JSON ({error.msg} at character {error.pos + 1})") from None
    except RecursionError:
        raise WrongLine("is no JSON that can be read: it is nested too deeply") from None
    if not isinstance(found, dict):
        raise WrongLine('is no object; write {"texts": ["...", "..."]}')
    fields = cast("dict[str, Any]", found)
    if "texts" not in fields:
        raise WrongLine('has no field "texts"; write {"texts": ["...", "..."]}')
    if unknown := len(fields.keys() - set(FIELDS)):
        raise WrongLine(f"has {unknown} unknown field{'s' * (unknown > 1)}; there are {' and '.join(FIELDS)}")
    texts, question = fields["texts"], fields.get("question")
    if not isinstance(texts, list):
        raise WrongLine('"texts" is no list of strings')
    for place, text in enumerate(cast("list[Any]", texts)):
        if not isinstance(text, str):
            raise WrongLine(f'"texts" has something else than a string at place {place}, counted from 0')
    if question is not None and not isinstance(question, str):
        raise WrongLine('"question" is no string')
    return cast("list[str]", texts), question
