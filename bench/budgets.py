"""What a budget buys live: `auto` at rising budgets beside every fixed strategy, with the demo reasoner and its PRM.

    python -m bench.budgets --questions 300 --json bench/results/budgets.json

Questions come from the demo task's test side, seeded; temperature 1. Each answer is written down when it is there, in a
file beside the result: a run that was cut goes on. Four things are told, each with a 95 % interval over the questions,
drawn anew with all that was answered to each:

- whether accuracy rises from each budget of `auto` to the next;
- at each budget, `auto` beside the best fixed strategy under the same budget;
- beside the best fixed strategy at the tokens that `auto` took on average: fixed strategies without a
  budget spend on hard questions what a budget forbids. Between two measured points of a fixed strategy lies what a
  mixture of both would reach. The best one is chosen with the same questions, which flatters it;
- what `auto` reaches at a quarter of the tokens of best-of-N, weighted by the verifier, and how many times fewer it
  takes for the same accuracy (Snell and others 2024 report four).

Tokens are those that the model generated; `--read` adds those that the verifier read.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import uvloop
from numpy.typing import NDArray

from bench.machine import describe, keep
from bench.start_engines import pair
from bench.strategies import AMPLE, Answered, Setup, answer, seed_of
from ponder.compute.resources import Resources
from ponder.models.task import Problem, make

Floats: TypeAlias = NDArray[np.float64]
Rows: TypeAlias = dict[tuple[str, int], Answered]
"""By setup and question."""

BUDGETS = (64, 128, 256, 512, 1024, 2048, 4096)
MOST = 64
"""Chains of `auto` at most."""
AUTO = "auto"
DIRECT = "direct"
DRAWS = 4000


def voting(n: int) -> Setup:
    return Setup(f"majority_vote({n})", "majority_vote", {"n": n, "first": n, "confidence": 1})


CAPPED: dict[str, tuple[dict[str, Any], str]] = {
    "best_of_n": ({"n": 16}, "prm"),
    "dvts": ({"beams": 8, "width": 2}, "prm"),
    "majority_vote": ({"n": 16, "first": 16, "confidence": 1}, "agreement"),
}
"""Fixed strategies with more chains than most of the budgets feed."""


FAMILIES: dict[str, list[Setup]] = {
    AUTO: [Setup(f"auto @ {budget}", "auto", {"n": MOST}, "prm", budget) for budget in BUDGETS],
    DIRECT: [Setup("direct @ 64", "direct", {}, budget=64), Setup("direct", "direct", {})],
    "majority_vote": [voting(n) for n in (2, 4, 8, 16, 32)],
    "best_of_n": [Setup(f"best_of_n({n}, prm)", "best_of_n", {"n": n}, "prm") for n in (2, 4, 8, 16, 32)],
    "dvts": [Setup(f"dvts({n}x2, prm)", "dvts", {"beams": n, "width": 2}, "prm") for n in (2, 4, 8, 16)],
    "particle_filter": [
        Setup(f"particle_filter({n}, prm)", "particle_filter", {"particles": n}, "prm") for n in (2, 4, 8, 16)
    ],
    **{
        f"{name} under a budget": [
            Setup(f"{name} @ {budget}", name, parameters, verifier, budget) for budget in BUDGETS[1:5]
        ]
        for name, (parameters, verifier) in CAPPED.items()
    },
}
"""Setups of one way of thinking, the cheapest first."""


def before(family: str) -> list[Setup]:
    """What stands before the cheapest setup of a family: one chain, under the smallest budget where it has budgets."""
    if family in (AUTO, DIRECT):
        return []
    capped, free = FAMILIES[DIRECT]
    return [free if FAMILIES[family][0].budget == AMPLE else capped]


SNELL = "best_of_n"


class Journal:
    """The answers so far, a line each. `head` is what may not change between two parts of a run."""

    def __init__(self, path: Path, head: Mapping[str, object]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.rows: Rows = {}
        lines = path.read_text().splitlines() if path.exists() else []
        if lines and json.loads(lines[0]) != json.loads(json.dumps(head)):
            raise SystemExit(f"{path} is of another run: {lines[0]}; take it away, or name another --json")
        for line in lines[1:]:
            name, question, *values = json.loads(line)
            self.rows[name, question] = Answered(*values)
        self._file = path.open("a")
        if not lines:
            self._write(head)

    def add(self, name: str, question: int, answered: Answered) -> None:
        self.rows[name, question] = answered
        self._write([name, question, *astuple(answered)])

    def _write(self, value: object) -> None:
        self._file.write(json.dumps(value) + "\n")
        self._file.flush()


async def ask(journal: Journal, problems: Sequence[Problem], resources: Resources, parallel: int) -> None:
    """All that is not answered yet. Setups take turns question by question: what the machine does else falls on all."""
    setups = [setup for family in FAMILIES.values() for setup in family]
    left = iter([(i, setup) for i in range(len(problems)) for setup in setups if (setup.name, i) not in journal.rows])
    whole = len(problems) * len(setups)

    async def work() -> None:
        for i, setup in left:
            journal.add(setup.name, i, await answer(problems[i], seed_of(setup, i), setup, resources))
            if len(journal.rows) % 200 == 0:
                print(f"{len(journal.rows)} of {whole}", flush=True)

    async with asyncio.TaskGroup() as group:
        for _ in range(parallel):
            group.create_task(work())


@dataclass(frozen=True, slots=True)
class Family:
    """One way of thinking as points; each of the arrays is (points, draws). Draw 0 is the questions as they are."""

    names: Sequence[str]
    right: Floats
    """Percent."""
    tokens: Floats

    def at(self, tokens: Floats) -> Floats:
        """Accuracy at so many tokens in each draw: between points on a straight line, the last one's beyond them; for
        fewer than the first takes there is none."""
        found = np.empty(tokens.shape)
        for d in range(len(tokens)):
            order = np.argsort(self.tokens[:, d])
            found[d] = np.interp(tokens[d], self.tokens[order, d], self.right[order, d], left=-np.inf)
        return found

    def reaching(self, right: Floats) -> Floats:
        """The fewest tokens for so much accuracy in each draw; infinite where no point has it."""
        found = np.full(right.shape, np.inf)
        for d in range(len(right)):
            order = np.argsort(self.tokens[:, d])
            x, y = self.tokens[order, d], self.right[order, d]
            above = np.flatnonzero(y >= right[d])
            if above.size:
                k = int(above[0])
                share = 1.0 if k == 0 else (right[d] - y[k - 1]) / (y[k] - y[k - 1])
                found[d] = x[k] if k == 0 else x[k - 1] + share * (x[k] - x[k - 1])
        return found


def drawn(rows: Rows, questions: int, *, read: bool) -> dict[str, Family]:
    """The families over the questions as they are and over sets drawn of them with replacement, the same for all."""
    weights = np.random.default_rng(0).multinomial(questions, [1 / questions] * questions, size=DRAWS)
    weights = np.vstack([np.ones(questions), weights]).T / questions
    found: dict[str, Family] = {}
    for name, setups in FAMILIES.items():
        names = [setup.name for setup in (*before(name), *setups)]
        table = [[rows[one, i] for i in range(questions)] for one in names]
        right = np.array([[100.0 * one.right for one in line] for line in table])
        tokens = np.array([[float(one.generated + one.verifier * read) for one in line] for line in table])
        found[name] = Family(names, right @ weights, tokens @ weights)
    return found


def told(values: Floats, digits: int = 2) -> list[float | None]:
    """What it is, and its 95 % interval over the draws."""
    low, high = np.quantile(values[1:], [0.025, 0.975], method="nearest")
    return [round(float(one), digits) if np.isfinite(one) else None for one in (values[0], low, high)]


def report(families: Mapping[str, Family]) -> dict[str, Any]:
    """The figures, as the result has them."""
    auto = families[AUTO]
    fixed = {name: family for name, family in families.items() if name != AUTO}
    points = {
        name: {"right": told(family.right[k]), "tokens": told(family.tokens[k], 0)}
        for family in families.values()
        for k, name in enumerate(family.names)
    }
    rises = {
        f"{low} to {high}": told(auto.right[k + 1] - auto.right[k])
        for k, (low, high) in enumerate(itertools.pairwise(BUDGETS))
    }
    beside: dict[str, Any] = {}
    for k, budget in enumerate(BUDGETS):
        reached = {name: family.at(auto.tokens[k]) for name, family in fixed.items()}
        best = max(reached, key=lambda name: float(reached[name][0]))
        beside[str(budget)] = {"best": best, "right": told(reached[best]), "more": told(auto.right[k] - reached[best])}
    same: dict[str, Any] = {}
    for k, budget in enumerate(BUDGETS):
        rivals = [(f, n) for f in fixed.values() for n, name in enumerate(f.names) if name.endswith(f"@ {budget}")]
        if rivals:
            family, n = max(rivals, key=lambda pair: float(pair[0].right[pair[1]][0]))
            same[str(budget)] = {
                "best": family.names[n],
                "right": told(family.right[n]),
                "more": told(auto.right[k] - family.right[n]),
                "of_its_tokens": told(auto.tokens[k] / family.tokens[n]),
            }
    saved: dict[str, Any] = {}
    rival = families[SNELL]
    for k, name in enumerate(rival.names):
        if name != FAMILIES[DIRECT][-1].name:
            saved[name] = {
                "at_a_quarter": told(auto.at(rival.tokens[k] / 4) - rival.right[k]),
                "times_fewer": told(rival.tokens[k] / auto.reaching(rival.right[k])),
            }
    return {
        "points": points,
        "rises": rises,
        "beside_the_best_under_the_budget": same,
        "beside_the_best_fixed": beside,
        "beside_best_of_n": saved,
    }


def show(figures: Mapping[str, Any]) -> None:
    def span(values: Sequence[float | None], form: str = "{:.1f}") -> str:
        mean, low, high = ("-" if one is None else form.format(one) for one in values)
        return f"{mean} ({low} to {high})"

    print(f"\n{'':28} {'right, %':>24} {'tokens':>24}")
    for name, point in figures["points"].items():
        print(f"{name:28} {span(point['right']):>24} {span(point['tokens'], '{:.0f}'):>24}")
    print("\nauto, from one budget to the next, points")
    for name, rise in figures["rises"].items():
        print(f"  {name:14} {span(rise, '{:+.1f}')}")
    print("\nauto beside the best fixed strategy under the same budget, points; its tokens as a part of that one's")
    for one in figures["beside_the_best_under_the_budget"].values():
        more, part = span(one["more"], "{:+.1f}"), span(one["of_its_tokens"], "{:.2f}")
        print(f"  {one['best']:22} {span(one['right'])}, auto {more}; {part}")
    print("\nauto beside the best fixed strategy at equal tokens, points")
    for budget, one in figures["beside_the_best_fixed"].items():
        print(f"  {budget:>6}  {one['best']:18} {span(one['right'])}, auto {span(one['more'], '{:+.1f}')}")
    print("\nauto beside best-of-N, points at a quarter of its tokens; times fewer tokens for its accuracy")
    for name, one in figures["beside_best_of_n"].items():
        print(f"  {name:20} {span(one['at_a_quarter'], '{:+.1f}')}; {span(one['times_fewer'])}")


async def measure(args: argparse.Namespace) -> None:
    chance = random.Random(args.seed)
    problems = [make(chance, "test", 2 + i % 9) for i in range(args.questions)]
    head = describe()
    path = Path(args.json).with_suffix(".rows.jsonl")
    same = {"seed": args.seed, "model": args.model, "prm": args.prm, "commit": args.commit or head["commit"]}
    journal = Journal(path, same)
    async with pair(args.model, args.prm) as (_, resources):
        await ask(journal, problems, resources, args.parallel)
    figures = {
        "generated": report(drawn(journal.rows, args.questions, read=False)),
        "generated_and_read": report(drawn(journal.rows, args.questions, read=True)),
    }
    show(figures["generated_and_read" if args.read else "generated"])
    names = [setup.name for family in FAMILIES.values() for setup in family]
    answers = {name: [astuple(journal.rows[name, i]) for i in range(args.questions)] for name in names}
    columns = [column.name for column in fields(Answered)]
    keep({**head, **same, "figures": figures, "columns": columns, "answers": answers}, args.json, indent=None)
    path.unlink()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, default=300)
    parser.add_argument("--seed", type=int, default=20262)
    parser.add_argument("--parallel", type=int, default=16, help="answers in flight")
    parser.add_argument("--model", default="models/demo")
    parser.add_argument("--prm", default="models/demo-prm")
    parser.add_argument("--commit", help="go on with a run of this commit")
    parser.add_argument("--read", action="store_true", help="show tokens with those that the verifier read")
    parser.add_argument("--json", default="bench/results/budgets.json")
    uvloop.run(measure(parser.parse_args()))


if __name__ == "__main__":
    main()
