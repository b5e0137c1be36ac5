"""When votes stop, over recorded samples: `auto` beside a full vote, Adaptive-Consistency and ESC, at equal tokens.

    python -m bench.stopping POOL... --draws 100 --json bench/results/auto-aime.json
    python -m bench.stopping POOL... --draws 100 --search

Nothing binds but the vote: there are no budgets. The decisions are those of `strategies/stopping.py` and the order of
the samples is that of `ponder replay`, which runs the whole strategy instead and comes to the same, a hundred times
slower. Adaptive-Consistency (Aggarwal et al. 2023) draws one chain after the other until its Beta rule is met; ESC (Li
et al. 2024, "Escape Sky-high Cost") draws windows until one is unanimous. Latency is in decode steps, tokens and
latency as parts of those of all chains side by side. Intervals are 95 %, over resamplings, by pairs.

`--search` chooses `lead` and `slope` on all pools but one, for the least tokens at no more than `--loss` points, and
tells what the choice is worth on the one left out.
"""

from __future__ import annotations

import argparse
import asyncio
import heapq
import itertools
import random
import statistics
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from bench.machine import describe, keep
from ponder.compute.policy import BUILT_IN, Pace, Policy
from ponder.engines.samples import Question, Sample, read
from ponder.strategies.stopping import Standing, abreast, stops
from ponder.strategies.voting import lead_probability

AHEAD = cache(lead_probability)


@dataclass(frozen=True, slots=True)
class Voted:
    """One vote: the answer it came to, and what it cost."""

    answer: int | None
    tokens: float
    steps: float


Way = Callable[[Sequence[Sample]], Voted]
"""What becomes of the samples of a question in one order."""


def standing(samples: Sequence[Sample], shorter_first: bool = False) -> tuple[int | None, int, int]:
    """(leading answer, its votes, those of the runner-up). Of equals the first, or the one with fewer tokens."""
    votes: Counter[int] = Counter()
    tokens: Counter[int] = Counter()
    for sample in samples:
        if sample.answer is not None:
            votes[sample.answer] += 1
            tokens[sample.answer] += sample.tokens * shorter_first
    ranked = sorted(votes, key=lambda answer: (-votes[answer], tokens[answer]))
    first, second = (*(votes[answer] for answer in ranked[:2]), 0, 0)[:2]
    return ranked[0] if ranked else None, first, second


def in_full(samples: Sequence[Sample]) -> Voted:
    """All of them side by side."""
    tokens = [sample.tokens for sample in samples]
    return Voted(standing(samples)[0], sum(tokens), max(tokens))


def adaptive_consistency(threshold: float) -> Way:
    def vote(samples: Sequence[Sample]) -> Voted:
        tokens = 0
        for n, sample in enumerate(samples, 1):
            tokens += sample.tokens
            leader, first, second = standing(samples[:n])
            if first and AHEAD(first, second) >= threshold:
                return Voted(leader, tokens, tokens)
        return Voted(standing(samples)[0], tokens, tokens)

    return vote


def esc(window: int) -> Way:
    def vote(samples: Sequence[Sample]) -> Voted:
        tokens = steps = drawn = 0
        for batch in (samples[i : i + window] for i in range(0, len(samples), window)):
            drawn += len(batch)
            tokens += sum(sample.tokens for sample in batch)
            steps += max(sample.tokens for sample in batch)
            answers = {sample.answer for sample in batch}
            if len(answers) == 1 and None not in answers:
                break
        return Voted(standing(samples[:drawn])[0], tokens, steps)

    return vote


def auto(policy: Policy, pace: Pace) -> Way:
    """As the strategy does it, with as many chains at most as there are samples."""

    @cache
    def side_by_side(first: int, second: int, ended: int) -> int:
        return abreast(Standing(first, second, ended, policy.chains, chains=first), policy, pace)

    def vote(samples: Sequence[Sample]) -> Voted:
        writing: list[tuple[int, int, int]] = []
        ended: list[int] = []
        clock, wanted, begun = 0, pace.first, 0
        leader: int | None = None
        while len(ended) < len(samples):
            while begun < len(samples) and len(writing) < wanted:
                heapq.heappush(writing, (clock + samples[begun].tokens, begun, clock))
                begun += 1
            clock, number, _ = heapq.heappop(writing)
            ended = sorted([*ended, number])
            leader, first, second = standing([samples[i] for i in ended], shorter_first=True)
            usual = statistics.fmean(samples[i].tokens for i in ended)
            against = pace.doubt * sum(min(1.0, (clock - since) / usual) for _, _, since in writing)
            if stops(Standing(first, second, len(ended), policy.chains, against, first), policy):
                break
            wanted = side_by_side(first, second, len(ended))
        tokens = sum(samples[i].tokens for i in ended) + sum(clock - since for _, _, since in writing)
        return Voted(leader, tokens, clock)

    return vote


@dataclass(frozen=True)
class Row:
    """A way over one pool: for each question and draw, beside the full vote."""

    pool: str
    way: str
    gains: list[list[float]]
    """Points of accuracy over the full vote, by question and draw."""
    tokens: float
    steps: float
    full_tokens: float
    full_steps: float

    @property
    def gain(self) -> float:
        return statistics.fmean(map(statistics.fmean, self.gains))

    @property
    def variance(self) -> float:
        """Of the gain, over resamplings of these questions."""
        return sum(statistics.variance(gains) / len(gains) for gains in self.gains) / len(self.gains) ** 2


def orders(questions: Sequence[Question], draws: int, most: int) -> list[list[list[Sample]]]:
    """The samples of each question in as many orders as there are draws."""
    drawn: list[list[list[Sample]]] = []
    for q, question in enumerate(questions):
        drawn.append([])
        for draw in range(draws):
            order = list(range(len(question.samples)))
            random.Random(f"0.{q}.{draw}").shuffle(order)
            drawn[q].append([question.samples[i] for i in order[:most]])
    return drawn


def row(
    pool: str, questions: Sequence[Question], drawn: Sequence[Sequence[Sequence[Sample]]], way: str, of: Way
) -> Row:
    pairs = [[(of(samples), in_full(samples)) for samples in one] for one in drawn]
    flat = [pair for one in pairs for pair in one]
    gains = [
        [100.0 * ((mine.answer in question.right) - (full.answer in question.right)) for mine, full in one]
        for question, one in zip(questions, pairs, strict=True)
    ]
    mine, full = ([pair[i] for pair in flat] for i in (0, 1))
    figures = [statistics.fmean(getattr(voted, name) for voted in all_) for all_ in (mine, full) for name in COSTS]
    return Row(pool, way, gains, *figures)


COSTS = ("tokens", "steps")


def figures(rows: Sequence[Row]) -> dict[str, Any]:
    """One row, or the mean over the pools of several."""
    n = len(rows)
    return {
        "pool": rows[0].pool if n == 1 else f"{n} pools",
        "way": rows[0].way,
        "gain": round(statistics.fmean(r.gain for r in rows), 3),
        "interval": round(1.96 * sum(r.variance for r in rows) ** 0.5 / n, 3),
        "tokens": round(sum(r.tokens for r in rows) / sum(r.full_tokens for r in rows), 4),
        "steps": round(sum(r.steps for r in rows) / sum(r.full_steps for r in rows), 3),
    }


def at_equal_tokens(points: Sequence[dict[str, Any]], tokens: float) -> float:
    """The gain at so many tokens, on straight lines between the points."""
    ordered = sorted((point["tokens"], point["gain"]) for point in points)
    for (x0, y0), (x1, y1) in itertools.pairwise(ordered):
        if x0 <= tokens <= x1:
            return y0 + (y1 - y0) * (tokens - x0) / (x1 - x0)
    return ordered[0][1] if tokens < ordered[0][0] else ordered[-1][1]


Pools = dict[str, tuple[list[Question], list[list[list[Sample]]]]]


def over(pools: Pools, name: str, way: Way) -> list[Row]:
    return [row(pool, questions, drawn, name, way) for pool, (questions, drawn) in pools.items()]


def show(found: dict[str, Any]) -> dict[str, Any]:
    print(
        f"{found['pool']:36} {found['way']:26} {found['gain']:+7.2f} ±{found['interval']:5.2f}"
        f" {100 * found['tokens']:6.1f} % {found['steps']:6.2f}",
        flush=True,
    )
    return found


def compare(pools: Pools, policy: Policy) -> list[dict[str, Any]]:
    ways: dict[str, Way] = {
        "auto": auto(policy, policy.tokens),
        "auto:prefer=latency": auto(policy, policy.latency),
    }
    others = {
        "Adaptive-Consistency": {f"{t}": adaptive_consistency(t) for t in (0.8, 0.85, 0.9, 0.93, 0.95, 0.97, 0.99)},
        "ESC": {f"{w}": esc(w) for w in (2, 3, 4, 5, 6, 8, 10)},
    }
    print(f"{'':36} {'':26} {'points':>14} {'tokens':>8} {'steps':>6}")
    kept: list[dict[str, Any]] = []
    for name, way in ways.items():
        rows = over(pools, name, way)
        kept += [show(figures([one])) for one in rows] + [show(figures(rows))]
    for family, members in others.items():
        points = [show(figures(over(pools, f"{family} {name}", way))) for name, way in members.items()]
        for mine in [found for found in kept if found["pool"] == points[0]["pool"] and found["way"] in ways]:
            there = at_equal_tokens(points, mine["tokens"])
            print(f"{family} at the tokens of {mine['way']}: {there:+.2f}, which has {mine['gain']:+.2f}")
            mine[f"{family} at equal tokens"] = round(there, 3)
        kept += points
    return kept


def search(pools: Pools, policy: Policy, loss: float) -> list[dict[str, Any]]:
    """Chosen on all pools but one, told of that one."""
    grid = [(lead / 100, slope / 100) for lead in range(84, 98, 2) for slope in (5, 15, 20, 25, 30, 35)]
    rows: dict[tuple[float, float], list[Row]] = {}
    for lead, slope in grid:
        tried = replace(policy, lead=lead, slope=slope)
        rows[lead, slope] = over(pools, f"lead={lead} slope={slope}", auto(tried, tried.tokens))
        show(figures(rows[lead, slope]))
    left_out: list[Row] = []
    for i, pool in enumerate(pools):
        others = {key: figures([*of[:i], *of[i + 1 :]]) for key, of in rows.items()}
        good = {key: found for key, found in others.items() if found["gain"] >= -loss} or others
        chosen = min(good, key=lambda key: good[key]["tokens"])
        print(f"without {pool}: lead {chosen[0]}, slope {chosen[1]}; there:")
        left_out.append(rows[chosen][i])
        show(figures([left_out[-1]]))
    print("the mean of those left out:")
    mean = show({**figures(left_out), "way": "chosen without the pool"})
    return [*(figures([one]) for one in left_out), mean]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pools", nargs="+", type=Path, metavar="POOL", help="files whose answers were recorded")
    parser.add_argument("--draws", type=int, default=100, help="orders of the samples of each question")
    parser.add_argument("--n", type=int, default=BUILT_IN.chains, help="chains at most")
    parser.add_argument("--search", action="store_true")
    parser.add_argument("--loss", type=float, default=0.25, help="points that a choice may lose on the others")
    parser.add_argument("--json")
    options = parser.parse_args()
    pools: Pools = {}
    for file in options.pools:
        questions = asyncio.run(read(file.read_text()))
        pools[file.stem] = questions, orders(questions, options.draws, options.n)
    policy = replace(BUILT_IN, chains=options.n)
    rows = search(pools, policy, options.loss) if options.search else compare(pools, policy)
    keep({**describe(), "draws": options.draws, "rows": rows}, options.json)


if __name__ == "__main__":
    main()
