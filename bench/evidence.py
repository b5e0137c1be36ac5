"""What evidence beside votes saves: `auto` with votes alone, with likelihood, with probes, and with both.

    python -m bench.evidence --questions 300 --json bench/results/evidence-live.json

Fresh questions of the demo task's test side at temperature 1, without seeds: with one nobody may look at half-written
chains. Every setup answers the same questions. Prints accuracy and tokens with 95 % intervals, and each setup against
votes alone, paired: the same questions are drawn for both (bootstrap over questions). What likelihood is worth is
learned from votes as the run goes on, beginning with nothing. A setup that stands in the file already is not asked
again.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass, fields, replace
from pathlib import Path
from typing import Any

import uvloop

from bench.machine import describe, keep
from bench.start_engines import pair
from ponder.compute.budget import Budget, Spending
from ponder.compute.engine import Delta, Sampling
from ponder.compute.evidence import Evidence
from ponder.compute.execute import execute
from ponder.compute.lengths import Lengths
from ponder.compute.plan import Plan
from ponder.compute.resources import Resources
from ponder.compute.run import Selection, Strategy, Verifier, wants_likelihood
from ponder.compute.text import Message, Prompt
from ponder.models.task import Problem, make, read_answer
from ponder.strategies import STRATEGIES
from ponder.verifiers import VERIFIERS

VOTES = "votes"
SETUPS: dict[str, tuple[dict[str, Any], str]] = {
    VOTES: ({"evidence": "votes"}, "agreement"),
    "likelihood": ({"evidence": "likelihood"}, "agreement"),
    "probes": ({"evidence": "probes"}, "agreement"),
    "likelihood and probes": ({"evidence": "all"}, "agreement"),
    "votes, confidence chooses": ({"evidence": "votes"}, "confidence"),
    "votes, for latency": ({"evidence": "votes", "prefer": "latency"}, "agreement"),
    "likelihood, for latency": ({"evidence": "likelihood", "prefer": "latency"}, "agreement"),
}
"""By name: the parameters of `auto`, and its verifier. `agreement` tells nothing that votes do not."""


@dataclass(frozen=True)
class Answered:
    """One question, answered: right or not, and what it cost."""

    steps: int
    right: bool
    generated: int
    samples: int
    """Chains that came to an end."""
    probes: int
    """Tokens of probes, among those generated."""
    seconds: float


async def deaf(_: Delta) -> None:
    return


async def answer(problem: Problem, name: str, resources: Resources) -> Answered:
    """Asks one question through `auto`, as the server would."""
    parameters, verifier = SETUPS[name]
    strategy: Selection[Strategy] = Selection("auto", STRATEGIES["auto"](**parameters))
    judge: Selection[Verifier] = Selection(verifier, VERIFIERS[verifier]())
    plan = Plan(
        prompt=Prompt((Message("user", problem.question),)),
        strategy=strategy,
        budget=Budget(100_000, 64),
        sampling=Sampling(0, 0, temperature=1.0, likelihood=wants_likelihood(strategy, judge)),
        verifier=judge,
        fallback=Selection("agreement", VERIFIERS["agreement"]()),
    )
    spending = Spending(plan.budget)
    begun = time.perf_counter()
    outcome = await execute(plan, resources, spending, deaf)
    return Answered(
        len(problem.steps),
        read_answer(outcome.answer.text) == problem.answer,
        outcome.spent.generated,
        outcome.samples,
        sum(one.tokens for one in spending.reservations if one.purpose == "probe"),
        time.perf_counter() - begun,
    )


async def row(problems: Sequence[Problem], name: str, resources: Resources, parallel: int) -> list[Answered]:
    """All questions through one setup, `parallel` at a time, in order; it has learned nothing when it begins."""
    resources = replace(resources, lengths=Lengths(*resources.engine.card.typical_chain), evidence=Evidence())
    gate = asyncio.Semaphore(parallel)

    async def one(problem: Problem) -> Answered:
        async with gate:
            return await answer(problem, name, resources)

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one(problem)) for problem in problems]
    return [task.result() for task in tasks]


def accuracy(answers: Sequence[Answered]) -> float:
    return 100 * sum(one.right for one in answers) / len(answers)


def tokens(answers: Sequence[Answered]) -> float:
    return sum(one.generated for one in answers) / len(answers)


def interval(questions: int, value: Callable[[Sequence[int]], float], draws: int = 2000) -> tuple[float, float]:
    """95 % bootstrap interval of a value of the questions, given by their places."""
    chance = random.Random(0)
    values = sorted(value(chance.choices(range(questions), k=questions)) for _ in range(draws))
    return values[draws // 40], values[-draws // 40]


def against(answers: Sequence[Answered], votes: Sequence[Answered]) -> dict[str, Any]:
    """Points of accuracy and the share of tokens saved against votes alone, with paired intervals."""

    def points(places: Sequence[int]) -> float:
        return accuracy([answers[i] for i in places]) - accuracy([votes[i] for i in places])

    def saved(places: Sequence[int]) -> float:
        return 1 - tokens([answers[i] for i in places]) / tokens([votes[i] for i in places])

    everything = range(len(votes))
    return {
        "points": points(everything),
        "points_95": interval(len(votes), points),
        "saved": saved(everything),
        "saved_95": interval(len(votes), saved),
    }


def told(name: str, answers: Sequence[Answered], votes: Sequence[Answered]) -> str:
    """One line of the table."""
    low, high = interval(len(answers), lambda places: accuracy([answers[i] for i in places]))
    seconds = sum(one.seconds for one in answers) / len(answers)
    probes = sum(one.probes for one in answers) / len(answers)
    samples = sum(one.samples for one in answers) / len(answers)
    line = (
        f"{name:28} {accuracy(answers):6.1f} {low:5.1f}-{high:5.1f} {tokens(answers):7.0f} {samples:6.1f} {probes:6.1f}"
    )
    line += f" {seconds:7.2f}"
    if answers is not votes:
        it = against(answers, votes)
        (low, high), (least, most) = it["points_95"], it["saved_95"]
        line += f"   {it['points']:+5.1f} [{low:+.1f}, {high:+.1f}]   {it['saved']:6.1%} [{least:.1%}, {most:.1%}]"
    return line


async def measure(args: argparse.Namespace, before: dict[str, Any]) -> None:
    """`before`: what stands in the file already."""
    chance = random.Random(args.seed)
    problems = [make(chance, "test", 2 + i % 9) for i in range(args.questions)]
    head = {**describe(), "seed": args.seed, "questions": args.questions, "parallel": args.parallel}
    if before and any(before.get(key) != head[key] for key in ("seed", "questions", "parallel")):
        raise SystemExit(f"{args.json} was measured with other questions; name another file")
    table = {name: [Answered(*one) for one in answers] for name, answers in before.get("answers", {}).items()}
    print(f"{args.questions} questions of 2 to 10 steps, seed {args.seed}, {args.parallel} at a time")
    print(f"{'':28} {'right %':>6} {'95 %':>11} {'tokens':>7} {'chains':>6} {'probes':>6} {'seconds':>7}", end="")
    print("   against votes: points, tokens saved")
    async with pair(args.model, None) as (_, resources):
        await row(problems[:8], VOTES, resources, args.parallel)
        for name in args.only or SETUPS:
            if name not in table:
                table[name] = await row(problems, name, resources, args.parallel)
            print(told(name, table[name], table.get(VOTES, table[name])), flush=True)
            record = {
                **head,
                "columns": [column.name for column in fields(Answered)],
                "against_votes": {
                    name: against(answers, table[VOTES]) for name, answers in table.items() if VOTES in table
                },
                "answers": {name: [astuple(one) for one in answers] for name, answers in table.items()},
            }
            keep(record, args.json, indent=None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, default=300)
    parser.add_argument("--seed", type=int, default=20261)
    parser.add_argument("--parallel", type=int, default=8, help="questions in flight")
    parser.add_argument("--model", default="models/demo")
    parser.add_argument("--only", action="append", choices=list(SETUPS))
    parser.add_argument("--json", required=True)
    args = parser.parse_args()
    file = Path(args.json)
    uvloop.run(measure(args, json.loads(file.read_text()) if file.exists() else {}))


if __name__ == "__main__":
    main()
