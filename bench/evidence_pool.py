"""Records the demo's chains with the likelihood of every token, and what they would answer after every eighth token.

    python -m bench.evidence_pool demo.jsonl
    ponder replay demo.jsonl --prior 60,110 --strategies auto:n=24:evidence=votes auto:n=24 auto:n=24:evidence=all

`ponder record` writes such pools from any server, with windows of likelihood instead of tokens: this one is for a model
whose whole chain is no longer than such a window. Questions are of the test side, of another seed than those of
`bench.evidence`; temperature 1. Only the first of a question's chains are probed.
"""

from __future__ import annotations

import argparse
import asyncio
import random
from contextlib import aclosing
from pathlib import Path

import uvloop

from bench.start_engines import pair
from ponder.compute.budget import Budget, Spending
from ponder.compute.engine import Engine, Sampling
from ponder.compute.text import Candidate, Hidden, Message, Prompt
from ponder.compute.transcript import Transcript
from ponder.engines.pools import RecordedQuestion, RecordedSample, line
from ponder.models.task import Problem, make, read_answer

THOUGHT, ANSWER, PROBE = 512, 64, 16
"""Tokens of a thought, of its answer, and of what a half-written chain answers, at most."""


class Recorder:
    """Draws chains of one engine, so many at a time."""

    def __init__(self, engine: Engine, at_once: int) -> None:
        self._engine, self._gate = engine, asyncio.Semaphore(at_once)
        self._spending = Spending(Budget(1 << 50, 1 << 50))

    async def draw(self, prompt: Prompt, thinking: int, answer: int, begun: Candidate | None = None) -> Candidate:
        """One chain, or the answer of one that has begun."""
        sampling = Sampling(thinking, answer, likelihood=True)
        async with self._gate:
            with self._spending.reserve("sample", thinking=thinking, answer=answer) as reservation:
                transcript = Transcript(reservation, prompt, begun)
                async with aclosing(self._engine.generate(prompt, sampling, transcript)) as stream:
                    async for _ in stream:
                        pass
                return transcript.candidate()

    async def sample(self, prompt: Prompt, every: int | None) -> RecordedSample:
        """A chain, and what it answers each `every` tokens of its thought."""
        whole = await self.draw(prompt, THOUGHT, ANSWER)
        probes: list[tuple[int, str | None]] = []
        for place in range(every, whole.hidden, every) if every else ():
            ids = Hidden(whole.ids.unseal()[:place])
            begun = Candidate(whole.number, prompt, ids, whole.thought, "", 0, 0, True, "length")
            probe = await self.draw(prompt, 0, PROBE, begun)
            probes.append((place, _said(probe) or None))
        return RecordedSample(
            answer=_said(whole),
            tokens=whole.tokens,
            visible=whole.visible,
            likelihood=tuple(round(one, 3) for one in whole.likelihood.unseal()),
            probes=tuple(probes),
        )

    async def question(self, name: str, problem: Problem, samples: int, probed: int, every: int) -> str:
        """A line of a pool."""
        prompt = Prompt((Message("user", problem.question),))
        async with asyncio.TaskGroup() as group:
            drawn = [group.create_task(self.sample(prompt, every if i < probed else None)) for i in range(samples)]
        recorded = tuple(one.result() for one in drawn)
        asked = RecordedQuestion(
            id=name,
            question=problem.question,
            answer=str(problem.answer),
            prompt_tokens=self._engine.length(prompt),
            likelihood_window=1,
            samples=recorded,
        )
        return line(asked)


def _said(chain: Candidate) -> str:
    """Its answer; empty where it came to none."""
    number = read_answer(chain.text) if chain.complete else None
    return "" if number is None else str(number)


async def record(args: argparse.Namespace) -> None:
    chance = random.Random(args.seed)
    problems = [make(chance, "test", 2 + i % 9) for i in range(args.questions)]
    async with pair(args.model, None) as (_, resources):
        recorder = Recorder(resources.engine, args.parallel)
        with args.pool.open("w") as pool:
            for i, problem in enumerate(problems):
                pool.write(await recorder.question(str(i), problem, args.samples, args.probed, args.every))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pool", type=Path)
    parser.add_argument("--questions", type=int, default=300)
    parser.add_argument("--samples", type=int, default=24)
    parser.add_argument("--probed", type=int, default=8, help="samples of each question that are probed")
    parser.add_argument("--every", type=int, default=8, help="tokens between two probes")
    parser.add_argument("--seed", type=int, default=4242)
    parser.add_argument("--parallel", type=int, default=64, help="chains at a time")
    parser.add_argument("--model", default="models/demo")
    uvloop.run(record(parser.parse_args()))


if __name__ == "__main__":
    main()
