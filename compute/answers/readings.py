"""An answer, read: what it is in one notation, and its readings."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Final

from ponder.compute.answers import quantities, several, single
from ponder.compute.answers.algebraic import expression
from ponder.compute.answers.documents import canonical
from ponder.compute.answers.notation import plain
from ponder.compute.answers.numerals import decimal
from ponder.compute.answers.reading import Algebra, Reader, Reading, Readings, bare
from ponder.compute.answers.words import worded

LONGEST = 300
"""Characters of an answer that is read; a longer one is compared as it is written."""

READER: Final = Reader(
    (
        single.extremes,
        single.moment,
        single.literal,
        single.choice,
        single.formula,
        single.matrix,
        single.order,
        single.ordinal,
        single.based,
        several.relations,
        quantities.compound,
        several.listed,
        several.equations,
        several.bracketed,
        single.ratio,
        quantities.span,
        several.either_sign,
        quantities.quantity,
        expression,
    ),
    worded,
)
"""What is more special goes first."""


@dataclass(frozen=True, slots=True)
class Read:
    """What was found in an answer."""

    text: str
    """In one notation."""
    readings: Readings
    significant: int = 0
    """Significant digits of a decimal; 0 of what is none."""
    algebra: bool = False
    """An expression that only computer algebra may know."""


def read(answer: str) -> Read:
    """The readings of an answer, the most literal first; at least one."""
    if len(answer) > LONGEST:
        return Read(answer, (Reading(("text", " ".join(answer.split()))),))
    if "\n" in answer.strip():
        lines = "\n".join(line.rstrip() for line in answer.strip().split("\n"))
        return Read(lines, (Reading(("text", lines)),))
    if (document := _document(answer)) is not None:
        return Read(document, (Reading(("document", document)),))
    text = bare(plain(answer))
    if (document := _document(text)) is not None:
        return Read(document, (Reading(("document", document)),))
    try:
        found = READER.readings(text)
    except Algebra:
        return Read(text, (Reading(("expression", text.replace(" ", ""))),), algebra=True)
    literal = decimal(text)
    return Read(text, found, literal[1] if literal else 0)


def _document(text: str) -> str | None:
    """Canonical JSON of an object, or of a list of more than numbers."""
    text = text.strip()
    if text[:1] not in ("{", "[") or '"' not in text:
        return None
    try:
        return canonical(json.loads(text))
    except (ValueError, RecursionError):
        return None
