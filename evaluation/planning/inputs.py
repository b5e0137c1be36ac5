"""What `ponder plan` is told, read and checked: how often requests come, what a model's steps take, how long its chains
are."""

from __future__ import annotations

import asyncio
import difflib
import json
import math
import re
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

from ponder.compute.lengths import NEVER_STARVE
from ponder.compute.policy import BUILT_IN, Policy
from ponder.engines.samples import read
from ponder.evaluation.planning.demand import Kind, Lengths, LogNormal, Pool
from ponder.evaluation.planning.patterns import most, of
from ponder.evaluation.planning.replica import Costs
from ponder.evaluation.replaying.replay import Setup

UNITS = {"s": 1.0, "min": 60.0, "h": 3600.0, "day": 86400.0}


@dataclass(frozen=True, slots=True)
class Model:
    """A model on one replica."""

    name: str
    costs: Costs
    slots: int
    """Chains that a replica works on at a time: vLLM's `max_num_seqs`, as far as its memory holds them."""
    lengths: tuple[float, float] | None = None
    """p50 and p90 of a chain, in tokens."""
    price: float | None = None
    """Of a replica an hour."""
    source: str = "as given"


MODELS = {
    "qwen2.5-7b-h100": Model(
        "qwen2.5-7b-h100",
        Costs(
            ((1, 6.15e-3), (8, 6.28e-3), (32, 6.33e-3), (64, 6.65e-3), (128, 7.16e-3), (256, 9.56e-3)),
            read=2.1e-5,
            context=1.79e-8,
        ),
        128,
        source="measured on one H100 with contexts of 300 to 16,000 tokens, a model of the shape of Qwen2.5-7B "
        "(bench/results/decode-gpu.json)",
    )
}
"""What comes with Ponder, to have something to begin with."""

THOUSANDS = re.compile(r"\d{1,3}(,\d{3})+(\.\d+)?")

KNOWN = (
    "name",
    "tokens_per_second",
    "step_seconds",
    "read_seconds",
    "context_seconds",
    "slots",
    "lengths",
    "price_per_hour",
)


def arrivals(text: str) -> float:
    """Requests a second of `5`, `5/s`, `300/min` or `200,000/day`. Raises `ValueError`."""
    number, slash, unit = text.partition("/")
    if "," in number and THOUSANDS.fullmatch(number):
        number = number.replace(",", "")
    if slash and unit not in UNITS:
        raise ValueError(f"{text}: {unit!r} is no unit; write a number, or NUMBER/UNIT with one of {', '.join(UNITS)}")
    return positive(number, text) / UNITS[unit or "s"]


def positive(number: Any, where: str) -> float:
    """A number above 0. Raises `ValueError`."""
    try:
        value = float(number)
    except (TypeError, ValueError):
        value = math.nan
    if isinstance(number, bool) or not 0 < value < math.inf:
        raise ValueError(f"{where}: {number!r} is no number above 0")
    return value


def model(text: str) -> Model:
    """A model by a name of ours, by what was measured (`1:154,8:974,64:4919`, tokens a second by chains at once), or by
    a JSON file. Raises `ValueError`, and `OSError` for a file that cannot be read."""
    if text in MODELS:
        return MODELS[text]
    if ":" in text and not Path(text).exists():
        rates: dict[str, Any] = {}
        for part in text.split(","):
            batch, _, rate = part.partition(":")
            rates[batch.strip()] = rate
        return Model("typed", Costs(_steps(rates, "--model", rates=True)), _largest(rates))
    if not Path(text).exists():
        raise ValueError(
            f"{text} is no file and no model that is known here ({', '.join(MODELS)}); give a JSON file, or tokens a "
            "second by chains at once: 1:150,8:950,64:4900"
        )
    try:
        told: Any = json.loads(Path(text).read_text())
    except ValueError as error:
        raise ValueError(f"{text} is no JSON: {error}") from None
    if not isinstance(told, dict):
        raise ValueError(f"{text}: it is no JSON object")
    return _described(cast("dict[str, Any]", told), text)


def _described(told: dict[str, Any], file: str) -> Model:
    for name in told:
        if name not in KNOWN:
            near = difflib.get_close_matches(name, KNOWN, n=1)
            raise ValueError(
                f"{file}: there is no field {name!r}{f'; did you mean {near[0]}?' if near else ''} "
                f"(there are {', '.join(KNOWN)})"
            )
    given = [name for name in ("tokens_per_second", "step_seconds") if name in told]
    if len(given) != 1:
        raise ValueError(f"{file}: it wants one of tokens_per_second and step_seconds, by chains at once")
    table = told[given[0]]
    if not isinstance(table, dict):
        raise ValueError(f'{file}: {given[0]} is no table; write {{"1": 150, "8": 950, "64": 4900}}')
    table = cast("dict[str, Any]", table)
    steps = _steps(table, f"{file}: {given[0]}", rates=given[0] == "tokens_per_second")
    reading, context = (
        0.0 if told.get(name, 0) == 0 else positive(told[name], f"{file}: {name}")
        for name in ("read_seconds", "context_seconds")
    )
    slots = positive(told.get("slots", _largest(table)), f"{file}: slots")
    if slots != int(slots):
        raise ValueError(f"{file}: slots: {slots} is no whole number")
    lengths = told.get("lengths")
    price = told.get("price_per_hour")
    return Model(
        str(told.get("name", Path(file).stem)),
        Costs(steps, reading, context),
        int(slots),
        None if lengths is None else _quantiles(lengths, f"{file}: lengths"),
        None if price is None else positive(price, f"{file}: price_per_hour"),
        f"as {file} says",
    )


def _largest(table: dict[str, Any]) -> int:
    return max(int(batch) for batch in table)


def _steps(table: dict[str, Any], where: str, *, rates: bool) -> tuple[tuple[int, float], ...]:
    """Seconds of a step by chains at once, from those or from tokens a second. Raises `ValueError` for a table that no
    engine could have."""
    found: list[tuple[int, float]] = []
    for batch, value in table.items():
        if not (str(batch).isdecimal() and int(batch) > 0):
            raise ValueError(f"{where}: {batch!r} is no number of chains at once")
        number = positive(value, f"{where}, {batch} at once")
        found.append((int(batch), int(batch) / number if rates else number))
    if not found:
        raise ValueError(f"{where}: there is nothing in it")
    found.sort()
    for (few, short), (many, long) in pairwise(found):
        if few == many:
            raise ValueError(f"{where}: {few} stands there twice")
        if long < 0.9 * short:
            raise ValueError(
                f"{where}: a step with {many} chains would take {long:.4g} s, less than the {short:.4g} s with {few}; "
                "are these tokens a second of one chain, or of all together?"
            )
    return tuple(found)


def _quantiles(told: Any, where: str) -> tuple[float, float]:
    if isinstance(told, dict):
        table = cast("dict[str, Any]", told)
        told = [table.get("p50"), table.get("p90")]
    if not isinstance(told, list) or len(cast("list[Any]", told)) != 2:
        raise ValueError(f'{where}: write {{"p50": 800, "p90": 3700}}')
    p50, p90 = (positive(one, where) for one in cast("list[Any]", told))
    if p90 < p50:
        raise ValueError(f"{where}: p90 {p90:g} is below p50 {p50:g}")
    return p50, p90


def lengths(text: str) -> tuple[float, float]:
    """`P50,P90` in tokens. Raises `ValueError`."""
    return _quantiles(text.split(","), f"--lengths {text}")


def pool(file: Path) -> Pool:
    """Recorded samples (`docs/pools.md`). Raises `ValueError` and `OSError`."""
    try:
        questions = asyncio.run(read(file.read_text()))
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from None
    questions = [question for question in questions if question.samples]
    if not questions:
        raise ValueError(f"{file}: there is no question with samples")
    return Pool(questions)


def kind(
    text: str,
    chains: Lengths,
    budget: float | None,
    *,
    prompt: int,
    policy: Policy = BUILT_IN,
    judged: bool = False,
) -> Kind:
    """Requests of a strategy as it was typed, `auto:n=16@0.2` with its share of all. A chain is cut at its part of the
    budget. Raises `ValueError`."""
    typed, at, share = text.partition("@")
    strategy = Setup.of(typed).selection().call
    wanted = most(strategy, policy)
    usual = chains.p90 if isinstance(chains, LogNormal) else _p90(chains)
    fed = wanted if budget is None else max(1, min(wanted, int(budget / (NEVER_STARVE * usual))))
    longest = math.inf if budget is None else budget / fed
    if isinstance(chains, LogNormal | Pool):
        chains = replace(chains, longest=min(chains.longest, longest))
    try:
        pattern = of(strategy, policy, fed, judged=judged)
    except ValueError as error:
        raise ValueError(f"{typed}: {error}") from None
    part = positive(share, f"{text}, the share behind @") if at else 1.0
    return Kind(pattern, chains, part, typed, prompt=prompt, most=longest)


def _p90(chains: Lengths) -> float:
    if not isinstance(chains, Pool):
        return chains.mean
    tokens = sorted(sample.tokens for question in chains.questions for sample in question.samples)
    return tokens[int(0.9 * (len(tokens) - 1))]
