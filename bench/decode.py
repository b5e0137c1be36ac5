"""What a step of the engine takes by chains at once and by the length of their contexts, and what reading takes.

    python -m bench.decode --model MODEL --json bench/results/decode-NAME.json

The engine is started as `ponder serve MODEL` starts it and asked in this process, with nothing of ours between. Prompts
are random tokens, each its own. They are read first; then all chains go on from the prefix cache at once, each writes
`--tokens` tokens, and what counts is the time in which all of them write: from the first token of the last to begin to
the last token of the first to end, by the engine's own clock. Reading is timed with prompts that nobody has read.

The last lines fit `seconds of a step = base(chains) + context x tokens in all contexts`, which is what `ponder plan`
goes by (docs/scaling.md). Cells whose contexts do not fit the key-value cache are left out.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import random
import statistics
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import Any

import uvloop

from bench.machine import describe, keep
from bench.start_engines import pair


@dataclass(frozen=True)
class Cell:
    """Chains that write at once, each behind a context of so many tokens."""

    chains: int
    context: int
    """Tokens in one context, half-way through what was written."""
    step: float
    """Seconds, the median over rounds."""
    rounds: list[float] = field(default_factory=list[float])

    @property
    def rate(self) -> float:
        """Tokens a second of all together."""
        return self.chains / self.step


@dataclass(frozen=True)
class Reading:
    """So many prompts of so many tokens, read at once."""

    prompts: int
    tokens: int
    seconds: float

    @property
    def each(self) -> float:
        """Seconds a token."""
        return self.seconds / (self.prompts * self.tokens)


class Asking:
    """Calls of vLLM's engine, numbered."""

    def __init__(self, llm: Any) -> None:
        self._llm = llm
        self._numbers = itertools.count()

    async def written(self, ids: Sequence[int], tokens: int) -> list[tuple[float, int]]:
        """When so many tokens were made behind these, by the engine's clock, and how many at each time."""
        from vllm.inputs import TokensPrompt
        from vllm.sampling_params import RequestOutputKind, SamplingParams

        params = SamplingParams(
            temperature=1.0, max_tokens=tokens, ignore_eos=True, detokenize=False, output_kind=RequestOutputKind.DELTA
        )
        made: list[tuple[float, int]] = []
        prompt = TokensPrompt(prompt_token_ids=list(ids))
        async for out in self._llm.generate(prompt, params, f"decode-{next(self._numbers)}"):
            made.append((out.metrics.last_token_ts, len(out.outputs[0].token_ids)))
        return made

    async def together(self, prompts: Sequence[Sequence[int]], tokens: int) -> list[list[tuple[float, int]]]:
        """The same for all of these at once."""
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self.written(ids, tokens)) for ids in prompts]
        return [task.result() for task in tasks]


def step_seconds(chains: Sequence[Sequence[tuple[float, int]]]) -> float:
    """Seconds of a step while all chains write. Raises `ValueError` where there was no such time."""
    begin = max(made[0][0] for made in chains)
    end = min(made[-1][0] for made in chains)
    tokens = sum(count for made in chains for when, count in made if begin < when <= end)
    if end <= begin or tokens < len(chains):
        raise ValueError("the first chain had ended when the last began: ask for more --tokens")
    return (end - begin) * len(chains) / tokens


def fitted(cells: Sequence[Cell]) -> tuple[dict[int, float], float]:
    """`base(chains)` and `context` of the line that is nearest to the cells, by least squares of relative errors."""
    import numpy

    batches = sorted({cell.chains for cell in cells})
    rows = [[float(cell.chains == batch) for batch in batches] + [float(cell.chains * cell.context)] for cell in cells]
    weights = numpy.array([1 / cell.step for cell in cells])
    found: Any = numpy.linalg.lstsq(numpy.array(rows) * weights[:, None], numpy.ones(len(cells)), rcond=None)[0]
    return {batch: float(found[i]) for i, batch in enumerate(batches)}, float(found[-1])


def room(llm: Any) -> int:
    """Tokens that the key-value cache holds."""
    config = llm.vllm_config.cache_config
    return int(config.num_gpu_blocks or 0) * int(config.block_size)


async def measure(args: argparse.Namespace) -> None:
    head = describe()
    print(f"{head['machine']}\n{head['versions']}\n", flush=True)
    chance = random.Random(args.seed)
    settings = {"max_num_seqs": max(args.chains)} | args.engine
    longest = max([*args.contexts, *args.read]) + args.tokens + 16
    async with pair(args.model, None, context=longest, more=settings) as (engine, _):
        until = time.monotonic() + args.seconds if args.seconds else float("inf")
        asking, held = Asking(engine.llm), room(engine.llm)
        words = int(engine.llm.model_config.get_vocab_size())

        def fresh(tokens: int) -> list[int]:
            return [chance.randrange(words) for _ in range(tokens)]

        print(f"the key-value cache holds {held:,} tokens", flush=True)
        await asking.together([fresh(64) for _ in range(8)], 16)
        readings = await _read(asking, fresh, args)
        cells = await _cells(asking, fresh, held, until, args)
    line, per = fitted(cells) if len({cell.context for cell in cells}) > 1 else ({}, 0.0)
    for batch, base in line.items():
        print(f"{batch:4} chains: {1000 * base:7.2f} ms a step without context, {batch / base:7.0f} tokens/s")
    print(f"a token of a context: {1e9 * per:.1f} ns of a step")
    off = [abs(line[c.chains] + per * c.chains * c.context - c.step) / c.step for c in cells if line]
    print(f"the line is off by {100 * max(off, default=0):.0f} % at most")
    result = {
        "model": args.model,
        "engine": settings,
        "cache_tokens": held,
        "tokens": args.tokens,
        "cells": [asdict(cell) | {"tokens_per_second": cell.rate} for cell in cells],
        "reading": [asdict(one) | {"read_seconds": one.each} for one in readings],
        "fit": {"step_seconds": line, "context_seconds": per, "off_at_most": max(off, default=0)},
    }
    keep({**head, **result}, args.json)


async def _read(asking: Asking, fresh: Any, args: argparse.Namespace) -> list[Reading]:
    """Each size of prompt alone, and as many at once as have `--read-at-once` tokens."""
    readings: list[Reading] = []
    print(f"\n{'prompts':>8} {'tokens':>8} {'seconds':>8} {'tokens/s':>9}")
    for tokens in args.read:
        for prompts in sorted({1, max(1, args.read_at_once // tokens)}):
            seconds: list[float] = []
            for _ in range(args.rounds):
                asked = [fresh(tokens) for _ in range(prompts)]
                began = time.perf_counter()
                await asking.together(asked, 1)
                seconds.append(time.perf_counter() - began)
            readings.append(Reading(prompts, tokens, statistics.median(seconds)))
            print(f"{prompts:8} {tokens:8} {seconds[-1]:8.3f} {1 / readings[-1].each:9.0f}", flush=True)
    return readings


async def _cells(asking: Asking, fresh: Any, held: int, until: float, args: argparse.Namespace) -> list[Cell]:
    """The longest contexts first: shorter ones begin them, so that they are in the prefix cache already."""
    prompts: list[list[int]] = []
    cells: list[Cell] = []
    print(f"\n{'chains':>8} {'context':>8} {'ms a step':>10} {'tokens/s':>9}   rounds")
    for context in sorted(args.contexts, reverse=True):
        fitting = [n for n in sorted(args.chains, reverse=True) if n * (context + args.tokens) <= 0.95 * held]
        for chains in fitting:
            if time.monotonic() > until:
                print("out of time")
                return cells
            prompts += [fresh(context) for _ in range(chains - len(prompts))]
            asked = [prompt[:context] for prompt in prompts[:chains]]
            await asking.together(asked, 1)
            seconds: list[float] = []
            for _ in range(args.rounds):
                with suppress(ValueError):
                    seconds.append(step_seconds(await asking.together(asked, args.tokens)))
            if not seconds:
                print(f"{chains:8} {context:8}   the first chain had ended when the last began: more --tokens")
                continue
            cells.append(Cell(chains, context + args.tokens // 2, statistics.median(seconds), seconds))
            each = " ".join(f"{1000 * one:.2f}" for one in seconds)
            print(f"{chains:8} {context:8} {1000 * cells[-1].step:10.2f} {cells[-1].rate:9.0f}   {each}", flush=True)
    return cells


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="models/demo", help="a folder or a hub id (%(default)s)")
    parser.add_argument("--chains", type=int, nargs="+", default=[1, 8, 32, 64, 128, 256])
    parser.add_argument("--contexts", type=int, nargs="+", default=[300, 2000, 8000, 16000], help="tokens of a prompt")
    parser.add_argument("--tokens", type=int, default=128, help="that each chain writes (%(default)s)")
    parser.add_argument("--read", type=int, nargs="+", default=[1000, 4000, 16000], help="tokens of prompts to read")
    parser.add_argument("--read-at-once", type=int, default=32000, help="tokens of all prompts together (%(default)s)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, help="no cell begins later than this, counted from the engine's start")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--engine", type=json.loads, default={}, help="settings of the engine, a JSON object")
    parser.add_argument("--json")
    uvloop.run(measure(parser.parse_args()))


if __name__ == "__main__":
    main()
