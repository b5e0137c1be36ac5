"""What a thinking budget buys, in two and a half minutes on two cores: `make demo`.

    python -m bench.demo

Starts a server with the demo reasoner and its reward model, asks it questions of the demo task's test side at rising
budgets (`ponder compare`), and draws accuracy against tokens for `auto` beside one chain: on the terminal and as a
picture. The server is stopped in the end.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import os
import random
import shutil
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from bench.machine import ROOT, free_port, ponder, started
from ponder.models.task import make

OUT = ROOT / "build" / "demo"
STRATEGIES = ("direct", "auto")
BUDGETS = (64, 128, 256, 512, 1024)
WIDE, HIGH = 60, 14
"""Characters of the chart."""

Point = tuple[str, float, float]
"""A strategy, tokens, percent."""


def questions(path: Path, count: int, seed: int) -> None:
    """A file of questions of 2 to 10 steps that no training has seen."""
    chance = random.Random(seed)
    problems = [make(chance, "test", 2 + i % 9) for i in range(count)]
    lines = [json.dumps({"question": one.question, "answer": str(one.answer)}) + "\n" for one in problems]
    path.write_text("".join(lines))


def points(table: Path) -> list[Point]:
    """What `ponder compare` found, without plans that nobody answered."""
    with table.open() as file:
        rows = [row for row in csv.DictReader(file) if row["tokens"]]
    return [(row["strategy"], float(row["tokens"]), 100 * float(row["right"])) for row in rows]


def chart(found: Sequence[Point]) -> str:
    """Accuracy against tokens, which are on a logarithmic axis; the first letter of a strategy is its mark."""
    lowest, highest = (edge(tokens for _, tokens, _ in found) for edge in (min, max))
    span = math.log(highest / lowest) or 1.0
    cells = [[" "] * WIDE for _ in range(HIGH)]
    for name, tokens, right in found:
        column = round((WIDE - 1) * math.log(tokens / lowest) / span)
        cells[HIGH - 1 - round((HIGH - 1) * right / 100)][column] = name[0]
    lines = [
        f"{f'{100 * (HIGH - 1 - i) / (HIGH - 1):.0f} %' if i in (0, HIGH - 1) else '':>6} |{''.join(row).rstrip()}"
        for i, row in enumerate(cells)
    ]
    ends = f"{lowest:,.0f}".ljust(WIDE - len(f"{highest:,.0f}")) + f"{highest:,.0f}"
    marks = ", ".join(dict.fromkeys(f"{name[0]} {name}" for name, _, _ in found))
    return "\n".join([*lines, f"{'':6} +{'-' * WIDE}", f"{'':8}{ends}", f"{'':8}tokens of an answer; {marks}"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, default=60)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=OUT, help="a folder, which is made anew (%(default)s)")
    args = parser.parse_args()
    began = time.monotonic()
    shutil.rmtree(args.out, ignore_errors=True)
    args.out.mkdir(parents=True)
    asked, folder, port = args.out / "questions.jsonl", args.out / "compare", free_port()
    questions(asked, args.questions, args.seed)
    serve = [*ponder(ROOT), "serve", "demo", "--prm", "demo-prm", "--port", str(port)]
    with (args.out / "server.log").open("wb") as log, started("Ponder", serve, port, "/readyz", log, {}) as server:
        compare = [*ponder(ROOT), "compare", str(asked), "--url", server.url, "-o", str(folder), "--concurrency", "16"]
        compare += ["--seed", str(args.seed), "--strategies", *STRATEGIES, "--budgets", *map(str, BUDGETS)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        ended = subprocess.run(compare, env=environment, check=False).returncode
    if ended:
        raise SystemExit(ended)
    print(chart(points(folder / "table.csv")))
    print(f"\n{folder / 'plot.png'} is the same as a picture; {time.monotonic() - began:.0f} s in all")


if __name__ == "__main__":
    main()
