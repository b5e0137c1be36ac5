"""The strategies over recorded samples of real reasoning models: accuracy, tokens and latency, without a model.

    python -m bench.replay POOL... --strategies direct auto majority_vote:n=16 --caps 8192,32768 --json FILE

A POOL is a file of recorded samples (`engines/samples.py` says in what form) or a folder of them. Every strategy is run
on each question several times, each time over the samples in another order, which is the same for all strategies; so
each is held against the first by pairs. The differences come with a 95 % interval over these orders. Latency is in
steps of the model. Requests come one after the other and all learn chain lengths from those before, beginning with
`--prior`; with `--seeded` each carries a seed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.machine import describe, keep
from ponder.compute.budget import Budget, Spending
from ponder.compute.engine import Delta, Sampling
from ponder.compute.execute import execute
from ponder.compute.lengths import Lengths
from ponder.compute.plan import Plan
from ponder.compute.resources import Resources
from ponder.compute.run import Selection, Strategy
from ponder.engines.replay import RecordedRewards, ReplayEngine
from ponder.engines.samples import Question, read
from ponder.strategies import STRATEGIES
from ponder.testing.virtual_time import VirtualTimeLoop
from ponder.verifiers import VERIFIERS


@dataclass(frozen=True)
class Setup:
    """A strategy with its parameters, as the command line names it: `majority_vote:n=16:mode=rounds`."""

    name: str
    strategy: str
    parameters: dict[str, Any]

    @staticmethod
    def of(text: str) -> Setup:
        strategy, *fields = text.split(":")
        parameters = dict(field.split("=", 1) for field in fields)
        return Setup(text, strategy, {name: _value(value) for name, value in parameters.items()})


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


@dataclass(frozen=True)
class Replayed:
    """One request: right or not, and what it cost."""

    right: bool
    tokens: int
    steps: float
    """Latency in decode steps."""
    samples: int


@dataclass(frozen=True)
class Row:
    """A setup at a cap over one pool: its requests by question, in the same order for each setup."""

    pool: str
    cap: int
    setup: str
    replayed: list[list[Replayed]]
    p50: int
    p90: int
    """What was known of chain lengths at the end."""

    def mean(self, field: str) -> float:
        return statistics.fmean(float(getattr(r, field)) for question in self.replayed for r in question)

    def better(self, other: Row) -> tuple[float, float]:
        """(difference in right answers to another row, half of its 95 % interval), in points."""
        pairs = [
            [100.0 * (a.right - b.right) for a, b in zip(mine, others, strict=True)]
            for mine, others in zip(self.replayed, other.replayed, strict=True)
        ]
        within = sum(statistics.variance(pair) / len(pair) for pair in pairs if len(pair) > 1)
        return statistics.fmean(map(statistics.fmean, pairs)), 1.96 * within**0.5 / len(pairs)


async def deaf(_: Delta) -> None:
    return


def replay(questions: Sequence[Question], pool: str, setup: Setup, cap: int, options: argparse.Namespace) -> Row:
    """Every question `options.draws` times, one request after the other, in an order that is the same for all."""
    engine = ReplayEngine(questions, typical_chain=options.prior, answer_tokens=options.answer_tokens)
    scored = any(sample.steps for question in questions for sample in question.samples)
    rewards = RecordedRewards(engine) if scored else None
    resources = Resources(engine, Lengths(*engine.card.typical_chain), rewards)
    verifier = "prm" if rewards else "agreement"
    requests = [(q, draw) for draw in range(options.draws) for q in range(len(questions))]
    random.Random(0).shuffle(requests)
    replayed: list[dict[int, Replayed]] = [{} for _ in questions]

    async def one(question: int, draw: int) -> None:
        prompt = engine.ask(question, draw)
        strategy: Strategy = STRATEGIES[setup.strategy](**setup.parameters)
        plan = Plan(
            prompt=prompt,
            strategy=Selection(setup.strategy, strategy),
            budget=Budget(cap, 4 * options.answer_tokens),
            sampling=Sampling(0, 0, seed=draw * len(questions) + question + 1 if options.seeded else None),
            verifier=Selection(verifier, VERIFIERS[verifier]()),
            fallback=Selection("agreement", VERIFIERS["agreement"]()),
        )
        begun = asyncio.get_running_loop().time()
        out = await execute(plan, resources, Spending(plan.budget), deaf)
        steps = asyncio.get_running_loop().time() - begun
        right = engine.right(prompt, out.answer.text)
        replayed[question][draw] = Replayed(right, out.spent.generated, steps, out.samples)

    async def all_of_them() -> None:
        for question, draw in requests:
            await one(question, draw)

    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        runner.run(all_of_them())
    in_order = [[of[draw] for draw in range(options.draws)] for of in replayed]
    return Row(pool, cap, setup.name, in_order, resources.lengths.p50, resources.lengths.p90)


def show(row: Row, first: Row) -> dict[str, Any]:
    """Prints a row and gives its figures."""
    difference, half = row.better(first)
    figures: dict[str, Any] = {
        "pool": row.pool,
        "cap": row.cap,
        "setup": row.setup,
        "right": round(100 * row.mean("right"), 2),
        "difference": round(difference, 2),
        "interval": round(half, 2),
        "tokens": round(row.mean("tokens")),
        "steps": round(row.mean("steps")),
        "samples": round(row.mean("samples"), 2),
        "p50": row.p50,
        "p90": row.p90,
    }
    worse = "  WORSE" if difference + half < 0 else ""
    print(
        f"{row.cap:7} {row.setup:36} {figures['right']:6.1f} {difference:+6.1f} ±{half:4.1f}"
        f" {figures['tokens']:8} {figures['steps']:7} {figures['samples']:6.1f} {row.p50:7} {row.p90:7}{worse}",
        flush=True,
    )
    return figures


def mean_row(figures: Sequence[dict[str, Any]]) -> None:
    """One line for a setup at a cap over all pools."""
    right, difference, tokens, steps = (
        statistics.fmean(f[name] for f in figures) for name in ("right", "difference", "tokens", "steps")
    )
    half = sum(f["interval"] ** 2 for f in figures) ** 0.5 / len(figures)
    head = f"{figures[0]['cap']:7} {figures[0]['setup']:36}"
    print(f"{head} {right:6.1f} {difference:+6.1f} ±{half:4.1f} {tokens:8.0f} {steps:7.0f}", flush=True)


def pools(paths: Sequence[Path]) -> list[Path]:
    return [file for path in paths for file in (sorted(path.glob("*.jsonl")) if path.is_dir() else [path])]


def measure(options: argparse.Namespace) -> None:
    kept: list[dict[str, Any]] = []
    head = f"{'cap':>7} {'':36} {'right':>6} {'by pairs':>12} {'tokens':>8} {'steps':>7} {'chains':>6}"
    files = pools(options.pools)
    for file in files:
        questions = asyncio.run(read(file.read_text()))
        if options.questions:
            questions = random.Random(1).sample(questions, min(options.questions, len(questions)))
        print(f"\n{file.stem}: {len(questions)} questions, {options.draws} draws\n{head} {'p50':>7} {'p90':>7}")
        for cap in options.caps:
            rows = [replay(questions, file.stem, setup, cap, options) for setup in options.strategies]
            kept += [show(row, rows[0]) for row in rows]
    if len(files) > 1:
        print(f"\nmean over {len(files)} pools\n{head}")
        for cap in options.caps:
            for setup in options.strategies:
                mean_row([f for f in kept if (f["cap"], f["setup"]) == (cap, setup.name)])
    worse = [f for f in kept if f["difference"] + f["interval"] < 0]
    print(f"\n{len(worse)} of {len(kept)} rows are worse than the first beyond chance")
    keep({**describe(), "rows": kept}, options.json)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pools", nargs="+", type=Path, metavar="POOL")
    parser.add_argument(
        "--strategies", nargs="+", type=Setup.of, default=[Setup.of("direct"), Setup.of("auto")], metavar="NAME[:K=V]"
    )
    parser.add_argument("--caps", type=lambda text: [int(cap) for cap in text.split(",")], default=[32768])
    parser.add_argument("--seeded", action="store_true", help="every request carries a seed")
    parser.add_argument("--draws", type=int, default=8, help="orders of the samples of each question")
    parser.add_argument("--questions", type=int, help="of each pool, at most")
    parser.add_argument("--answer-tokens", type=int, default=400, help="visible part of a sample")
    parser.add_argument(
        "--prior",
        type=lambda text: tuple(int(length) for length in text.split(",")),
        default=(3500, 14000),
        help="typical chain, p50,p90",
    )
    parser.add_argument("--json")
    measure(parser.parse_args(sys.argv[1:]))


if __name__ == "__main__":
    main()
