"""What a replay comes to: a row for each setup at each cap over each pool, and over all pools together."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any

from ponder.compute.price import NANO, Price
from ponder.evaluation.intervals import Estimate, Figure, difference_of, joint, mean_of, ratio_of
from ponder.evaluation.replaying.jobs import Job
from ponder.evaluation.replaying.replay import Conditions, Replayed, Run

ALL = "all pools"


@dataclass(frozen=True, slots=True)
class Row:
    """A setup at a cap over a pool, and what it is against another on the same samples."""

    pool: str
    cap: int | None
    setup: str
    right: Estimate
    """Right answers, in percent."""
    difference: Estimate
    """Of right answers to the setup it is held against, in points."""
    tokens: Estimate
    """Generated for a question."""
    of_its_tokens: Estimate
    """As a part of those of the setup it is held against."""
    steps: Estimate
    """Latency of a question, in decode steps."""
    of_its_steps: Estimate
    chains: float
    verifier: float
    """Tokens that a reward model read for a question."""
    usd: Estimate | None
    """For a question; None without prices."""
    degraded: int
    """Requests in which the fallback judged, because the verifier failed."""
    requests: int
    cpu_seconds: float
    """That the replay took."""

    @property
    def told(self) -> dict[str, Any]:
        """As JSON has it."""
        return _told(asdict(self))


def _told(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _told(one) for name, one in value.items()}  # pyright: ignore[reportUnknownVariableType]
    if isinstance(value, float):
        return None if math.isnan(value) else round(value, 9)
    return value


def rows(runs: Mapping[Job, Run], against: str, price: Price | None) -> list[Row]:
    """A row for each run, held against that of the setup called so, over the same pool at the same cap."""
    found = _figures(runs, against, price)
    return [
        _row(job.pool.name, job, {name: one.estimate() for name, one in found[job].items()}, [run])
        for job, run in runs.items()
    ]


def over_all(runs: Mapping[Job, Run], against: str, price: Price | None) -> list[Row]:
    """A row for each setup at each cap: the means over the pools, which count alike. Questions that several pools have
    are drawn together."""
    figures = _figures(runs, against, price)
    found: dict[tuple[Conditions, str], list[Job]] = {}
    for job in runs:
        found.setdefault((job.conditions, job.setup.name), []).append(job)
    table: list[Row] = []
    for jobs in found.values():
        names = [[(question.name, question.gold) for question in job.pool.questions()] for job in jobs]
        together = {name: joint([figures[job][name] for job in jobs], names) for name in figures[jobs[0]]}
        table.append(_row(ALL, jobs[0], together, [runs[job] for job in jobs]))
    return table


def _figures(runs: Mapping[Job, Run], against: str, price: Price | None) -> dict[Job, dict[str, Figure]]:
    """Those of each run that have intervals, by their names in a row."""
    bases = {(job.pool, job.conditions): run for job, run in runs.items() if job.setup.name == against}
    found: dict[Job, dict[str, Figure]] = {}
    for job, run in runs.items():
        base = bases[job.pool, job.conditions]
        right, tokens, steps = (_values(run, of) for of in (_right, _tokens, _steps))
        found[job] = {
            "right": mean_of(right, 100),
            "difference": difference_of(right, _values(base, _right), 100),
            "tokens": mean_of(tokens),
            "of_its_tokens": ratio_of(tokens, _values(base, _tokens)),
            "steps": mean_of(steps),
            "of_its_steps": ratio_of(steps, _values(base, _steps)),
        }
        if price is not None:
            found[job]["usd"] = mean_of(_values(run, lambda one: price.cost(one.usage) / NANO))
    return found


def _values(run: Run, of: Callable[[Replayed], float]) -> list[list[float]]:
    return [[of(one) for one in question] for question in run.requests]


def _right(one: Replayed) -> float:
    return one.right


def _tokens(one: Replayed) -> float:
    return one.tokens


def _steps(one: Replayed) -> float:
    return one.steps


def _row(pool: str, job: Job, figures: Mapping[str, Estimate], runs: Sequence[Run]) -> Row:
    each = [[one for question in run.requests for one in question] for run in runs]
    return Row(
        pool=pool,
        cap=job.conditions.cap,
        setup=job.setup.name,
        right=figures["right"],
        difference=figures["difference"],
        tokens=figures["tokens"],
        of_its_tokens=figures["of_its_tokens"],
        steps=figures["steps"],
        of_its_steps=figures["of_its_steps"],
        chains=fmean(fmean(one.samples for one in requests) for requests in each),
        verifier=fmean(fmean(one.verifier for one in requests) for requests in each),
        usd=figures.get("usd"),
        degraded=sum(one.degraded for requests in each for one in requests),
        requests=sum(map(len, each)),
        cpu_seconds=sum(run.cpu_seconds for run in runs),
    )
