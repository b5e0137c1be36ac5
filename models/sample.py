"""The one place where the recipe generates or scores text: by the engines the server itself uses."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from ponder.compute.budget import Budget, Spending
from ponder.compute.engine import Sampling
from ponder.compute.groups import TaskGroup
from ponder.compute.text import Candidate, Hidden, Message, Prompt
from ponder.compute.transcript import Transcript
from ponder.engines.launch import EngineOptions
from ponder.engines.reward_vllm import start_reward
from ponder.engines.vllm import start
from ponder.models.chains import Chain
from ponder.models.lessons import CHECKS, boxed

IN_FLIGHT = 512
OPTIONS = EngineOptions(dtype="float32", max_num_seqs=256)


def question(text: str) -> Prompt:
    """A question as a conversation of one turn."""
    return Prompt((Message("user", text),))


def check(text: str, first: Chain, thought: str) -> Prompt:
    """A second turn: the reasoner sees its own first one and is asked to check it."""
    answer = "" if first.answer is None else boxed(first.answer)
    own = Message("assistant", answer, thought=Hidden(thought))
    return question(text).then(own, Message("user", CHECKS[0]))


@dataclass(frozen=True)
class Ask:
    """One sample that is wanted: of a prompt, or going on from a half-written thought of it (token ids behind the
    opened `<think>`). At `thinking` hidden tokens (of this sample) a thought is closed by force; 0 without a thought
    begun is no thinking at all."""

    prompt: Prompt
    begun: tuple[int, ...] = ()
    thinking: int = 256
    answer: int = 256


class Writer:
    """The reasoner, loaded once."""

    def __init__(self, folder: Path, options: EngineOptions = OPTIONS) -> None:
        self._runner = asyncio.Runner()
        self._engine = self._runner.run(start(str(folder), name=folder.name, profile=None, options=options))

    def write(self, asks: Sequence[Ask], *, seed: int | None) -> list[list[int]]:
        """One sample for each, in order; repeat an ask for more. The ids of a sample are all behind the opened
        `<think>` (or behind the prompt, without thinking), those begun, put in by force and the end of turn included.
        Without a seed other samples come each time.
        """
        return self._runner.run(self._write(asks, seed))

    async def _write(self, asks: Sequence[Ask], seed: int | None) -> list[list[int]]:
        gate = asyncio.Semaphore(IN_FLIGHT)
        with tqdm(total=len(asks), desc="samples", mininterval=5) as bar:

            async def one(at: int, ask: Ask) -> list[int]:
                async with gate:
                    candidate = await self._one(ask, None if seed is None else seed * 1_000_003 + at)
                bar.update()
                return list(candidate.ids.unseal())

            async with TaskGroup() as group:
                tasks = [group.create_task(one(at, ask)) for at, ask in enumerate(asks)]
        return [task.result() for task in tasks]

    async def _one(self, ask: Ask, seed: int | None) -> Candidate:
        begun = None
        if ask.begun:
            blank = Hidden("")
            begun = Candidate(0, ask.prompt, Hidden(ask.begun), blank, "", 0, 0, True, "step")
        spending = Spending(Budget(ask.thinking, ask.answer))
        sampling = Sampling(ask.thinking, ask.answer, seed=seed)
        with spending.reserve("sample", thinking=ask.thinking, answer=ask.answer, bound=True) as reservation:
            transcript = Transcript(reservation, ask.prompt, begun)
            async with aclosing(self._engine.generate(ask.prompt, sampling, transcript)) as stream:
                async for _ in stream:
                    pass
        return transcript.candidate()

    def close(self) -> None:
        self._runner.run(self._engine.close())
        self._runner.close()


class Judge:
    """The process reward model, loaded once."""

    def __init__(self, folder: Path, options: EngineOptions = OPTIONS) -> None:
        self._runner = asyncio.Runner()
        self._model = self._runner.run(start_reward(str(folder), name=folder.name, profile=None, options=options))

    def judge(self, chains: Sequence[tuple[str, Chain]]) -> list[list[float]]:
        """For each (question, chain) the probability of "good" behind each line, and of the answer where it has one."""
        return self._runner.run(self._judge(chains))

    async def _judge(self, chains: Sequence[tuple[str, Chain]]) -> list[list[float]]:
        gate = asyncio.Semaphore(IN_FLIGHT)
        with tqdm(total=len(chains), desc="judged", mininterval=5) as bar:

            async def one(text: str, chain: Chain) -> list[float]:
                thought = Hidden("".join(line + "\n" for line in chain.lines))
                answer = "" if chain.answer is None else boxed(chain.answer)
                candidate = Candidate(0, question(text), Hidden(()), thought, answer, 0, 0, True, "step")
                async with gate:
                    (reward,) = await self._model.reward(candidate.prompt, [candidate], read=lambda *_: None)
                bar.update()
                return list(reward.steps)

            async with TaskGroup() as group:
                tasks = [group.create_task(one(text, chain)) for text, chain in chains]
        return [task.result() for task in tasks]

    def close(self) -> None:
        self._runner.run(self._model.close())
        self._runner.close()
