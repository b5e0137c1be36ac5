"""Which rules of door, queue and routing hold at what load: a fleet of 1 to 1,000 replicas in events.

    python -m bench.planning --json bench/results/planning.json
    python -m bench.planning --million --json bench/results/planning-million.json

No model and no server runs; `tests/evaluation/test_planning.py` holds the events against the real server. Four of five
requests are `direct`, of one key; the others are `auto` with at most 8 chains, of another. Chains have 764 tokens at
the median and 2,000 at the 90th percentile. Steps are as long as measured on one H100 for the shape of Qwen2.5-7B
(`bench/results/overhead-gpu.json`), with 16 chains at once, as many as a small memory holds: with more, waits are
shorter. A prompt has 500 tokens, of which 300 are shared with those of one of 200 groups. What is in the file already
is not run again. Loads are parts of what the replicas can do, prompts read once included.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, cast

from bench import machine
from ponder.compute.policy import BUILT_IN
from ponder.evaluation.asking.progress import Progress
from ponder.evaluation.planning.capacity import taken
from ponder.evaluation.planning.demand import Arrivals, Demand, Kind, LogNormal
from ponder.evaluation.planning.fleet import Fleet, Layout
from ponder.evaluation.planning.patterns import Fixed, of
from ponder.evaluation.planning.replica import Costs
from ponder.evaluation.planning.routing import RULES, Rule
from ponder.strategies.auto import Auto

COSTS = Costs(((1, 1 / 154), (8, 8 / 974), (64, 64 / 4919)), read=3.8e-5)
"""Seconds of a step by what was measured at 1, 8 and 64 at once. What a token read costs is reckoned: two operations
for each of 7.6 billion weights, at 400 TFLOP/s."""
SLOTS = 16
LENGTHS = LogNormal(764, 2000, longest=16384)
PROMPT, SHARED, GROUPS = 500, 300, 200
LARGE = 1 << 20


@dataclass(frozen=True)
class Trial:
    """A fleet under a load. By default the door has no bounds, so that only rules decide."""

    replicas: int
    load: float
    requests: int
    routing: Rule = "bounded"
    fair: bool = True
    doors: int = 1
    divided: bool = True
    burst: float = 1.0
    lives: float = 0.0
    part: str = "routing"
    poll: float = 5.0

    @property
    def name(self) -> str:
        return " ".join(str(value) for value in asdict(self).values())


def demand(rate: float, burst: float = 1.0) -> Demand:
    light = Kind(Fixed, LENGTHS, 0.8, "light", prompt=PROMPT, shared=SHARED, groups=GROUPS, most=32_768)
    heavy = replace(light, pattern=of(Auto(n=8), BUILT_IN, 8), share=0.2, owner="heavy")
    return Demand(Arrivals(rate, burst=burst, lasting=10), [light, heavy])


@cache
def price() -> float:
    """Seconds of a replica that a request takes."""
    return taken(demand(1).kinds, 0).seconds(COSTS, SLOTS)


def trials() -> Iterator[Trial]:
    for replicas, requests in ((1, 3000), (10, 8000), (100, 20_000)):
        for load in (0.5, 0.8, 0.95):
            for rule in RULES if replicas > 1 else RULES[:1]:
                yield Trial(replicas, load, requests, rule)
    for replicas, requests in ((1, 3000), (10, 8000), (100, 20_000)):
        for load in (0.7, 0.9):
            for fair in (True, False):
                yield Trial(replicas, load, requests, "bounded", fair, burst=3.0, part="queue")
    for doors in (2, 8):
        for rule in ("bounded", "least", "two"):
            for divided in (True, False):
                yield Trial(100, 0.9, 20_000, rule, doors=doors, divided=divided, part="doors")
    for load in (0.7, 0.9):
        yield Trial(100, load, 20_000, lives=1800.0, part="failures")
    for rule in ("bounded", "least"):
        yield Trial(100, 0.9, 20_000, rule, doors=8, part="doors", poll=1.0)
    for rule in ("affinity", "bounded", "least", "random"):
        yield Trial(1000, 0.9, 120_000, rule)


def run(trial: Trial, progress: Progress) -> dict[str, Any]:
    layout = Layout(
        trial.replicas,
        COSTS,
        SLOTS,
        doors=trial.doors,
        routing=trial.routing,
        fair=trial.fair,
        divided=trial.divided,
        max_inflight=LARGE,
        max_chains=LARGE,
        max_queue=LARGE,
        lives=trial.lives,
        poll=trial.poll,
        away=120.0,
        typical=LENGTHS.p50,
    )
    rate = trial.load * trial.replicas / price()

    def told(more: int) -> None:
        for _ in range(more):
            progress.advance()

    began = time.process_time()
    figures = Fleet(layout).run(demand(rate, trial.burst).requests(trial.requests), trial.requests, told, warm=0.3)
    return {
        **asdict(trial),
        "rate": round(rate, 3),
        "cpu_seconds": round(time.process_time() - began, 1),
        **{"answered" if name == "requests" else name: rounded(value) for name, value in asdict(figures).items()},
    }


def rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: rounded(one) for name, one in cast("dict[str, Any]", value).items()}
    return float(f"{value:.4g}") if isinstance(value, float) else value


def show(row: dict[str, Any]) -> None:
    owners = row["owners"]
    how = f"{row['routing']:9}{'fair' if row['fair'] else 'fifo':5}{row['doors']} "
    how += "parts" if row["divided"] else "whole"
    how += f"{'  bursts' if row['burst'] > 1 else ''}{'  failures' if row['lives'] else ''}"
    how += f"  asks each {row['poll']:g} s" if row["doors"] > 1 else ""
    print(
        f"{row['replicas']:5} x{row['load']:5.2f}  {how:30}  light p50 {owners['light']['p50']:7.1f} "
        f"p95 {owners['light']['p95']:7.1f}  heavy p95 {owners['heavy']['p95']:7.1f}  slot wait p95 "
        f"{row['slot_wait']['p95']:6.1f}  replica {row['replica_wait']['p95']:6.1f}  uneven {row['uneven']:5.2f}  "
        f"cached {row['cached']:5.2f}  {row['tokens_per_second']:9.0f} tok/s  {row['cpu_seconds']:6.1f} s",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--million", action="store_true", help="a million requests on 1,000 replicas, and nothing else")
    parser.add_argument("--json", metavar="FILE", help="keep the results in this file, and take from it what is there")
    options = parser.parse_args()
    head = machine.describe()
    print(f"{head['machine']}\n{head['versions']}")
    asked: Sequence[Trial] = [Trial(1000, 0.9, 1_000_000)] if options.million else list(trials())
    rows: list[dict[str, Any]] = []
    if options.json and Path(options.json).exists():
        rows = json.loads(Path(options.json).read_text())["results"]
    fields = Trial.__dataclass_fields__
    known = {Trial(**{name: row[name] for name in fields if name in row}).name for row in rows}
    left = [trial for trial in asked if trial.name not in known]
    with Progress(sum(trial.requests for trial in left), 0) as progress:
        for trial in left:
            rows.append(run(trial, progress))
            show(rows[-1])
            if options.json:
                result = {**head, "seconds_a_request": price(), "results": rows}
                Path(options.json).write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
