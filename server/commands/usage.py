"""`ponder usage`: what was used and what it cost, read from the ledger: a table for people, or CSV, JSON, FOCUS."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from typing import Any, TextIO

from ponder.metering.focus import COLUMNS, charges
from ponder.metering.report import SUMS, Question, may_group, sums
from ponder.metering.upkeep import readable
from ponder.server.commands.ledger import CannotDo, guarded, instant, the_ledger
from ponder.server.usage import as_csv, shown

SHOWN = ("requests", "prompt", "cached", "thinking", "answer", "discarded", "cost_usd")
"""Columns of the table for people."""


def run(options: argparse.Namespace, out: TextIO) -> int:
    """Writes the report; the exit status. Raises `CannotDo` and `WrongSettings`."""
    return guarded(_report, options, out)


def _report(options: argparse.Namespace, out: TextIO) -> None:
    groups = tuple(word for word in options.by.split(",") if word)
    for word in groups:
        if not may_group(word):
            raise CannotDo("--by takes key, model, strategy, verifier, day, hour, user and metadata.NAME")
    question = Question(options.start and instant(options.start), options.end and instant(options.end), groups)
    engine = readable(the_ledger(options.config))
    if options.format == "focus":
        out.write(as_csv(list(charges(engine, question)), COLUMNS))
        return
    lines = [shown(line) for line in sums(engine, question)]
    if options.format == "csv":
        out.write(as_csv(lines, [*groups, *SUMS, "cost_usd"]))
    elif options.format == "json":
        out.writelines(json.dumps(line) + "\n" for line in lines)
    else:
        out.write(table(lines, groups))


def table(lines: Sequence[Mapping[str, Any]], groups: Sequence[str]) -> str:
    """Lines under a head: words to the left, numbers to the right."""
    head = [*groups, *(name.removesuffix("_usd") + (" USD" if name == "cost_usd" else "") for name in SHOWN)]
    cells = [head]
    for line in lines:
        words = ["-" if line[word] is None else str(line[word]) for word in groups]
        numbers = [f"{line[name]:.6f}" if name == "cost_usd" else f"{line[name]:,}" for name in SHOWN]
        cells.append([*words, *numbers])
    widths = [max(len(row[i]) for row in cells) for i in range(len(head))]
    return "".join(
        "  ".join(
            cell.ljust(width) if i < len(groups) else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        + "\n"
        for row in cells
    )
