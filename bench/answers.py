"""What comparing answers does to votes, and how long it takes.

    python -m bench.answers POOL... --before CHECKOUT --json FILE

Each POOL is a file of recorded samples, or a folder of them: a line of JSON for a question, `{"id", "gold",
"samples": [[answer, tokens], ...]}`, where "" is no answer; a file whose answers are not told is passed over. The
answers are grouped by the code of this checkout and, with `--before`, by that of another; printed is how often a
majority of 32 samples is right, over `--draws` draws that are the same for both, and how many of all samples are. Then
as many different expressions in LaTeX as `--different` says are grouped, in a process that has compared nothing before.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.machine import describe, keep

ROOT = Path(__file__).parents[1]
VOTES = 32

REGROUP = """
import asyncio, json, sys, time
from ponder.compute.answers.grouping import group

async def main():
    questions = []
    for line in open(sys.argv[1], encoding="utf-8"):
        question = json.loads(line)
        answers = sorted({answer for answer, _ in question["samples"] if answer})
        gold, *groups = await group([f"\\\\boxed{{{answer}}}" for answer in (question["gold"], *answers)])
        found = dict(zip(answers, groups))
        questions.append([gold, [found.get(answer) for answer, _ in question["samples"]]])
    print(json.dumps([time.process_time(), questions]))

asyncio.run(main())
"""
DIFFERENT = """
import asyncio, json, sys, time
from ponder.compute.answers.grouping import group
texts = json.loads(sys.argv[1])
began = time.perf_counter()
groups = asyncio.run(group(texts))
print(json.dumps([time.perf_counter() - began, len(set(groups))]))
"""


@dataclass(frozen=True)
class Regrouped:
    """A pool as one checkout groups it: of each question the right group, and the group of each sample."""

    seconds: float
    questions: list[tuple[int | None, list[int | None]]]

    def majority(self, draws: int) -> float:
        """How often a majority of `VOTES` samples is right, in percent; of equals the one seen first is taken."""
        drawing = random.Random(0)
        right = 0
        for correct, samples in self.questions:
            for _ in range(draws):
                votes = Counter(g for g in drawing.sample(samples, min(VOTES, len(samples))) if g is not None)
                right += bool(votes) and votes.most_common(1)[0][0] == correct
        return 100 * right / (draws * len(self.questions))

    def right(self) -> float:
        """How many samples are right, in percent."""
        shares = [
            sum(g is not None and g == correct for g in samples) / len(samples) for correct, samples in self.questions
        ]
        return 100 * sum(shares) / len(shares)


def run(script: str, argument: str, checkout: Path) -> Any:
    """What a script prints that imports the code of a checkout."""
    environment = {**os.environ, "PYTHONPATH": str(checkout)}
    done = subprocess.run(
        [sys.executable, "-c", script, argument],
        cwd=checkout,
        env=environment,
        stdout=subprocess.PIPE,
        check=True,
    )
    return json.loads(done.stdout)


def regroup(pool: Path, checkout: Path) -> Regrouped:
    seconds, questions = run(REGROUP, str(pool.resolve()), checkout)
    return Regrouped(seconds, [(right, samples) for right, samples in questions])


def expressions(n: int) -> list[str]:
    """Different expressions of LaTeX, boxed."""
    shapes = (
        "\\frac{{{0}+\\sqrt{{{1}}}}}{{{2}}}",
        "x^{{{0}}}+{1}x-{2}",
        "\\left({0},\\frac{{\\pi}}{{{1}}}\\right)",
        "{0}\\sqrt[3]{{{1}}}\\cdot\\ln {2}",
        "\\begin{{pmatrix}}{0}&{1}\\\\{2}&1\\end{{pmatrix}}",
        "[{0},\\infty)\\cup(-\\infty,-{1})",
    )
    return ["\\boxed{" + shapes[i % len(shapes)].format(i + 2, i + 3, i + 5) + "}" for i in range(n)]


def pools(paths: Sequence[Path]) -> list[Path]:
    """The files whose answers are told."""
    files = [file for path in paths for file in (sorted(path.glob("*.jsonl")) if path.is_dir() else [path])]
    return [file for file in files if "gold" in json.loads(file.open(encoding="utf-8").readline())]


def measure(options: argparse.Namespace) -> int:
    rows: list[dict[str, Any]] = []
    print(f"{'':40} {'majority of 32':>22} {'samples right':>22} {'seconds of processor':>22}")
    for pool in pools(options.pools):
        after = regroup(pool, ROOT)
        before = regroup(pool, options.before.resolve()) if options.before else None
        row: dict[str, Any] = {"pool": pool.stem}
        for name, found in (("before", before), ("after", after)):
            if found is not None:
                majority, right = round(found.majority(options.draws), 2), round(found.right(), 2)
                row[name] = {"majority": majority, "right": right, "seconds": round(found.seconds, 2)}
        rows.append(row)
        of = [row[name] for name in ("before", "after") if name in row]
        cells = [" -> ".join(f"{one[field]:.2f}" for one in of) for field in ("majority", "right", "seconds")]
        worse = "  WORSE" if before is not None and row["after"]["majority"] < row["before"]["majority"] else ""
        print(f"{pool.stem:40} {cells[0]:>22} {cells[1]:>22} {cells[2]:>22}{worse}", flush=True)
    texts = json.dumps(expressions(options.different))
    different: dict[str, Any] = {}
    for name, checkout in (("before", options.before), ("after", ROOT)):
        if checkout is not None:
            seconds, groups = run(DIFFERENT, texts, checkout.resolve())
            different[name] = {"seconds": round(seconds, 3), "groups": groups}
            print(f"{options.different} different expressions, {name}: {seconds:.3f} s, {groups} groups", flush=True)
    keep({**describe(), "pools": rows, "different": different}, options.json)
    return int(any("before" in row and row["after"]["majority"] < row["before"]["majority"] for row in rows))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pools", nargs="*", type=Path, metavar="POOL")
    parser.add_argument("--before", type=Path, metavar="CHECKOUT", help="another checkout, to compare with")
    parser.add_argument("--draws", type=int, default=50, help="draws of 32 samples for each question")
    parser.add_argument("--different", type=int, default=64, help="expressions that are grouped at once")
    parser.add_argument("--json")
    sys.exit(measure(parser.parse_args(sys.argv[1:])))


if __name__ == "__main__":
    main()
