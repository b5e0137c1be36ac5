"""A plan from its flags to its text: what a load needs, and how it does there."""

from __future__ import annotations

import argparse
import json
import math
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ponder.evaluation.planning import capacity, inputs
from ponder.evaluation.planning.capacity import Database, Door, Limit, Taken
from ponder.evaluation.planning.demand import Arrivals, Demand, Kind, Lengths, LogNormal
from ponder.evaluation.planning.figures import Figures
from ponder.evaluation.planning.fleet import Fleet, Layout
from ponder.evaluation.planning.inputs import Model
from ponder.metering.series import release

MISUSED = 2
"""Exit status for a command line that cannot be meant."""
CELL = 16
"""Replicas that are simulated at most: of more the waits are shorter."""
WARM = 0.25
"""The part of the requests that come before any is counted: the longest take many times as long as others."""
IDLE = 0.01
"""The load of a replica that has next to nothing to do."""
TRIES = 12
"""Sizes of a fleet that are tried for a latency."""
MORE = 1.15
"""So many times as large is the next, at least."""
UNMEASURED = (3500.0, 14000.0)
"""p50 and p90 of a chain of a model of which nothing is known, as the server takes them."""
LARGE = 1 << 20


class OutOfReach(Exception):
    """No fleet does what is wanted; the message says why."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What a plan is for."""

    rate: float
    """At the busiest time, a second."""
    mean: float
    model: Model
    kinds: tuple[Kind, ...]
    load: float
    p95: float | None
    replicas: int | None
    doors: int | None
    door: Door
    database: Database
    price: float | None
    requests: int
    seed: int


@dataclass(frozen=True, slots=True)
class Plan:
    """What it comes to. Times in seconds."""

    taken: Taken
    each: float
    """Of a replica, a request."""
    replicas: int
    load: float
    doors: int
    simulated: int
    """Replicas that were."""
    figures: Figures | None
    seconds: float
    """How long a request is under way, the mean."""
    limits: list[Limit]
    alone: float
    """How long the mean chain takes on a replica with all slots taken."""


def tell(options: argparse.Namespace) -> int:
    """Makes a plan and prints it; returns the exit status."""
    try:
        asked = _asked(options)
    except (ValueError, OSError) as error:
        return _wrong(error, MISUSED)
    try:
        plan = made(asked)
    except OutOfReach as error:
        return _wrong(error, 1)
    out = sys.stderr if options.json == Path("-") else sys.stdout
    out.write(as_text(asked, plan) + "\n")
    if options.json is not None:
        text = json.dumps(told(asked, plan), indent=1) + "\n"
        if options.json == Path("-"):
            sys.stdout.write(text)
        else:
            try:
                options.json.write_text(text)
            except OSError as error:
                return _wrong(error, 1)
    return 0


def _asked(options: argparse.Namespace) -> Asked:
    """Raises `ValueError` and `OSError` for what is wrong."""
    if options.json is not None and (not options.json.parent.is_dir() or options.json.is_dir()):
        raise ValueError(f"--json {options.json}: there can be no such file")
    for flag in ("slots", "budget", "replicas", "doors", "p95", "price", "max_inflight", "max_chains", "database"):
        if (value := getattr(options, flag)) is not None:
            inputs.positive(value, f"--{flag.replace('_', '-')}")
    for flag in ("prompt", "door_request", "door_token", "requests"):
        if not getattr(options, flag) >= 0:
            raise ValueError(f"--{flag.replace('_', '-')}: {getattr(options, flag)} is below 0")
    if not 0 < options.load < 1:
        raise ValueError(f"--load: {options.load} is no part of a replica's time, above 0 and below 1")
    if not 1 <= options.peak < math.inf:
        raise ValueError(f"--peak: {options.peak} is below 1: the busiest time is no quieter than the mean")
    if options.p95 is not None and not options.requests:
        raise ValueError("--p95 wants requests to be simulated: leave --requests 0 out")
    model = inputs.model(options.model)
    if options.slots is not None:
        model = replace(model, slots=options.slots)
    chains: Lengths
    if options.pool is not None:
        chains = inputs.pool(options.pool)
    else:
        chains = LogNormal(*(inputs.lengths(options.lengths) if options.lengths else model.lengths or UNMEASURED))
    names: list[str] = options.strategy or ["auto"]
    kinds = [inputs.kind(name, chains, options.budget, prompt=options.prompt, judged=options.judged) for name in names]
    rate = inputs.arrivals(options.arrivals)
    return Asked(
        rate=rate * options.peak,
        mean=rate,
        model=model,
        kinds=tuple(kinds),
        load=options.load,
        p95=options.p95,
        replicas=options.replicas,
        doors=options.doors,
        door=Door(
            options.door_request / 1e3,
            options.door_token / 1e6,
            max_inflight=options.max_inflight,
            max_chains=options.max_chains,
        ),
        database=Database(options.database),
        price=model.price if options.price is None else options.price,
        requests=options.requests,
        seed=options.seed,
    )


def made(asked: Asked) -> Plan:
    """Raises `OutOfReach` where no fleet is quick enough, or the one that is there is too small."""
    costs, slots = asked.model.costs, asked.model.slots
    taken = capacity.taken(asked.kinds, asked.seed)
    each = taken.seconds(costs, slots)
    number = asked.replicas or capacity.replicas(asked.rate, each, asked.load)
    if asked.rate * each >= number:
        raise OutOfReach(
            f"{asked.rate:g} requests/s, each {each:.3g} s of a replica, keep {asked.rate * each:,.4g} replicas busy "
            f"all the time: on {number} they would wait ever longer. It takes "
            f"{capacity.replicas(asked.rate, each, asked.load)} at a load of {asked.load:g}"
        )
    figures, simulated = _simulated(asked, number)
    if asked.p95 is not None and asked.replicas is None:
        number, figures, simulated = _quick_enough(asked, number, each, figures, simulated)
    alone = taken.tokens / taken.chains * taken.step(costs, slots)
    seconds = alone if figures is None else figures.latency.mean
    doors = asked.doors or capacity.doors(asked.rate, taken, asked.door)
    limits = capacity.limits(asked.rate, seconds, taken, (number, each), asked.door, doors, asked.database)
    return Plan(
        taken,
        each,
        number,
        asked.rate * each / number,
        doors,
        simulated,
        figures,
        seconds,
        limits,
        alone,
    )


def _quick_enough(
    asked: Asked, number: int, each: float, figures: Figures | None, simulated: int
) -> tuple[int, Figures | None, int]:
    """So many replicas that requests are as quick as wanted. Raises `OutOfReach`."""
    if figures is None or asked.p95 is None or figures.latency.p95 <= asked.p95:
        return number, figures, simulated
    at_first = figures.latency.p95
    idle, _ = _simulated(replace(asked, rate=IDLE / each), 1)
    if idle is None or idle.latency.p95 <= asked.p95:
        for _ in range(TRIES):
            number = max(number + 1, math.ceil(MORE * number))
            figures, simulated = _simulated(asked, number)
            if figures is not None and figures.latency.p95 <= asked.p95:
                return number, figures, simulated
    found = "" if idle is None else f", and {idle.latency.p95:.0f} s on a replica that has nothing else to do"
    raise OutOfReach(
        f"of 100 requests 95 take up to {at_first:.0f} s at a load of {asked.load:g}{found}: {asked.p95:g} s are out "
        "of reach. Chains are too long for the steps of this model: give them a smaller budget, a quicker model, or "
        "another strategy"
    )


def _simulated(asked: Asked, number: int) -> tuple[Figures | None, int]:
    """How a fleet does, or a part of it under its part of the load."""
    if not asked.requests:
        return None, 0
    cell = min(number, CELL)
    layout = Layout(
        cell,
        asked.model.costs,
        asked.model.slots,
        max_inflight=LARGE,
        max_chains=LARGE,
        max_queue=LARGE,
        typical=max(1.0, asked.kinds[0].lengths.mean / 2),
    )
    demand = Demand(Arrivals(asked.rate * cell / number), asked.kinds, asked.seed)
    shown = sys.stderr.isatty()
    with tqdm(total=asked.requests, unit="request", file=sys.stderr, disable=not shown, leave=False) as bar:
        figures = Fleet(layout, seed=asked.seed).run(
            demand.requests(asked.requests), asked.requests, bar.update, warm=WARM
        )
    return figures, cell


def as_text(asked: Asked, plan: Plan) -> str:
    """Lines for people."""
    taken, model, figures = plan.taken, asked.model, plan.figures
    tokens = asked.rate * taken.tokens
    peak = f" at the busiest time ({asked.mean:,.4g} on average)" if asked.rate > asked.mean else ""
    rate = taken.rate(model.costs, model.slots)
    contexts = f" of {taken.context:,.0f} tokens of context each" if model.costs.context else ""
    lines = [
        f"requests    {asked.rate:,.4g} a second{peak}, of {taken.tokens:,.0f} tokens in {taken.chains:.1f} chains "
        f"each: {tokens:,.0f} tokens/s",
        f"the model   {model.name}, {model.source}",
        f"a replica   makes {rate:,.0f} tokens/s with {model.slots} chains at once{contexts}; a token takes "
        f"{1e6 / rate:,.0f} µs of it, a request {plan.each:.3g} s",
        f"replicas    {plan.replicas}, at a load of {plan.load:.2f}"
        + (f"; {asked.rate * plan.each / (plan.replicas - 1):.2f} while one is away" if plan.replicas > 1 else ""),
    ]
    if figures is not None:
        latency, waits = figures.latency, figures.slot_wait
        cell = f" (simulated on {plan.simulated} of them)" if plan.simulated < plan.replicas else " (simulated)"
        lines += [
            f"a request   takes {latency.p50:,.1f} s at the median, {latency.p95:,.1f} s at the 95th percentile, "
            f"{latency.p99:,.1f} s at the 99th{cell}",
            f"a chain     waits {waits.mean:,.2f} s for its slot on average, {waits.p95:,.2f} s at the 95th percentile "
            f"while {figures.slots_used:.0%} of the slots are taken",
        ]
        if len(figures.owners) > 1:
            lines += [
                f"  {name}: {spread.p50:,.1f} s at the median, {spread.p95:,.1f} s at the 95th percentile"
                for name, spread in figures.owners.items()
            ]
    busy = capacity.door_busy(asked.rate, taken, asked.door)
    inside = asked.rate * plan.seconds
    lines += [
        f"doors       {plan.doors}: {busy / plan.doors:.2f} of a processor each; {inside:,.0f} requests are under way, "
        f"which count as {inside * taken.counted:,.0f} chains",
        f"PostgreSQL  at most {asked.rate * asked.database.commits_a_request:,.4g} commits/s for "
        f"{asked.rate:,.4g} requests/s; {asked.database.requests:,.0f} requests/s are carried",
    ]
    if asked.price is not None:
        hour = plan.replicas * asked.price
        lines.append(
            f"cost        {hour:,.2f} an hour for replicas, {1000 * hour / (asked.mean * 3600):,.3f} for 1,000 "
            f"requests, {1e6 * hour / (asked.mean * taken.tokens * 3600):,.3f} for a million tokens"
        )
    first, second = plan.limits[:2]
    over = [limit for limit in plan.limits if limit.used > 1]
    lines.append(
        f"first       {first.name}: {first.used:.0%} used ({first.advice}); then {second.name}: {second.used:.0%}"
    )
    lines += [f"            too small already: {limit.name} ({limit.advice})" for limit in over]
    return "\n".join(lines)


def told(asked: Asked, plan: Plan) -> dict[str, Any]:
    """The plan as JSON."""
    model = asked.model
    hour = None if asked.price is None else plan.replicas * asked.price
    return {
        "ponder": release(),
        "command": ["ponder", *sys.argv[1:]],
        "arrivals_per_second": asked.mean,
        "arrivals_per_second_at_peak": asked.rate,
        "model": {"name": model.name, "slots": model.slots, "source": model.source, "costs": asdict(model.costs)},
        "strategies": [{"strategy": kind.owner, "share": kind.share} for kind in asked.kinds],
        "request": asdict(plan.taken) | {"replica_seconds": plan.each},
        "replicas": plan.replicas,
        "load": plan.load,
        "doors": plan.doors,
        "door": asdict(asked.door) | {"busy": capacity.door_busy(asked.rate, plan.taken, asked.door) / plan.doors},
        "database": asdict(asked.database) | {"commits_per_second": asked.rate * asked.database.commits_a_request},
        "under_way": asked.rate * plan.seconds,
        "cost_per_hour": hour,
        "simulated_replicas": plan.simulated,
        "simulated": None if plan.figures is None else asdict(plan.figures),
        "limits": [asdict(limit) for limit in plan.limits],
    }


def _wrong(error: Exception, status: int) -> int:
    sys.stderr.write(f"ponder plan: {error}\n")
    return status
