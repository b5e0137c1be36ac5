"""What keeps a beam search below raw tokens a second: the same chains with one more of its parts in each row.

    python -m bench.search_costs --model MODEL --prm PRM --json bench/results/search_costs-NAME.json

Eight questions at a time with eight chains each, from one engine with its reward model beside it, by turns:

| row | |
|---|---|
| raw | each chain in one call of vLLM's |
| calls | each chain in as many calls as it has steps, each of which goes on from the last |
| calls, read | the same, and the reward model reads the chain after each step |
| calls, abreast | the same without the reward model; a question's chains wait for one another after each step |
| calls, read, abreast | both |
| beam search, free | `beam_search(8x2)` with a verifier that costs nothing and knows nothing |
| beam search, prm | `beam_search(8x2)` as it is |

Up to the last two there is nothing of Ponder's. "steps/s" are the engine's own; "in a step" is how many tokens it draws
in one. Tokens a second are their product.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import random
import statistics
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, ClassVar

import uvloop

from bench.engine_use import rate, raw, standing
from bench.machine import describe, interval, keep
from bench.start_engines import pair
from bench.strategies import Setup, answer
from ponder.compute.run import Run
from ponder.compute.text import Candidate, Message, Prompt, Score
from ponder.engines.vllm import VllmEngine
from ponder.models.task import Problem, make
from ponder.verifiers import VERIFIERS

CHAINS = 8
STEP = 64
"""Tokens of a step at most, as in the search."""


class Free:
    """A verifier that costs nothing: a number that follows from the chain, and says nothing of it."""

    needs_likelihood: ClassVar[bool] = False

    async def __call__(self, run: Run, candidates: Sequence[Candidate]) -> Sequence[Score]:
        return [Score(random.Random(hash(tuple(c.ids.unseal()))).random()) for c in candidates]


class Stepwise:
    """Chains of one question in calls of one step each, straight from the engine."""

    def __init__(self, engine: VllmEngine, reader: Any, longest: int) -> None:
        self._engine, self._reader, self._longest = engine, reader, longest
        self._numbers = itertools.count()

    async def chains(self, problem: Problem, *, read: bool, abreast: bool) -> int:
        """Tokens of them all."""
        prompt = Prompt((Message("user", problem.question),))
        ids = list(self._engine.model.prompts.render(prompt, thinking=True).ids)
        if not abreast:
            return sum(await asyncio.gather(*(self._chain(list(ids), read) for _ in range(CHAINS))))
        chains = [list(ids) for _ in range(CHAINS)]
        made = 0
        going: list[int] = list(range(CHAINS))
        while going:
            ended: list[bool] = []
            for tokens, over in await asyncio.gather(*(self._step(chains[i], len(ids), read) for i in going)):
                made += tokens
                ended.append(over)
            going = [i for i, over in zip(going, ended, strict=True) if not over]
        return made

    async def _chain(self, ids: list[int], read: bool) -> int:
        made, over, begun = 0, False, len(ids)
        while not over:
            tokens, over = await self._step(ids, begun, read)
            made += tokens
        return made

    async def _step(self, ids: list[int], begun: int, read: bool) -> tuple[int, bool]:
        """One step more of a chain; returns its tokens, and whether the chain is over."""
        from vllm.inputs import TokensPrompt
        from vllm.sampling_params import RequestOutputKind, SamplingParams

        left = self._longest - (len(ids) - begun)
        params = SamplingParams(
            temperature=1.0,
            max_tokens=min(STEP, left),
            stop_token_ids=list(self._engine.model.step_stops),
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        before, number = len(ids), f"step-{next(self._numbers)}"
        ended = False
        async for out in self._engine.llm.generate(TokensPrompt(prompt_token_ids=list(ids)), params, number):
            ids += out.outputs[0].token_ids
            # A stop that names no token is the model's own end.
            ended = out.outputs[0].finish_reason == "stop" and out.outputs[0].stop_reason is None
        if read:
            await self._reader.read(ids, (), None)
        return len(ids) - before, ended or len(ids) - begun >= self._longest


async def measure(args: argparse.Namespace) -> None:
    head = describe()
    print(
        f"{args.questions} questions, {args.at_a_time} at a time, {args.rounds} rounds\n{head['machine']}", flush=True
    )
    VERIFIERS["free"] = Free
    chance = random.Random(7)
    problems = [make(chance, "test", 2 + i % 9) for i in range(args.questions)]
    numbers = itertools.count()
    async with pair(args.model, args.prm, args.tail_cache, None, args.engine) as (engine, resources):
        judge: Any = resources.reward_model
        stepwise = Stepwise(engine, None if judge is None else judge.model.reader, args.longest)

        async def straight(i: int) -> int:
            return await raw(engine, problems[i], next(numbers), CHAINS, args.longest)

        async def search(verifier: str, i: int) -> int:
            setup = Setup("search", "beam_search", {"beams": CHAINS, "width": 2}, verifier)
            return (await answer(problems[i], None, setup, resources)).generated

        def stepped(i: int, *, read: bool, abreast: bool) -> Awaitable[int]:
            return stepwise.chains(problems[i], read=read, abreast=abreast)

        rows: dict[str, Callable[[int], Awaitable[int]]] = {
            "raw": straight,
            "calls": partial(stepped, read=False, abreast=False),
            "calls, abreast": partial(stepped, read=False, abreast=True),
            "beam search, free": partial(search, "free"),
        }
        if judge is not None:
            rows |= {
                "calls, read": partial(stepped, read=True, abreast=False),
                "calls, read, abreast": partial(stepped, read=True, abreast=True),
                "beam search, prm": partial(search, "prm"),
            }
        found: dict[str, list[tuple[float, float, float, float]]] = {name: [] for name in rows}
        for number in range(args.rounds + 1):
            for name, draw in list(rows.items())[:: 1 if number % 2 else -1]:
                before = standing(engine.card.name)
                speed = await rate(draw, args.questions, args.at_a_time)
                now = standing(engine.card.name)
                tokens, steps, busy, seconds = (b - a for a, b in zip(before, now, strict=True))
                if number:  # the first round warms up
                    found[name].append((speed, tokens / steps, steps / seconds, busy / seconds))
    print(f"\n{'':24} {'tok/s':>7} {'of raw':>7} {'95 %':>13} {'in a step':>10} {'steps/s':>8} {'cores':>6}")
    record: list[dict[str, Any]] = []
    for name, rounds in found.items():
        ratios = [ours[0] / theirs[0] for ours, theirs in zip(rounds, found["raw"], strict=True)]
        low, high = interval(ratios)
        speed, inside, steps, cores = (statistics.median(column) for column in zip(*rounds, strict=True))
        print(
            f"{name:24} {speed:7.0f} {statistics.median(ratios):7.3f} {low:6.3f}-{high:6.3f}",
            f"{inside:10.1f} {steps:8.1f} {cores:6.1f}",
        )
        row = {"name": name, "ratio": statistics.median(ratios), "interval": (low, high), "rounds": rounds}
        record.append(row | {"tokens_per_second": speed, "tokens_in_a_step": inside, "steps_per_second": steps})
    given = {name: getattr(args, name) for name in ("model", "prm", "questions", "at_a_time", "tail_cache", "engine")}
    keep({**head, **given, "rounds": args.rounds, "rows": record}, args.json)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="models/demo")
    parser.add_argument("--prm", help="a reward model; without it, its rows are left out")
    parser.add_argument("--questions", type=int, default=16)
    parser.add_argument("--at-a-time", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--longest", type=int, default=512, help="tokens of a chain at most")
    parser.add_argument("--tail-cache", action=argparse.BooleanOptionalAction, help="keep half-full blocks, or do not")
    parser.add_argument("--engine", type=json.loads, default={}, help="settings of both engines, a JSON object")
    parser.add_argument("--json")
    uvloop.run(measure(parser.parse_args()))


if __name__ == "__main__":
    main()
