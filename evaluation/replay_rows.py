"""What a replay comes to: a row for each setup at each cap over each pool, and over all pools together."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any

from ponder.compute.price import NANO, Price
from ponder.evaluation.intervals import Estimate, difference, mean, ratio
from ponder.evaluation.replay_jobs import Job
from ponder.evaluation.replaying import Replayed, Run

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
    bases = {(job.pool, job.conditions): run for job, run in runs.items() if job.setup.name == against}
    return [_row(job, run, bases[job.pool, job.conditions], price) for job, run in runs.items()]


def _row(job: Job, run: Run, base: Run, price: Price | None) -> Row:
    def values(of: Callable[[Replayed], float], run: Run = run) -> list[list[float]]:
        return [[of(one) for one in question] for question in run.requests]

    right, tokens, steps = values(_right), values(_tokens), values(_steps)
    every = [one for question in run.requests for one in question]
    return Row(
        pool=job.pool.name,
        cap=job.conditions.cap,
        setup=job.setup.name,
        right=mean(right, 100),
        difference=difference(right, values(_right, base), 100),
        tokens=mean(tokens),
        of_its_tokens=ratio(tokens, values(_tokens, base)),
        steps=mean(steps),
        of_its_steps=ratio(steps, values(_steps, base)),
        chains=fmean(one.samples for one in every),
        verifier=fmean(one.verifier for one in every),
        usd=None if price is None else mean(values(lambda one: price.cost(one.usage) / NANO)),
        degraded=sum(one.degraded for one in every),
        requests=len(every),
        cpu_seconds=run.cpu_seconds,
    )


def _right(one: Replayed) -> float:
    return one.right


def _tokens(one: Replayed) -> float:
    return one.tokens


def _steps(one: Replayed) -> float:
    return one.steps


def over_all(table: Sequence[Row]) -> list[Row]:
    """A row for each setup at each cap: the means over the pools, which are independent and count alike."""
    found: dict[tuple[int | None, str], list[Row]] = {}
    for row in table:
        found.setdefault((row.cap, row.setup), []).append(row)
    return [_over(cap, setup, each) for (cap, setup), each in found.items()]


def _over(cap: int | None, setup: str, each: Sequence[Row]) -> Row:
    def joint(of: Callable[[Row], Estimate]) -> Estimate:
        return _joint([of(row) for row in each])

    priced = [row.usd for row in each if row.usd is not None]
    return Row(
        pool=ALL,
        cap=cap,
        setup=setup,
        right=joint(lambda row: row.right),
        difference=joint(lambda row: row.difference),
        tokens=joint(lambda row: row.tokens),
        of_its_tokens=joint(lambda row: row.of_its_tokens),
        steps=joint(lambda row: row.steps),
        of_its_steps=joint(lambda row: row.of_its_steps),
        chains=fmean(row.chains for row in each),
        verifier=fmean(row.verifier for row in each),
        usd=_joint(priced) if len(priced) == len(each) else None,
        degraded=sum(row.degraded for row in each),
        requests=sum(row.requests for row in each),
        cpu_seconds=sum(row.cpu_seconds for row in each),
    )


def _joint(each: Sequence[Estimate]) -> Estimate:
    """The mean of independent figures; its intervals from theirs, each side for itself."""
    value = fmean(one.value for one in each)

    def reach(of: Callable[[Estimate], float]) -> float:
        return math.hypot(*(of(one) for one in each)) / len(each)

    return Estimate(
        value,
        value - reach(lambda one: one.value - one.low),
        value + reach(lambda one: one.high - one.value),
        value - reach(lambda one: one.value - one.low_here),
        value + reach(lambda one: one.high_here - one.value),
    )
