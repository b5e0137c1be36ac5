"""How much of the engine's speed the strategies use: their tokens per second against tokens drawn raw from `AsyncLLM`.

    python -m bench.engine_use --json bench/results/engine_use.json
    python -m bench.engine_use --model smollm2 --json bench/results/engine_use-smollm2.json

Both draw from one engine in one process, by turns in many short rounds (a machine's speed drifts within seconds),
unseeded (as requests come; on a CPU a seed of its own slows every request). Raw: as many concurrent
`AsyncLLM.generate` calls as the strategy has chains, on the same prompts, with nothing of ours between. Beam search
also runs its process reward model in between, and its tokens do not count as drawn. "read again" is how many tokens of
chains the model had to read once more for each it drew. "in a step" is how many tokens the engine draws in one of its
steps, and when raw: much of what a step costs is the same for one chain as for many. "cores" is how many are kept busy
by all processes together, and when raw. A second table shows that cost grows linearly with n.

The demo models are tiny: what is fixed about a call weighs more than the tokens. `--layers 44` lays layers on top that
change nothing but the cost (`bench/pad_layers.py`): the same chains, at what a larger model takes. A model that has no
reward model has its beams judged by its own confidence, and chains of as many tokens at most as the raw ones.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import statistics
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psutil
import uvloop
from prometheus_client.parser import text_string_to_metric_families

from bench.machine import describe, interval, keep
from bench.pad_layers import pad_layers
from bench.start_engines import pair
from bench.strategies import Setup, answer, wanted
from ponder.compute.text import Message, Prompt
from ponder.engines import vllm
from ponder.engines.launch import metrics_text
from ponder.models.task import Problem, make


@dataclass(frozen=True)
class Case:
    """A strategy, how many requests at a time, how many raw streams each is held against, and the least ratio."""

    setup: Setup
    requests: int
    streams: int
    target: float


def cases(judge: str) -> list[Case]:
    """The beams of a search are judged by this verifier."""
    beams = {"beams": 8, "width": 2}
    return [
        Case(Setup("best_of_n(16)", "best_of_n", {"n": 16}), 1, 16, 0.97),
        Case(Setup("majority_vote(16), full", "majority_vote", {"n": 16, "first": 16, "confidence": 1}), 1, 16, 0.97),
        Case(Setup(f"beam_search(8x2, {judge}), alone", "beam_search", beams, judge), 1, 8, 0.60),
        Case(Setup(f"beam_search(8x2, {judge}), 8 at a time", "beam_search", beams, judge), 8, 64, 0.80),
    ]


DEMO = "models/demo"
PROMPT = 192
"""Tokens that are left for the prompt where the chains are kept short."""


async def raw(engine: vllm.VllmEngine, problem: Problem, seed: int, n: int, longest: int) -> int:
    """Tokens of `n` chains of one question, each of so many at most, straight from the engine."""
    from vllm.inputs import TokensPrompt
    from vllm.sampling_params import RequestOutputKind, SamplingParams

    ids = engine.model.prompts.render(Prompt((Message("user", problem.question),)), thinking=True).ids

    async def one(i: int) -> int:
        params = SamplingParams(
            temperature=1.0, max_tokens=longest, detokenize=False, output_kind=RequestOutputKind.FINAL_ONLY
        )
        made = 0
        async for out in engine.llm.generate(TokensPrompt(prompt_token_ids=list(ids)), params, f"raw-{seed}-{i}"):
            made += len(out.outputs[0].token_ids)
        return made

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one(i)) for i in range(n)]
    return sum(task.result() for task in tasks)


async def rate(draw: Callable[[int], Awaitable[int]], questions: int, at_a_time: int) -> float:
    """Tokens per second over so many questions."""
    gate = asyncio.Semaphore(at_a_time)

    async def one(i: int) -> int:
        async with gate:
            return await draw(i)

    begun = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one(i)) for i in range(questions)]
    return sum(task.result() for task in tasks) / (time.perf_counter() - begun)


def standing(model: str) -> tuple[float, float, float, float]:
    """So far: tokens the engine has drawn, its steps, processor seconds of this process and its children, the clock."""
    samples = [
        sample
        for family in text_string_to_metric_families(metrics_text().decode())
        for sample in family.samples
        if sample.labels.get("model_name") == model
    ]
    names = ("vllm:generation_tokens_total", "vllm:iteration_tokens_total_count")
    tokens, steps = (sum(sample.value for sample in samples if sample.name == name) for name in names)
    me = psutil.Process()
    busy = sum(times.user + times.system for times in (one.cpu_times() for one in [me, *me.children(recursive=True)]))
    return tokens, steps, busy, time.perf_counter()


async def measure(args: argparse.Namespace) -> None:
    head = describe()
    print(f"{args.questions} questions of 2 to 10 steps, {args.rounds} rounds\n{head['machine']}\n{head['versions']}\n")
    record: dict[str, Any] = {**head, "questions": args.questions, "rounds": args.rounds}
    record |= {
        "model": args.model,
        "layers": args.layers,
        "prm_layers": args.prm_layers,
        "tail_cache": args.tail_cache,
        "engine": args.engine,
        "cases": [],
        "growth": [],
    }
    chance = random.Random(args.seed)
    problems = [make(chance, "test", 2 + i % 9) for i in range(args.questions)]
    numbers = iter(range(1_000_000))
    read_again: list[float] = []
    async with AsyncExitStack() as stack:
        demo = args.model in ("demo", DEMO)
        prm = args.prm or (f"{DEMO}-prm" if demo else None)

        def laid(folder: str, layers: int) -> str:
            into = Path(stack.enter_context(TemporaryDirectory())) / Path(folder).name
            return str(pad_layers(Path(folder), layers, into)) if layers else folder

        model = laid(args.model, args.layers)
        judge = laid(prm, args.prm_layers) if prm else None
        longest = args.longest or (512 if demo else 128)
        context = None if demo else longest + PROMPT
        engine, resources = await stack.enter_async_context(pair(model, judge, args.tail_cache, context, args.engine))

        async def strategy(setup: Setup, i: int) -> int:
            answered = await answer(problems[i], None, setup, resources)
            read_again.append(answered.read_again / answered.generated)
            return answered.generated

        async def straight(streams: int, i: int) -> int:
            return await raw(engine, problems[i], next(numbers), streams, longest)

        print(
            f"{'':36} {'tok/s':>7} {'raw':>7} {'ratio':>6} {'95 %':>15}",
            f"{'read again':>11} {'in a step':>11} {'cores':>7} {'target':>7}",
        )
        for case in cases("prm" if prm else "confidence"):
            if not wanted(case.setup, args.only):
                continue
            ours, theirs = partial(strategy, case.setup), partial(straight, case.streams // case.requests)
            pairs: list[tuple[float, float]] = []
            await rate(ours, args.questions, case.requests)  # to warm up
            read_again.clear()
            counted = [[0.0] * 4, [0.0] * 4]
            for number in range(args.rounds):
                turns = (ours, theirs) if number % 2 == 0 else (theirs, ours)
                rates: list[float] = []
                for draw in turns:
                    before = standing(engine.card.name)
                    rates.append(await rate(draw, args.questions, case.requests))
                    for i, (was, now) in enumerate(zip(before, standing(engine.card.name), strict=True)):
                        counted[draw is theirs][i] += now - was
                pairs.append((rates[number % 2], rates[1 - number % 2]))
            ratios = [a / b for a, b in pairs]
            ratio, (low, high) = statistics.median(ratios), interval(ratios)
            again = statistics.mean(read_again)
            strategic, straightly = (statistics.median(column) for column in zip(*pairs, strict=True))
            at_once, at_once_raw = (tokens / steps for tokens, steps, _, _ in counted)
            cores, cores_raw = (busy / seconds for _, _, busy, seconds in counted)
            verdict = "met" if ratio >= case.target else "MISSED"
            print(
                f"{case.setup.name:36} {strategic:7.0f} {straightly:7.0f} {ratio:6.3f}",
                f"{low:7.3f}-{high:7.3f} {again:11.2f} {at_once:5.1f}/{at_once_raw:5.1f} {cores:3.1f}/{cores_raw:3.1f}",
                f"{case.target:7.2f} {verdict}",
                flush=True,
            )
            figures = {"ratio": ratio, "interval": (low, high), "read_again": again, "target": case.target}
            figures |= {"tokens_in_a_step": at_once, "tokens_in_a_step_raw": at_once_raw}
            figures |= {"cores": cores, "cores_raw": cores_raw}
            record["cases"].append({"name": case.setup.name, "pairs": pairs, **figures, "verdict": verdict})
        if not args.only:
            record["growth"] = await growth(strategy, args.questions)
    keep(record, args.json)


async def growth(strategy: Callable[[Setup, int], Awaitable[int]], questions: int) -> list[dict[str, float]]:
    """What a question costs with n samples, one question at a time."""
    process = psutil.Process()
    rows: list[dict[str, float]] = []
    print(f"\n{'n':>4} {'tokens':>8} {'cpu s':>8} {'cpu ms/token':>13} {'seconds':>8} {'memory MB':>10}")
    for n in (1, 4, 16, 64):
        setup = Setup(f"majority_vote({n})", "majority_vote", {"n": n, "first": n, "confidence": 1})
        used, begun = process.cpu_times(), time.perf_counter()
        tokens = sum([await strategy(setup, i) for i in range(questions)]) / questions
        now, seconds = process.cpu_times(), (time.perf_counter() - begun) / questions
        cpu = (now.user + now.system - used.user - used.system) / questions
        memory = process.memory_info().rss / 1e6
        print(f"{n:4} {tokens:8.0f} {cpu:8.3f} {1000 * cpu / tokens:13.3f} {seconds:8.2f} {memory:10.0f}", flush=True)
        rows.append({"n": n, "tokens": tokens, "cpu_s": cpu, "seconds": seconds, "memory_mb": memory})
    print("(cpu and memory: this process, children not counted: with the engine on a CPU, without it on a GPU)")
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--model", default=DEMO, help="smollm2, a folder or a hub id (default: %(default)s)")
    parser.add_argument("--prm", help="a reward model; left out: the demo's own for the demo, none for others")
    parser.add_argument("--layers", type=int, default=0, help="laid on the model, changing nothing but its cost")
    parser.add_argument("--prm-layers", type=int, default=0, help="the same of the reward model")
    parser.add_argument(
        "--longest", type=int, help="tokens of a chain at most; left out: 512 for the demo, 128 for others"
    )
    parser.add_argument("--tail-cache", action=argparse.BooleanOptionalAction, help="keep half-full blocks, or do not")
    parser.add_argument(
        "--engine", type=json.loads, default={}, help="settings of both engines, a JSON object by their names"
    )
    parser.add_argument("--only", action="append", help="cases whose names begin so")
    parser.add_argument("--json")
    uvloop.run(measure(parser.parse_args()))


if __name__ == "__main__":
    main()
