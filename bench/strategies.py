"""Accuracy against tokens: every strategy on fresh questions, with the real engine and the real verifiers.

    python -m bench.strategies --questions 300 --json bench/results/strategies.json --plot bench/results/strategies.png

Questions come from the demo task's test side, seeded; temperature 1; the thinking budget is the table's, or ample.
Prints accuracy with a 95 % interval (bootstrap over questions), generated and verifier tokens and seconds per
question, and the targets. Beam search is also held against majority voting at equal generated tokens on the hardest
third.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import random
import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any

import uvloop

from bench.machine import describe, keep
from bench.start_engines import pair
from ponder.compute.budget import Budget, Spending
from ponder.compute.engine import Delta, Sampling
from ponder.compute.execute import execute
from ponder.compute.plan import Plan
from ponder.compute.resources import Resources
from ponder.compute.run import Selection, Strategy, Verifier, wants_likelihood
from ponder.compute.text import Message, Prompt
from ponder.models.task import Problem, make, read_answer
from ponder.strategies import STRATEGIES
from ponder.verifiers import VERIFIERS

AMPLE = 100_000


@dataclass(frozen=True)
class Setup:
    """One row of the table."""

    name: str
    strategy: str
    parameters: dict[str, Any]
    verifier: str = "agreement"
    budget: int = AMPLE


def wanted(setup: Setup, only: Sequence[str] | None) -> bool:
    """Its name begins with one of these, where there are any."""
    return not only or setup.name.startswith(tuple(only))


SETUPS = [
    Setup("direct", "direct", {}),
    Setup("majority_vote(4)", "majority_vote", {"n": 4, "first": 4, "confidence": 1}),
    Setup("majority_vote(8)", "majority_vote", {"n": 8, "first": 8, "confidence": 1}),
    Setup("majority_vote(16), full", "majority_vote", {"n": 16, "first": 16, "confidence": 1}),
    Setup("majority_vote(16)", "majority_vote", {"n": 16}),
    Setup("majority_vote(16), rounds", "majority_vote", {"n": 16, "mode": "rounds"}),
    Setup("budget_forcing(1)", "budget_forcing", {"rounds": 1}),
    Setup("budget_forcing(4)", "budget_forcing", {"rounds": 4}),
    Setup("short_m_at_k(8, 3)", "short_m_at_k", {"n": 8, "m": 3, "every": 16}),
    Setup("confidence_vote(8)", "confidence_vote", {"n": 8}, "confidence"),
    Setup("confidence_vote(16)", "confidence_vote", {"n": 16}, "confidence"),
    Setup("best_of_n(4, prm)", "best_of_n", {"n": 4}, "prm"),
    Setup("best_of_n(8, prm)", "best_of_n", {"n": 8}, "prm"),
    Setup("best_of_n(4, confidence)", "best_of_n", {"n": 4}, "confidence"),
    Setup("best_of_n(8, confidence)", "best_of_n", {"n": 8}, "confidence"),
    Setup("beam_search(4x2, prm)", "beam_search", {"beams": 4, "width": 2}, "prm"),
    Setup("beam_search(8x2, prm)", "beam_search", {"beams": 8, "width": 2}, "prm"),
    Setup("dvts(8x2, prm)", "dvts", {"beams": 8, "width": 2}, "prm"),
    Setup("particle_filter(8, prm)", "particle_filter", {"particles": 8}, "prm"),
    Setup("rebase(8, prm)", "rebase", {"beams": 8}, "prm"),
    Setup("deep_think(4x1)", "deep_think", {"chains": 4}),
    Setup("deep_think(8x1)", "deep_think", {"chains": 8}),
    Setup("deep_think(4x2)", "deep_think", {"chains": 4, "rounds": 2}),
    Setup("revision(1x3)", "revision", {"chains": 1, "rounds": 3}, "agreement"),
    Setup("revision(2x1, confidence)", "revision", {"chains": 2, "rounds": 1}, "confidence"),
    Setup("auto(16)", "auto", {"n": 16}, "prm"),
]


@dataclass(frozen=True)
class Answered:
    """One question, answered: right or not, and what it cost."""

    steps: int
    right: bool
    generated: int
    verifier: int
    seconds: float
    read_again: int
    """Tokens read that were not in the prefix cache, by calls that went on from a chain."""


async def deaf(_: Delta) -> None:
    return


def seed_of(setup: Setup, question: int) -> int:
    """One of its own for each setup: with the same chains, the reward model would know the verdicts on those that an
    earlier setup had it read, and what it reads would be too little."""
    return 7919 * question + 1 + zlib.crc32(setup.name.encode())


async def answer(problem: Problem, seed: int | None, setup: Setup, resources: Resources) -> Answered:
    """Asks one question through the strategy, as the server would."""
    strategy: Selection[Strategy] = Selection(setup.strategy, STRATEGIES[setup.strategy](**setup.parameters))
    judge: Selection[Verifier] = Selection(setup.verifier, VERIFIERS[setup.verifier]())
    plan = Plan(
        prompt=Prompt((Message("user", problem.question),)),
        strategy=strategy,
        budget=Budget(setup.budget, 64),
        sampling=Sampling(0, 0, temperature=1.0, seed=seed, likelihood=wants_likelihood(strategy, judge)),
        verifier=judge,
        fallback=Selection("agreement", VERIFIERS["agreement"]()),
    )
    spending = Spending(plan.budget)
    begun = time.perf_counter()
    outcome = await execute(plan, resources, spending, deaf)
    if outcome.degraded:
        raise SystemExit(f"{setup.name}: the verifier failed; the row would not be what it says")
    spent = outcome.spent
    right = read_answer(outcome.answer.text) == problem.answer
    seconds = time.perf_counter() - begun
    read_again = sum(
        reservation.prompt - reservation.cached
        for reservation in spending.reservations
        if reservation.parent is not None
    )
    return Answered(len(problem.steps), right, spent.generated, spent.verifier, seconds, read_again)


async def row(problems: Sequence[Problem], setup: Setup, resources: Resources, parallel: int) -> list[Answered]:
    """All questions through one setup, `parallel` at a time, in order."""
    gate = asyncio.Semaphore(parallel)

    async def one(i: int, problem: Problem) -> Answered:
        async with gate:
            return await answer(problem, seed_of(setup, i), setup, resources)

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one(i, problem)) for i, problem in enumerate(problems)]
    return [task.result() for task in tasks]


def mean(answers: Sequence[Answered], value: Callable[[Answered], float]) -> float:
    return sum(value(a) for a in answers) / len(answers)


def right(answers: Sequence[Answered]) -> float:
    return 100 * mean(answers, lambda a: a.right)


def interval(answers: Sequence[Answered], draws: int = 2000) -> tuple[float, float]:
    """95 % bootstrap interval of the accuracy, in points."""
    chance = random.Random(0)
    rates = sorted(right(chance.choices(answers, k=len(answers))) for _ in range(draws))
    return rates[draws // 40], rates[-draws // 40]


def hardest(table: dict[str, list[Answered]]) -> set[int]:
    """The third of the questions with the most steps. Chosen by the question, not by who got it wrong: picking what
    voting missed and then comparing with voting would flatter every rival of it."""
    answers = table["direct"]
    order = sorted(range(len(answers)), key=lambda i: -answers[i].steps)
    return set(order[: len(order) // 3])


def targets(table: dict[str, list[Answered]]) -> list[tuple[str, float, float, bool]]:
    """(what, measured, wanted, met). Differences in accuracy points, tokens as ratios."""
    acc = {name: right(answers) for name, answers in table.items()}
    tokens = {name: mean(answers, lambda a: a.generated) for name, answers in table.items()}
    full, early = "majority_vote(16), full", "majority_vote(16)"
    rows = [("majority_vote(16), full, over direct", acc[full] - acc["direct"], 10.0, 1)]
    for n, points in ((4, 6.0), (8, 1.0)):
        for verifier in ("prm", "confidence"):
            gain = acc[f"best_of_n({n}, {verifier})"] - acc[f"majority_vote({n})"]
            rows.append((f"best_of_n({n}, {verifier}) over majority_vote({n})", gain, points, 1))
    rows += [
        ("early stopping, points lost", acc[full] - acc[early], 0.5, -1),
        ("early stopping, share of the tokens", tokens[early] / tokens[full], 0.75, -1),
        ("auto(16), points below majority_vote(16)", acc[full] - acc["auto(16)"], 1.0, -1),
        ("auto(16), share of its tokens", tokens["auto(16)"] / tokens[full], 0.6, -1),
    ]
    third = hardest(table)
    hard = {name: [a for i, a in enumerate(answers) if i in third] for name, answers in table.items()}
    for beam in ("beam_search(4x2, prm)", "beam_search(8x2, prm)"):
        spent = mean(hard[beam], lambda a: a.generated)
        votes = [
            (mean(hard[v], lambda a: a.generated), right(hard[v])) for v in table if v.startswith("majority_vote(")
        ]
        rows.append((f"{beam} over voting at its tokens, hardest third", right(hard[beam]) - at(votes, spent), 0.0, 1))
    spent = tokens["revision(1x3)"]
    votes = [(tokens[v], acc[v]) for v in ("direct", "majority_vote(4)", "majority_vote(8)")]
    rows.append(("revision(1x3) over direct (one chain)", acc["revision(1x3)"] - acc["direct"], 0.0, 1))
    rows.append(("revision(1x3) over voting at its tokens", acc["revision(1x3)"] - at(votes, spent), 0.0, 1))
    return [(what, got, want, got >= want if sign > 0 else got <= want) for what, got, want, sign in rows]


def at(points: Sequence[tuple[float, float]], tokens: float) -> float:
    """Accuracy at so many tokens, between the measured points on a straight line, flat beyond them."""
    points = sorted(points)
    for (x0, y0), (x1, y1) in itertools.pairwise(points):
        if x0 <= tokens <= x1:
            return y0 + (y1 - y0) * (tokens - x0) / max(1e-9, x1 - x0)
    return points[0][1] if tokens < points[0][0] else points[-1][1]


def plot(table: dict[str, list[Answered]], file: Path) -> None:
    """Accuracy against generated tokens, one point a setup."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    drawing: tuple[Any, Any] = pyplot.subplots(figsize=(10, 6.5))  # pyright: ignore[reportUnknownMemberType]
    figure, axes = drawing
    for name, answers in table.items():
        x, y = mean(answers, lambda a: a.generated), right(answers)
        low, high = interval(answers)
        axes.errorbar(x, y, [[y - low], [high - y]], fmt="o", capsize=3)
        axes.annotate(name, (x, y), textcoords="offset points", xytext=(6, 5), fontsize=8)
    axes.set_xscale("log")
    axes.set_xlabel("generated tokens per question")
    axes.set_ylabel("right answers, %")
    axes.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(file, dpi=120)


async def measure(args: argparse.Namespace) -> None:
    chance = random.Random(args.seed)
    problems = [make(chance, "test", 2 + i % 9) for i in range(args.questions)]
    head = describe()
    table: dict[str, list[Answered]] = {}
    async with pair(args.model, args.prm) as (_, resources):
        print(f"{args.questions} questions of 2 to 10 steps, seed {args.seed}, {args.parallel} at a time")
        print(f"{head['machine']}\n{head['versions']}\n")
        print(f"{'':32} {'right %':>8} {'95 %':>13} {'tokens':>8} {'verifier':>9} {'seconds':>8}")
        for setup in SETUPS:
            if not wanted(setup, args.only):
                continue
            answers = await row(problems, setup, resources, args.parallel)
            table[setup.name] = answers
            low, high = interval(answers)
            print(
                f"{setup.name:32} {right(answers):8.1f} {low:6.1f}-{high:5.1f}",
                f"{mean(answers, lambda a: a.generated):8.0f} {mean(answers, lambda a: a.verifier):9.0f}",
                f"{mean(answers, lambda a: a.seconds):8.2f}",
                flush=True,
            )
    rows = [] if args.only else targets(table)
    for what, got, want, met in rows:
        print(f"{what:62} {got:7.2f}  target {want:5.2f}  {'met' if met else 'MISSED'}")
    record = {
        **head,
        "seed": args.seed,
        "targets": [{"what": w, "measured": g, "target": t, "met": m} for w, g, t, m in rows],
        "columns": [column.name for column in fields(Answered)],
        "answers": {name: [astuple(a) for a in answers] for name, answers in table.items()},
    }
    keep(record, args.json, indent=None)
    if args.plot:
        plot(table, args.plot)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, default=300)
    parser.add_argument("--seed", type=int, default=20261)
    parser.add_argument("--parallel", type=int, default=16, help="questions in flight")
    parser.add_argument("--model", default="models/demo")
    parser.add_argument("--prm", default="models/demo-prm")
    parser.add_argument("--only", action="append", help="setups whose names begin so")
    parser.add_argument("--json")
    parser.add_argument("--plot", type=Path)
    uvloop.run(measure(parser.parse_args()))


if __name__ == "__main__":
    main()
