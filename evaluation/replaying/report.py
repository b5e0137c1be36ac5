"""A replay from its flags to its table: what is run, how far it is, and what is written."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ponder.compute.policy import BUILT_IN, read
from ponder.compute.price import Price
from ponder.evaluation.pools import Pool, files
from ponder.evaluation.replaying import prices
from ponder.evaluation.replaying.jobs import Job, Kept, run_all
from ponder.evaluation.replaying.replay import CannotReplay, Conditions, Setup, verifier_of
from ponder.evaluation.replaying.rows import ALL, Row, over_all, rows
from ponder.evaluation.replaying.table import as_text
from ponder.metering.series import release

MISUSED = 2
"""Exit status for a command line that cannot be meant."""


def tell(options: argparse.Namespace) -> int:
    """Runs all that the flags ask for, and returns the exit status."""
    try:
        jobs, against, price = _asked(options)
    except (CannotReplay, ValueError, OSError) as error:
        return _wrong(error, MISUSED)
    try:
        kept = Kept(options.resume)
        with _bar(sum(job.requests for job in jobs if kept.get(job) is None)) as bar:
            runs = run_all(jobs, kept, options.jobs, bar.update)
    except (CannotReplay, OSError) as error:
        return _wrong(error, 1)
    table = rows(runs, against, price)
    pools = list(dict.fromkeys(job.pool for job in jobs))
    whole = over_all(runs, against, price) if len(pools) > 1 else []
    # Where JSON goes to standard output, there is nothing else.
    out = sys.stderr if options.json == Path("-") else sys.stdout
    for pool in pools:
        number = len(pool.questions())
        out.write(f"{pool.name}: {number} questions, {options.draws} draws of each\n")
        out.write(as_text([row for row in table if row.pool == pool.name], against) + "\n\n")
    if whole:
        out.write(f"{ALL}: means of {len(pools)}\n{as_text(whole, against)}\n\n")
    try:
        _write(options, jobs, against, [*table, *whole])
    except OSError as error:
        return _wrong(error, 1)
    return 0


def _write(options: argparse.Namespace, jobs: Sequence[Job], against: str, table: Sequence[Row]) -> None:
    """What is asked for beside the tables. Raises `OSError`."""
    if options.json is not None:
        text = json.dumps(_told(jobs, against, table), indent=1) + "\n"
        if options.json == Path("-"):
            sys.stdout.write(text)
        else:
            options.json.write_text(text)
    if options.plot is not None:
        # matplotlib takes a second to come.
        from ponder.evaluation.replaying.plot import draw

        draw(table, options.plot)


def _asked(options: argparse.Namespace) -> tuple[list[Job], str, Price | None]:
    """What is to be run, what it is held against, and prices. Raises what says that something is wrong."""
    if options.plot is not None and options.plot.suffix not in (".png", ".svg"):
        raise ValueError(f"{options.plot}: a plot is a .png or a .svg")
    for file in (options.plot, options.json, options.resume):
        if file is not None and not file.parent.is_dir():
            raise ValueError(f"{file}: there is no folder {file.parent}")
        if file is not None and file.is_dir():
            raise ValueError(f"{file}: this is a folder")
    names: list[str] = list(options.strategies)
    against: str = options.against or names[0]
    setups = [Setup.of(name) for name in dict.fromkeys([against, *names])]
    if options.verifier is not None:
        verifier_of(options.verifier)
    policy = BUILT_IN if options.policy is None else read(options.policy.read_text())
    pools = [Pool(file, options.questions, options.seed) for file in files(options.pools)]
    if len({pool.name for pool in pools}) < len(pools):
        raise ValueError("two pools have the same name: rows would not tell them apart")
    conditions = [
        Conditions(
            cap=cap,
            draws=options.draws,
            seed=options.seed,
            seeded=options.seeded,
            answer_tokens=options.answer_tokens,
            prompt_tokens=options.prompt_tokens,
            prior=options.prior,
            verifier=options.verifier,
            policy=policy,
        )
        for cap in options.caps
    ]
    for pool in pools:
        pool.questions()
    jobs = [Job(pool, setup, each) for pool in pools for each in conditions for setup in setups]
    return jobs, against, _price(options)


def _price(options: argparse.Namespace) -> Price | None:
    if options.prices is None:
        if options.model is not None:
            raise ValueError("--model wants --prices FILE, whose prices it names")
        return None
    if "=" in options.prices:
        return prices.typed(options.prices)
    return prices.of_a_configuration(Path(options.prices), options.model)


def _bar(requests: int) -> Any:
    """How far it is and how long it will take, where somebody looks at a terminal."""
    return tqdm(total=requests, unit="request", file=sys.stderr, disable=not sys.stderr.isatty(), mininterval=0.2)


def _told(jobs: Sequence[Job], against: str, table: Sequence[Row]) -> dict[str, Any]:
    return {
        "ponder": release(),
        "command": ["ponder", *sys.argv[1:]],
        "against": against,
        # Rows have their caps; the rest is the same for all.
        "conditions": {**asdict(jobs[0].conditions), "cap": None, "questions": jobs[0].pool.most},
        "rows": [row.told for row in table],
    }


def _wrong(error: Exception, status: int) -> int:
    sys.stderr.write(f"ponder replay: {error}\n")
    return status
