"""Writes the tables of `docs/models.md`: which families of models work, found and proven as the tests do it.

    python -m tools.models_table

The tables stand between comments; what is around them is written by hand. That of the templates tried needs the folder
that `TEST_TEMPLATES` names, and stays as it is where there is none.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from ponder.compute.errors import PonderError
from ponder.engines.model import Model
from ponder.engines.profiles import Profile, find
from ponder.engines.proving import ANSWER, THOUGHT, proofs_of, written
from ponder.engines.tools import FORMATS, detect
from ponder.server.commands.doctor_models import switching
from tests.engines.family_models import Family, families, tokenizer
from tests.engines.parser_families import ROWS
from tests.engines.parser_tools import CALLS
from tools.written_page import placed, write

PAGE = Path(__file__).parents[1] / "docs" / "models.md"
TRIED = "TEST_TEMPLATES"


def outcome(family: Family) -> tuple[Profile, str]:
    """The profile that is found for a family, and what is wrong with it; "" where nothing is."""
    made = tokenizer(family)
    profile = find(family.model, family.config, family.chat_template, made)
    try:
        model = Model(made, profile, str(family), context=4096, vocabulary_size=len(made))
        failed = [proof.words for proof in proofs_of(model, made) if proof.ok is False]
        failed += _as_written(model, family)
    except PonderError as error:
        failed = [error.message]
    return profile, "; ".join(failed)


def _as_written(model: Model, family: Family) -> Iterator[str]:
    """A thought and an answer as the family's facts have them are told apart."""
    if model.profile.thinks != family.thinks:
        yield f"it is taken for a model that {'thinks' if model.profile.thinks else 'answers at once'}"
    if not family.thinks:
        return
    marked = model.prompts.with_markers
    ids = [*marked(THOUGHT), *marked(family.thought_ends), *marked(ANSWER + family.answer_wrapped_in[1])]
    text, hidden = written(model, ids, thinking=len(ids) + 9, portion=3)
    if text.strip() != ANSWER or THOUGHT not in hidden:
        yield "its thought and its answer are not told apart"


def parsers() -> Iterator[str]:
    """A row for each reasoning parser of vLLM's."""
    yield from _head("reasoning parser of vLLM", "models", "a thought", "switched", "")
    for row in ROWS:
        if row.family is None:
            yield _line(f"`{row.parser}`", row.models, "", "", f"refused: {row.note}")
            continue
        profile, wrong = outcome(row.family)
        told = f"refused: {wrong}" if wrong else f"partly: {row.note}" if row.note else "works"
        yield _line(f"`{row.parser}`", row.models, thought(profile), switching(profile), told)


def calls() -> Iterator[str]:
    """A row for each tool parser of vLLM's."""
    yield from _head("tool parser of vLLM", "format here", "")
    for parser, (name, note) in CALLS.items():
        known = name in FORMATS
        told = f"refused: {note}" if not known else f"partly: {note}" if note else "works"
        yield _line(f"`{parser}`", f"`{name}`" if known else "", told)


def tried(folder: Path) -> Iterator[str]:
    """A row for each real template."""
    yield from _head("model", "thinks", "a thought", "switched", "calls of tools", "")
    for family in families(folder):
        profile, wrong = outcome(family)
        form = detect(family.chat_template, (*family.special_tokens, *family.added_tokens), family.model)
        thinks = "yes" if profile.thinks else "no"
        how = (thought(profile), switching(profile)) if profile.thinks else ("", "")
        yield _line(family.model, thinks, *how, f"`{form}`" if form else "as text", wrong or "works")


def thought(profile: Profile) -> str:
    """How a thought begins and ends."""
    return "channels" if profile.channels else f"{_code(profile.start)} {_code(profile.end)}"


def _code(text: str) -> str:
    return f"`{text}`".replace("|", "\\|")


def _head(*names: str) -> Iterator[str]:
    yield _line(*names)
    yield _line(*("---" for _ in names))


def _line(*cells: str) -> str:
    return "| " + " | ".join(re.sub(r"(?<!\\)\|", r"\\|", cell) for cell in cells) + " |"


def tabled(page: str, name: str, lines: Iterable[str]) -> str:
    """The page, with these lines as the table of that name."""
    return placed(page, PAGE, f"<!-- table: {name} -->\n", f"<!-- end: {name} -->", lines)


def made(page: str) -> str:
    """The page as it is to be."""
    page = tabled(tabled(page, "reasoning", parsers()), "calls", calls())
    folder = os.environ.get(TRIED)
    return tabled(page, "tried", tried(Path(folder))) if folder else page


if __name__ == "__main__":
    sys.exit(write(PAGE, made, sys.argv[1:]))
